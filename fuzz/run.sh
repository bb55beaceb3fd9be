#!/usr/bin/env bash
# Runs every fuzz target for SECONDS each: fuzz/run.sh 60
# Needs a nightly toolchain and cargo-fuzz (cargo install cargo-fuzz --locked).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
command -v cargo-fuzz >/dev/null || {
    echo "fuzz/run.sh: cargo-fuzz is missing; install it with: cargo install cargo-fuzz --locked" >&2
    exit 1
}
rustup toolchain list 2>/dev/null | grep -q nightly || {
    echo "fuzz/run.sh: a nightly toolchain is missing; install it with: rustup toolchain install nightly" >&2
    exit 1
}
for target in $(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -v '^prism-fuzz$'); do
    mkdir -p "fuzz/corpus/$target"
    log=$(mktemp)
    if ! cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -print_final_stats=1 \
        >"$log" 2>&1; then
        tail -n 60 "$log"
        echo "fuzz/run.sh: $target found something; the log is $log" >&2
        exit 1
    fi
    printf '%-16s %s\n' "$target" "$(awk '/number_of_executed_units|average_exec_per_sec/ {printf "%s ", $0}' "$log")"
    rm -f "$log"
done
