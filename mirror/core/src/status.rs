//! What a replica tells about itself.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::config::Config;
use crate::ids::{Epoch, Incarnation, NodeId, SessionId};
use crate::message::{Class, Net};
use crate::range::BlockRange;

/// State of the local replica's data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskState {
    /// In sync.
    UpToDate,
    /// Joining: parts are older than others.
    Inconsistent,
    /// Complete, of an earlier time: not in sync and not joining.
    Outdated,
    /// No data here.
    Diskless,
    /// The replica was removed from the volume: it never counts again, and its files can be deleted.
    Removed,
    /// The disk failed, with the reason.
    Failed(String),
}

/// Counters since the engine started. All rise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Requests of the front end, by kind.
    pub front_reads: u64,
    /// Writes, zeroes and discards of the front end.
    pub front_writes: u64,
    /// Flushes of the front end.
    pub front_flushes: u64,
    /// Requests that failed.
    pub front_errors: u64,
    /// Frames sent that carry writes.
    pub sent_writes: u64,
    /// Heartbeats and their answers sent.
    pub sent_heartbeats: u64,
    /// All other frames sent.
    pub sent_other: u64,
    /// Writes of peers applied here.
    pub peer_writes: u64,
    /// Frames of peers refused because their epoch, left set or membership is stale, and the first word of expelled runs.
    pub stale_refused: u64,
    /// Frames of an older session that were dropped.
    pub old_session_dropped: u64,
    /// Reads served for peers.
    pub peer_reads: u64,
    /// Reads that a peer served for this node.
    pub remote_reads: u64,
    /// Bytes that resync copied to this replica.
    pub resync_copied_bytes: u64,
    /// Bytes that resync compared by digest.
    pub resync_compared_bytes: u64,
    /// Swaps that this node decided.
    pub swaps: u64,
}

/// A resync under way on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResyncProgress {
    /// Bytes settled.
    pub bytes_done: u64,
    /// Bytes to settle, as known.
    pub bytes_total: u64,
}

/// A peer as seen from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// A session is open, and nothing says that its other end is gone.
    pub reachable: bool,
    /// Over which network data goes.
    pub net: Option<Net>,
    /// The session.
    pub session: SessionId,
}

/// A writer that waits for a range of a multi-writer volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitingStatus {
    /// Who.
    pub node: NodeId,
    /// For what: whole extents.
    pub range: BlockRange,
    /// As asked.
    pub class: Class,
    /// Nanoseconds since it asked first.
    pub waited: u64,
}

/// A shard of a volume under Lease policing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardStatus {
    /// Which.
    pub shard: u8,
    /// Its blocks.
    pub range: BlockRange,
    /// Who may write there, as its Lease says in this epoch.
    pub holder: Option<NodeId>,
    /// Why its Lease cannot be used now.
    pub trouble: Option<String>,
}

/// Grants of ranges: of a multi-writer volume, or under Lease policing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GrantsStatus {
    /// What this node holds.
    pub holds: Vec<BlockRange>,
    /// Who holds what: on the granting node only.
    pub table: Vec<(BlockRange, NodeId)>,
    /// Who waits, in the order in which they will be served: all of them on the granting node, this node's own elsewhere.
    pub waiting: Vec<WaitingStatus>,
    /// Shards, where Leases police.
    pub shards: Vec<ShardStatus>,
    /// Ranges that were granted to this node.
    pub taken: u64,
    /// Ranges that this node gave back for others.
    pub given: u64,
    /// How long this node waited for grants: how often less than 1 µs, less than 2 µs, less than 4 µs and so on.
    pub waits: [u64; 32],
    /// Nanoseconds of the longest such wait.
    pub longest_wait: u64,
}

/// A snapshot of one replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// This run.
    pub incarnation: Incarnation,
    /// The configuration installed here.
    pub config: Config,
    /// Incarnations that left as planned.
    pub left: Vec<(NodeId, Incarnation)>,
    /// State of the local data.
    pub disk: DiskState,
    /// Attached here now.
    pub attached: bool,
    /// Requests wait for a quorum.
    pub frozen: bool,
    /// What was in flight at the last change of view is being settled.
    pub reconciling: bool,
    /// All nodes that the configuration names, but for this one, and whoever else it has a link with.
    pub peers: Vec<PeerStatus>,
    /// Blocks owed to absent peers.
    pub dirty_blocks: BTreeMap<NodeId, u64>,
    /// Regions with write intent.
    pub intent_regions: u64,
    /// Resync of this replica.
    pub resync: Option<ResyncProgress>,
    /// Verify under way: blocks done.
    pub verify: Option<ResyncProgress>,
    /// Another generation of the volume was met here.
    pub diverged: Option<NodeId>,
    /// Epoch of the last fencing of this node.
    pub fenced_at: Option<Epoch>,
    /// Grants; `None` for a single-writer volume, unless Leases police it.
    pub grants: Option<GrantsStatus>,
    /// Counters.
    pub counters: Counters,
}
