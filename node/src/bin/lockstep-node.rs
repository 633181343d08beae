//! The agent of a node.

use std::process::ExitCode;

use clap::Parser;
use lockstep_node::agent::{self, AgentOptions};

/// The agent of a Lockstep node
///
/// Keeps the node's pool, speaks with the command line over STATE_DIR/node.sock, with its engine over STATE_DIR/engine.sock and
/// with the other agents over TCP.
#[derive(Parser)]
#[command(name = "lockstep-node", version)]
struct Arguments {
    #[command(flatten)]
    options: AgentOptions,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    lockstep_node::log::start();
    match agent::run(&arguments.options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
