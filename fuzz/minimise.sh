#!/usr/bin/env bash
# Takes what fuzz/run.sh has found worth keeping into the corpus of the repository, the fewest files with
# the same coverage: fuzz/minimise.sh [TARGET...]
set -euo pipefail
cd "$(dirname "$0")/.."

# Of one target; the smallest first.
most_files=200
most_bytes=100000

all=$(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"$|\1|p' fuzz/Cargo.toml)
for target in ${*:-$all}; do
    mkdir -p "fuzz/found/$target" "fuzz/corpus/$target"
    merged=$(mktemp -d)
    RUSTC_WRAPPER=$PWD/fuzz/rustc CARGO_PROFILE_RELEASE_DEBUG=1 \
        cargo +nightly fuzz run --features libfuzzer "$target" "$merged" "fuzz/corpus/$target" \
        "fuzz/found/$target" -- -merge=1 >/dev/null 2>&1
    # Seeds stay, they say what they are by their names.
    find "fuzz/corpus/$target" -type f ! -name 'seed-*' -delete
    bytes=0
    # Sorted by length: many small ones tell more than one large one.
    find "$merged" -type f -printf '%s %p\n' | sort -n | head -n "$most_files" | while read -r size file; do
        bytes=$((bytes + size))
        [ "$bytes" -le "$most_bytes" ] || break
        cp "$file" "fuzz/corpus/$target/"
    done || true
    rm -rf "$merged"
    printf '%-16s %s\n' "$target" "$(du -sh --apparent-size "fuzz/corpus/$target" | cut -f 1), $(ls "fuzz/corpus/$target" | wc -l) files"
done
