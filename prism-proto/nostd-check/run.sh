#!/bin/sh
# Shows that the core needs neither std, nor an allocator, nor libc: links a program that has none
# of them, runs it, and looks for their symbols. Linux on x86_64.
set -eu
cd "$(dirname "$0")"
target_dir="${CARGO_TARGET_DIR:-../../target}/nostd-check"
RUSTFLAGS="-C link-arg=-nostartfiles -C link-arg=-nostdlib -C link-arg=-static -C relocation-model=static -C panic=abort -C symbol-mangling-version=v0" \
    cargo build --release --quiet --target x86_64-unknown-linux-gnu --target-dir "$target_dir"
binary="$target_dir/x86_64-unknown-linux-gnu/release/prism-nostd-check"
"$binary"
echo "runs: exit status 0"
if readelf -d "$binary" 2>/dev/null | grep NEEDED; then
    echo "FAILED: it needs shared libraries" >&2
    exit 1
fi
echo "shared libraries: none"
# v0 mangling writes a crate as <length><name>: 3std, 5alloc.
if nm "$binary" | grep -E '3std[0-9]|5alloc[0-9]|__rust_alloc|__rdl_|malloc|__libc'; then
    echo "FAILED: std, an allocator or libc is linked" >&2
    exit 1
fi
echo "symbols of std, alloc, libc: none of $(nm "$binary" | wc -l)"
size "$binary"
