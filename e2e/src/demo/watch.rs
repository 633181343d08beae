//! Watches all nodes beside the story: draws the table, and keeps what only a watcher sees.

use super::screen::{Screen, bytes};
use crate::playground::Playground;
use crate::status::{NodeProcesses, VolumeStatus};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Each look starts one program per node.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);
const HEADER: [&str; 9] = ["node", "supervisor", "worker", "role", "disk", "attached", "network", "epoch", "resync"];

/// The watching thread. Dropping it ends it.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watch {
    /// Starts watching, if there is a terminal to draw on.
    pub fn start(playground: &Arc<Playground>, screen: &Arc<Screen>, volume: &str) -> Self {
        let stop = Arc::<AtomicBool>::default();
        if !screen.is_live() {
            return Watch { stop, thread: None };
        }
        let (playground, screen, volume) = (playground.clone(), screen.clone(), volume.to_owned());
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let rows = rows(&playground, &volume);
                screen.table(&HEADER, &rows);
                thread::sleep(LOOK_INTERVAL);
            }
        });
        Watch { stop, thread: Some(thread) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only draws: if it panicked there is nothing to save.
            let _ = thread.join();
        }
    }
}

fn rows(playground: &Playground, volume: &str) -> Vec<Vec<String>> {
    let processes = playground.processes().unwrap_or_default();
    let nodes = playground.nodes().iter();
    nodes
        .map(|node| {
            let of_node = processes.iter().find(|of_node| of_node.node == *node).cloned().unwrap_or_default();
            row(node, &of_node, playground.status(node, volume).ok())
        })
        .collect()
}

fn row(node: &str, processes: &NodeProcesses, status: Option<VolumeStatus>) -> Vec<String> {
    let mut row = vec![node.to_owned(), processes.supervisor.clone(), processes.worker.clone()];
    let Some(status) = status else {
        row.resize(HEADER.len(), "-".to_owned());
        return row;
    };
    let networks: BTreeMap<&str, &str> = status
        .peers
        .iter()
        .filter(|peer| peer.reachable)
        .map(|peer| (peer.node.as_str(), peer.network.as_deref().unwrap_or("?")))
        .collect();
    let resync = match status.resync.active {
        true => format!("{} of {}", bytes(status.resync.bytes_done), bytes(status.resync.bytes_total)),
        false => "-".to_owned(),
    };
    row.extend([
        status.this_node.role,
        status.this_node.disk,
        status.this_node.attached,
        networks.iter().map(|(node, network)| format!("{node}: {network}")).collect::<Vec<_>>().join(", "),
        status.epoch.to_string(),
        resync,
    ]);
    row
}

/// The highest value seen of something that a poll looks at.
#[derive(Clone, Default)]
pub struct Highest(Arc<Mutex<u64>>);

impl Highest {
    /// Looks at one more.
    pub fn see(&self, value: u64) {
        let mut highest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *highest = (*highest).max(value);
    }

    /// The highest so far.
    pub fn get(&self) -> u64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
