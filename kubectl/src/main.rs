//! `kubectl lockstep`: what an operator asks a cluster, and the few things that are done by hand.
//!
//! It reads Lockstep's objects with the caller's own rights, and for live figures runs `lockstep` in the pod of a node's agent. It
//! changes pools' specs only; everything else that it does is done by the program in the pod, which says itself what it refuses.
#![forbid(unsafe_code)]

mod actions;
mod args;
mod bundle;
mod cluster;
mod live;
mod pools;
mod tables;
mod view;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Arguments, Command, Pool};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kubectl lockstep: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let cluster = cluster::Cluster::connect(arguments).await?;
    let output = arguments.output;
    match &arguments.command {
        Command::Status => output.print(&view::Overview::read(&cluster).await?, tables::overview),
        Command::Volumes => output.print(&view::volumes(&cluster).await?, |all| tables::volumes(all)),
        Command::Volume(which) => {
            let name = cluster.find_volume(&which.name, which.claim_namespace.as_deref()).await?;
            output.print(&view::VolumeDetails::read(&cluster, &name).await?, tables::volume)
        }
        Command::Nodes => output.print(&view::nodes(&cluster).await?, |all| tables::nodes(all)),
        Command::Node(which) => output.print(&view::NodeDetails::read(&cluster, &which.name).await?, tables::node),
        Command::Drain(drain) => actions::drain(&cluster, drain).await,
        Command::Undrain(which) => actions::undrain(&cluster, &which.name).await,
        Command::Pool(Pool::Drain(drain)) => pools::drain(&cluster, drain, output).await,
        Command::Pool(Pool::Replace(replace)) => pools::replace(&cluster, replace, output).await,
        Command::Evict(evict) => actions::evict(&cluster, evict).await,
        Command::Force(force) => actions::force(&cluster, force).await,
        Command::Bundle(to) => bundle::write(&cluster, &to.directory).await,
    }
}
