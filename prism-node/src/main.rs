//! The `prism` command.

fn main() -> std::process::ExitCode {
    prism_node::cli::main()
}
