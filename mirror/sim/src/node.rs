//! One node: its machine (the host), its engine's process, its disk and its metadata.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use lockstep_core::{BufId, Epoch, Incarnation, Input, IoId, NodeId};

use crate::block::Block;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::machine::Machine;
use crate::store::Store;

/// One node.
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Its clock.
    pub clock: Clock,
    /// The host has power.
    pub host_up: bool,
    /// Number of the host's boot.
    pub boot: u64,
    /// Number of the engine's process; events of older processes are dropped.
    pub run: u64,
    /// The process, while it lives.
    pub machine: Option<Box<dyn Machine>>,
    /// The process is stopped (SIGSTOP).
    pub paused: bool,
    /// What waits for the process to go on.
    pub backlog: VecDeque<Input>,
    /// The run that is going on, or went on last.
    pub incarnation: Incarnation,
    /// Nothing was ever started here.
    pub fresh: bool,
    /// Its disk.
    pub disk: Disk,
    /// The process that submitted each disk operation, its name there, and the buffer that a read fills.
    pub operations: BTreeMap<u64, DiskRequest>,
    /// Until when disk writes of a dead process may land.
    pub orphans_until: u64,
    /// Its metadata.
    pub store: Store,
    /// Memory that the machine may name.
    pub buffers: BTreeMap<BufId, Rc<[Block]>>,
    /// The next buffer that the shell hands in.
    pub next_buf: u64,
    /// The tick that is scheduled.
    pub tick_at: Option<u64>,
    /// Since when the process runs without a pause.
    pub running_since: u64,
    /// How long it stays down after it has left as planned.
    pub down_for: Option<u64>,
    /// Nobody starts it until a script does.
    pub held_down: bool,
    /// The replica whose files are here was removed from the volume: since when it had been one of its replicas.
    pub removed: Option<Epoch>,
    /// The process that was last looked at, and how many grants it had taken then.
    pub grants_seen: (u64, u64),
}

/// Who waits for a disk operation.
#[derive(Clone, Copy, Debug)]
pub struct DiskRequest {
    /// The process.
    pub run: u64,
    /// The operation's name in that process.
    pub io: IoId,
    /// The buffer to fill.
    pub buf: Option<BufId>,
    /// It asks for digests.
    pub digest: bool,
}

impl Node {
    /// A node that was never started.
    #[must_use]
    pub fn new(id: NodeId, clock: Clock, store: Store) -> Node {
        Node {
            id,
            clock,
            host_up: true,
            boot: 1,
            run: 0,
            machine: None,
            paused: false,
            backlog: VecDeque::new(),
            incarnation: store.durable().incarnation,
            fresh: true,
            disk: Disk::default(),
            operations: BTreeMap::new(),
            orphans_until: 0,
            store,
            buffers: BTreeMap::new(),
            next_buf: 1,
            tick_at: None,
            running_since: 0,
            down_for: None,
            held_down: false,
            removed: None,
            grants_seen: (0, 0),
        }
    }

    /// True if the process lives and is not stopped.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.machine.is_some() && !self.paused
    }

    /// Hands memory to the machine.
    pub fn lend(&mut self, blocks: Rc<[Block]>) -> BufId {
        let buf = BufId(self.next_buf);
        self.next_buf += 1;
        self.buffers.insert(buf, blocks);
        buf
    }
}
