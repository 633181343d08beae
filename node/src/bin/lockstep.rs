//! The stand-alone command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_node::cli::run()
}
