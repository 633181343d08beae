//! The engine of a node: supervisor, and with the word `worker` the worker.

use std::process::ExitCode;

use clap::{Args as _, Parser, Subcommand};
use lockstep_node::engine::{self, EngineOptions};

/// The engine of a Lockstep node: carries its volumes' data
///
/// Starts a worker process, watches over it and tells the other nodes when it is over. SIGTERM ends both in order: every volume
/// leaves as planned.
#[derive(Parser)]
#[command(name = "lockstep-engine", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(flatten)]
    options: Option<EngineOptions>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// The process that carries the data (started by the supervisor)
    #[command(hide = true)]
    Worker(EngineOptions),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    lockstep_node::log::start();
    let ended = match (arguments.role, arguments.options) {
        (Some(Role::Worker(options)), _) => engine::work(&options).map(engine::Ended::exit_code),
        (None, Some(options)) => {
            let supervised = engine::await_config(&options);
            let supervised = supervised.and_then(|go_on| if go_on { engine::supervise(&options) } else { Ok(()) });
            supervised.map(|()| ExitCode::SUCCESS)
        }
        (None, None) => {
            let _ = EngineOptions::augment_args(clap::Command::new("lockstep-engine")).print_help();
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
