//! The agent of a node.

use std::process::ExitCode;

use clap::{Args as _, Parser, Subcommand};
use lockstep_node::agent::{self, AgentOptions};
use lockstep_node::kubernetes::{self, KubernetesOptions};

/// The agent of a Lockstep node
///
/// Keeps the node's pool, speaks with the command line over STATE_DIR/node.sock, with its engine over STATE_DIR/engine.sock and
/// with the other agents over TCP.
#[derive(Parser)]
#[command(name = "lockstep-node", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(flatten)]
    options: Option<AgentOptions>,
    #[command(subcommand)]
    place: Option<Place>,
}

#[derive(Subcommand)]
enum Place {
    /// The agent of a node in a Kubernetes cluster: makes what the controller wants here, and attaches volumes for kubelet
    Kubernetes(KubernetesOptions),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    lockstep_node::log::start();
    let ended = match (arguments.place, arguments.options) {
        (Some(Place::Kubernetes(options)), _) => kubernetes::run(&options),
        (None, Some(options)) => agent::run(&options),
        (None, None) => {
            let _ = AgentOptions::augment_args(clap::Command::new("lockstep-node")).print_help();
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
