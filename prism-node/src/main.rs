//! The `prism` command.

const _: () = assert!(
    !prism_proto::CANARIES,
    "prism is never built with the feature `canary`"
);

fn main() -> std::process::ExitCode {
    prism_node::cli::main()
}
