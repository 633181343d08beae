//! The controller's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_controller::program::main()
}
