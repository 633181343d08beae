//! The holder of a node's `/dev/fuse` descriptors.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use lockstep_node::holder::{self, HolderClient, Kept};
use lockstep_node::process::Record;
use lockstep_node::state_dir::{Program, StateDir};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The holder of a Lockstep node: keeps attached devices while the engine restarts
///
/// Keeps the descriptors that the engine gives to it and gives them to the next engine, so that whoever uses a device waits instead
/// of getting errors. Ends by SIGTERM; devices whose engine is away at that moment fail.
#[derive(Parser)]
#[command(name = "lockstep-holder", version)]
struct Arguments {
    /// The node's state directory
    #[arg(long)]
    state_dir: PathBuf,
    /// Where to listen [default: holder.sock in the state directory]
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Print what the running holder has, one line of JSON each
    #[arg(long, conflicts_with = "abort")]
    list: bool,
    /// Let the running holder fail every device that it has: before the host goes down, so that no unmount waits for an engine
    #[arg(long)]
    abort: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    lockstep_node::log::start();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let state = StateDir::new(std::path::absolute(&arguments.state_dir)?);
    let socket = arguments.socket.clone().unwrap_or_else(|| state.holder_socket());
    let running = || HolderClient::connect(&socket).with_context(|| format!("ask the holder at {}", socket.display()));
    if arguments.list {
        return running()?.list()?.iter().try_for_each(print);
    }
    if arguments.abort {
        let aborted = running()?.abort()?;
        writeln!(std::io::stdout(), "{aborted} aborted")?;
        return Ok(());
    }
    // One descriptor of a volume per event loop, for as many volumes as there are.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    std::fs::create_dir_all(state.path())?;
    let record = Record::of_self()?;
    holder::serve(&socket, || {
        if let Err(error) = record.write(&state.pid_file(Program::Holder)) {
            tracing::warn!(%error, "no record of this process");
        }
        tracing::info!(socket = %socket.display(), "holder ready");
    })?;
    Ok(())
}

fn print(kept: &Kept) -> anyhow::Result<()> {
    let description = serde_json::from_slice::<serde_json::Value>(&kept.description);
    let description = description.unwrap_or_else(|_| String::from_utf8_lossy(&kept.description).into());
    let line = serde_json::json!({ "name": kept.name, "connection": kept.connection, "description": description });
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
