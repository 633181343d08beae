//! What all threads of an engine know.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use lockstep_core::{BootId, Incarnation, Net, NodeId, VolumeId};
use lockstep_format::wire::greeting::{ClusterKey, NONCE_BYTES, Nonce};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::event_loop::LoopCommand;
use crate::lease_port::LeasePort;

/// A node of the cluster, as its configuration file says, or as it was told while the engine runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeAddress {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where its engine listens on the ordinary network.
    pub ordinary: SocketAddr,
    /// Where it listens on the dedicated network, if it is on one.
    pub dedicated: Option<SocketAddr>,
}

impl NodeAddress {
    /// Its address on a network.
    #[must_use]
    pub fn on(&self, net: Net) -> Option<SocketAddr> {
        match net {
            Net::Ordinary => Some(self.ordinary),
            Net::Dedicated => self.dedicated,
        }
    }
}

/// Who this engine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// This boot of the machine.
    pub boot: BootId,
}

/// What happened to connections that did not become links, or ceased to be. All rise.
#[derive(Default, Debug)]
pub(crate) struct ConnectionCounters {
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
    /// Connections closed because what came was not the protocol, another version of it, or without the key.
    pub(crate) hostile: AtomicU64,
    /// Connections closed because too many greetings were under way.
    pub(crate) crowded: AtomicU64,
    /// Frames whose payload's checksum was wrong.
    pub(crate) damaged: AtomicU64,
    /// Reports of supervisors.
    pub(crate) reports: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How other threads reach a loop.
#[derive(Debug)]
pub(crate) struct LoopHandle {
    commands: Mutex<Sender<LoopCommand>>,
    wake: Arc<EventFd>,
}

/// The loop's end of its [`LoopHandle`].
pub(crate) struct Mailbox {
    pub(crate) commands: Receiver<LoopCommand>,
    pub(crate) wake: Arc<EventFd>,
}

/// Both ends of the way to a loop.
pub(crate) fn mailbox() -> io::Result<(LoopHandle, Mailbox)> {
    let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
    let (sender, commands) = channel();
    Ok((LoopHandle { commands: Mutex::new(sender), wake: wake.clone() }, Mailbox { commands, wake }))
}

impl LoopHandle {
    /// Gives the loop something to do. If the loop is gone, the command is dropped, and its responder with it.
    pub(crate) fn send(&self, command: LoopCommand) {
        let sent = self.commands.lock().unwrap_or_else(PoisonError::into_inner).send(command);
        if sent.is_ok() {
            // The counter cannot run over: the loop reads it to 0.
            let _ = self.wake.write(1);
        }
    }
}

/// What all threads of an engine know.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) key: ClusterKey,
    /// All nodes; they come and go while the engine runs.
    pub(crate) nodes: RwLock<BTreeMap<NodeId, NodeAddress>>,
    /// Addresses on the dedicated network that the configuration file leaves open, as their nodes told them.
    pub(crate) learned: Mutex<BTreeMap<NodeId, SocketAddr>>,
    pub(crate) loops: Vec<LoopHandle>,
    /// Which loop runs which volume.
    pub(crate) homes: Mutex<BTreeMap<VolumeId, usize>>,
    pub(crate) counters: ConnectionCounters,
    /// The way to Leases, if there is one.
    pub(crate) leases: Option<Arc<dyn LeasePort>>,
}

impl Shared {
    pub(crate) fn homes(&self) -> MutexGuard<'_, BTreeMap<VolumeId, usize>> {
        self.homes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop that runs a volume.
    pub(crate) fn home(&self, volume: VolumeId) -> Option<&LoopHandle> {
        let index = *self.homes().get(&volume)?;
        self.loops.get(index)
    }

    /// The nodes that are known. Not to be held while anything is waited for.
    pub(crate) fn nodes(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, NodeAddress>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, to be changed.
    pub(crate) fn nodes_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<NodeId, NodeAddress>> {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// From where to where a connection to `peer` over `net` goes, if both are on it.
    pub(crate) fn route(&self, peer: NodeId, net: Net) -> Option<(SocketAddr, SocketAddr)> {
        let nodes = self.nodes();
        let from = nodes.get(&self.identity.node)?.on(net)?;
        let learned = || self.learned().get(&peer).copied().filter(|_| net == Net::Dedicated);
        let to = nodes.get(&peer)?.on(net).or_else(learned)?;
        Some((from, to))
    }

    /// Addresses that nodes told. Locked after [`Shared::nodes`], where both are.
    pub(crate) fn learned(&self) -> MutexGuard<'_, BTreeMap<NodeId, SocketAddr>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a node, whose address there was not configured, is on the dedicated network. Dialed from the next look on.
    pub(crate) fn learn_dedicated(&self, peer: NodeId, address: SocketAddr) {
        self.learned().insert(peer, address);
    }
}

/// Random bytes for one greeting.
pub(crate) fn nonce() -> io::Result<Nonce> {
    let mut nonce = [0; NONCE_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut nonce)?;
    Ok(nonce)
}

/// Which run of the engine this is: higher than every earlier one, durable before anybody hears of it.
pub(crate) fn next_incarnation(path: &std::path::Path, unix_nanos: u64) -> io::Result<Incarnation> {
    let stored = match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse::<u64>().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    let next = unix_nanos.max(stored + 1);
    let unfinished = path.with_extension("unfinished");
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{next}")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(Incarnation(next))
}

/// This boot of the machine.
pub(crate) fn boot_id() -> io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let hash = blake3::hash(text.trim().as_bytes());
    let (bytes, _) = hash.as_bytes().split_first_chunk::<8>().expect("BLAKE3 has 32 bytes");
    Ok(BootId(u64::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::next_incarnation;
    use lockstep_core::Incarnation;

    #[test]
    fn incarnations_rise_even_if_the_clock_goes_back() {
        let dir = std::env::temp_dir().join(format!("lockstep-incarnation-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("incarnation");
        assert_eq!(next_incarnation(&path, 1000).unwrap(), Incarnation(1000));
        assert_eq!(next_incarnation(&path, 10).unwrap(), Incarnation(1001));
        assert_eq!(next_incarnation(&path, 5000).unwrap(), Incarnation(5000));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
