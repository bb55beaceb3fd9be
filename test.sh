#!/usr/bin/env bash
# Everything that must hold, in one command. On a fresh machine with Rust it also makes sure that
# PostgreSQL's server binaries are there: the tests start their own throwaway servers and fail,
# never skip, when they can't.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }

pg_bin() {
    local dir
    for dir in ${PRISM_PG_BIN:-} $(pg_config --bindir 2>/dev/null || true) \
        /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/opt/postgresql*/bin \
        /opt/homebrew/opt/postgresql*/bin ${PATH//:/ }; do
        [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && { echo "$dir"; return 0; }
    done
    return 1
}

install_packages() { # apt's names, dnf's, apk's, pacman's, brew's ("-": not needed there)
    local as_root=""
    [ "$(id -u)" = 0 ] || as_root="sudo"
    if command -v apt-get >/dev/null; then
        $as_root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq $1
    elif command -v dnf >/dev/null; then $as_root dnf install -y -q $2
    elif command -v apk >/dev/null; then $as_root apk add -q $3
    elif command -v pacman >/dev/null; then $as_root pacman -Sy --noconfirm $4
    elif command -v brew >/dev/null; then brew install $5
    else
        echo "test.sh: no known package manager; install these yourself and run again: $1" >&2
        return 1
    fi
}

step "PostgreSQL server binaries"
if ! pg_bin >/dev/null; then
    install_packages postgresql postgresql-server postgresql postgresql postgresql
fi
echo "$(pg_bin)"

if [ "$(uname)" = Linux ] && ! command -v strace >/dev/null; then
    step "strace (tests make single system calls of a process fail with it)"
    install_packages strace strace strace strace -
fi

on_path_of_root() { PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1" >/dev/null; }
if [ "$(uname)" = Linux ] && ! { on_path_of_root nft && on_path_of_root ip; }; then
    step "nftables and iproute2 (a test makes a network that loses packets)"
    install_packages "nftables iproute2" "nftables iproute" "nftables iproute2" "nftables iproute2" -
fi

step "formatting"
cargo fmt --all --check

step "clippy, also of the fuzz targets (what they found before is replayed with the tests)"
cargo clippy --workspace --all-targets --features prism-fuzz/libfuzzer --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Most tests wait for timers, servers and disks: the optimised programs are built meanwhile.
release_log=$(mktemp)
trap 'rm -f "$release_log"; kill -- "-$release" 2>/dev/null || true' EXIT
set -m # a group of processes of its own, to be stopped as a whole
(
    nice cargo build --release --locked --bin prism
    nice cargo build --release --locked -p prism-net --example own_loop
    nice cargo test --release --locked -p prism-sim --no-run
    nice cargo test --release --locked -p prism-sim --features canary --test canary --test exhaustive_canary --no-run
    nice ./.ci/deny install
) >"$release_log" 2>&1 </dev/null &
release=$!
set +m

step "prism-proto links without std"
./prism-proto/nostd-check/run.sh

step "tests"
./.ci/tests

step "the optimised programs are built"
wait "$release" || { cat "$release_log"; exit 1; }

step "thousands of clusters from seeds, all states of the core, what losses cost"
cargo test --release --locked -p prism-sim --test seeds --test replay --test regressions --test exhaustive --test loss_table -- --nocapture

step "every deliberate bug is noticed"
cargo test --release --locked -p prism-sim --features canary --test canary --test exhaustive_canary -- --nocapture

step "no deliberate bug is in the product"
./.ci/canaries

step "every decoder has a fuzz target"
./.ci/decoders

step "dependencies: licences, sources, known vulnerabilities"
./.ci/deny

step "the core in somebody else's loop"
cargo run --release --locked -p prism-net --example own_loop

step "demo on SQLite"
cargo run --release --locked -- demo

step "demo on PostgreSQL"
cargo run --release --locked -- demo --database postgres --loss 0.2 --updates 6000

step "the repository"
./.ci/repository

printf '\nall checks passed\n'
