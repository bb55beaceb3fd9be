#!/usr/bin/env bash
# Runs fuzz targets, each for SECONDS: fuzz/run.sh [-j JOBS] [-s SANITIZER] SECONDS [TARGET...]
#
#   -j JOBS        so many targets at once (1)
#   -s SANITIZER   address (default), or none: about twice as fast; our own code has no unsafe
#
# New inputs stay in a directory of their own under fuzz/found/, so that the corpus in the repository
# stays small; fuzz/minimise.sh takes what is worth keeping into it.
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=1
sanitizer=address
while getopts j:s: option; do
    case $option in
        j) jobs=$OPTARG ;;
        s) sanitizer=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
seconds=${1:-60}
shift || true
case $seconds in *[!0-9]*) sed -n '2,6p' "$0" >&2 && exit 2 ;; esac

all=$(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"$|\1|p' fuzz/Cargo.toml)
targets=${*:-$all}
for target in $targets; do
    grep -qxF "$target" <<<"$all" || { echo "fuzz/run.sh: no target $target; there are:" $all >&2; exit 2; }
done

if ! cargo +nightly --version >/dev/null 2>&1; then
    cat >&2 <<'END'
fuzz/run.sh: a nightly toolchain is missing: libFuzzer's instrumentation is a nightly option. With
rustup: `rustup toolchain install nightly --profile minimal`. Without one, what was found before is
still replayed by: cargo test -p prism-fuzz
END
    exit 1
fi
if ! command -v cargo-fuzz >/dev/null; then
    echo "fuzz/run.sh: installing cargo-fuzz" >&2
    cargo install cargo-fuzz --locked --debug --quiet
fi

# Line numbers in findings.
export CARGO_PROFILE_RELEASE_DEBUG=1
export RUSTC_WRAPPER=$PWD/fuzz/rustc
fuzz() { cargo +nightly fuzz "$@"; }
common=(--sanitizer "$sanitizer" --features libfuzzer)
echo "fuzz/run.sh: building" >&2
if [ "$targets" = "$all" ]; then fuzz build "${common[@]}"; else
    for target in $targets; do fuzz build "${common[@]}" "$target"; done
fi
logs=$(mktemp -d)

one() {
    local target=$1 dict=()
    mkdir -p "fuzz/found/$target" "fuzz/corpus/$target"
    [ ! -f "fuzz/dict/$target" ] || dict=("-dict=fuzz/dict/$target")
    local status=0
    fuzz run "${common[@]}" "$target" "fuzz/found/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -print_final_stats=1 \
        ${dict[@]+"${dict[@]}"} >"$logs/$target" 2>&1 || status=$?
    echo "$status" >"$logs/$target.status"
}

printf '%-16s %12s %9s %9s %9s  %s\n' target executions exec/s coverage 'new files' finding
row() {
    local target=$1 log=$logs/$1 finding=-
    [ "$(cat "$log.status")" = 0 ] || finding=$(grep -o 'artifacts/[^ ]*' "$log" | tail -n 1 || true)
    printf '%-16s %12s %9s %9s %9s  %s\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
        "$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")" \
        "$(sed -n 's/.*cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)" \
        "$(sed -n 's/^stat::new_units_added: *//p' "$log")" "$finding"
}

for target in $targets; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n || true; done
    { one "$target"; row "$target"; } &
done
wait

bad=0
for target in $targets; do
    [ "$(cat "$logs/$target.status")" = 0 ] && continue
    bad=1
    artifact=$(grep -o "fuzz/artifacts/$target/[^ ]*" "$logs/$target" | tail -n 1 || true)
    {
        echo
        echo "== $target has found something"
        grep -nE 'panicked at|ERROR: |SUMMARY: ' -A 2 "$logs/$target" | head -n 12 || tail -n 20 "$logs/$target"
        if [ -n "$artifact" ]; then
            echo "   again:      cargo +nightly fuzz run --features libfuzzer $target $artifact"
            echo "   smaller:    cargo +nightly fuzz tmin --features libfuzzer $target $artifact"
            echo "   to keep it: mkdir -p fuzz/regressions/$target, copy it there under the name of what"
            echo "               broke; from then on \`cargo test -p prism-fuzz\` replays it"
        fi
        echo "   the log:    $logs/$target"
    } >&2
done
[ "$bad" = 1 ] || rm -rf "$logs"
exit "$bad"
