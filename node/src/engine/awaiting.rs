//! In a cluster the agent writes the cluster file, when it knows what is in it: an engine that is there earlier waits.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::EngineOptions;
use crate::cluster::Cluster;
use crate::state_dir::StateDir;

/// How often it is looked whether the file is there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Waits until this node is in the cluster file, if the engine is one that shall run whatever happens (`--restart`). Says whether to go on:
/// not if it is told to end meanwhile.
///
/// # Errors
/// Signals cannot be waited for.
pub fn await_config(options: &EngineOptions) -> anyhow::Result<bool> {
    if !options.restart || is_there(options) {
        return Ok(true);
    }
    tracing::info!(node = options.node, "waiting for the cluster file");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // As the first process of a container it would not be ended by these otherwise.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => if is_there(options) { return Ok(true) },
                _ = terminate.recv() => return Ok(false),
                _ = interrupt.recv() => return Ok(false),
            }
        }
    })
}

/// A file that is there and wrong is not waited for: the engine says what is wrong.
fn is_there(options: &EngineOptions) -> bool {
    let file = options.config.clone().unwrap_or_else(|| StateDir::new(&options.state_dir).cluster_file());
    match Cluster::read(&file) {
        Ok(cluster) => cluster.node(&options.node).is_some(),
        Err(_) => file.exists(),
    }
}
