//! What a replica (or a voter without data) keeps durably: a fold over [`MetaUpdate`]s.
//!
//! The engine keeps it as a snapshot and a log of updates; the simulator keeps the updates themselves and loses those
//! that were not durable. Both call [`Meta::apply`], so that what is read back is what the core believes.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::bitmap::{BlockSet, Chunk};
use crate::config::Config;
use crate::ids::{BootId, Epoch, Incarnation, NodeId, RegionIndex, VoterId};
use crate::message::Ballot;

/// A voter's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VoterState {
    /// The identity under which this memory votes.
    pub id: VoterId,
    /// Highest ballot promised.
    pub promised: Ballot,
    /// Highest ballot accepted, and its value.
    pub accepted: Option<(Ballot, Box<Config>)>,
}

/// What an absent peer lacks, as far as this replica knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirtyMap {
    /// The peer's last epoch in sync. The map is valid only while the configuration's `last_in_sync` says the same.
    pub since: Epoch,
    /// Blocks that have to be copied.
    pub copy: BlockSet,
    /// Blocks that may differ: compared by digest, and copied where they do.
    pub compare: BlockSet,
}

/// Everything durable about one volume on one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// This node.
    pub node: NodeId,
    /// True if a replica's data lies beside this; false for a tie-breaker's memory or a diskless member.
    pub has_data: bool,
    /// The highest configuration that this node made durable.
    pub config: Config,
    /// Last run of the engine that opened this.
    pub incarnation: Incarnation,
    /// Boot during which that run was.
    pub boot: BootId,
    /// Incarnations that left as planned and have not been removed from, or re-entered, the configuration.
    pub left: BTreeSet<(NodeId, Incarnation)>,
    /// This node's vote, if it has one.
    pub voter: Option<VoterState>,
    /// Write-intent bitmap: regions possibly different after a crash.
    pub intent: BTreeSet<RegionIndex>,
    /// Dirty bitmaps, one per absent peer.
    pub dirty: BTreeMap<NodeId, DirtyMap>,
    /// Set once the replica's disk cannot be trusted: it stays Failed until replaced.
    pub failed: Option<String>,
    /// Set once a configuration was seen in which this replica is not the one that the node has: it is none of the volume's any more,
    /// for ever.
    pub removed: bool,
}

/// One durable change of [`Meta`].
#[expect(
    clippy::large_enum_variant,
    reason = "the large one, a chunk, is the common one; boxing it would allocate per chunk"
)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MetaUpdate {
    /// A run of the engine opened the volume.
    Started {
        /// The run.
        incarnation: Incarnation,
        /// The boot during which it runs.
        boot: BootId,
    },
    /// A decided configuration.
    Config(Box<Config>),
    /// An incarnation left as planned.
    Left(NodeId, Incarnation),
    /// The mark ended: the node entered as a new incarnation, or a swap removed it.
    LeftEnded(NodeId, Incarnation),
    /// The vote changed.
    Voter(VoterState),
    /// Regions about to be written.
    IntentSet(Vec<RegionIndex>),
    /// Regions confirmed equal everywhere, or owed durably to whoever is absent.
    IntentClear(Vec<RegionIndex>),
    /// A dirty map begins (or begins anew, empty) for a peer.
    DirtyBegin {
        /// The absent peer.
        peer: NodeId,
        /// Its last epoch in sync.
        since: Epoch,
    },
    /// One chunk of a dirty map, as it is now.
    DirtyChunk {
        /// The absent peer.
        peer: NodeId,
        /// Number of the chunk (4 MiB).
        chunk: u64,
        /// Blocks to copy.
        copy: Chunk,
        /// Blocks to compare.
        compare: Chunk,
    },
    /// The peer is in sync again, or the map belongs to somebody else now.
    DirtyEnd(NodeId),
    /// The replica's disk failed.
    Failed(String),
    /// The replica is not the volume's any more.
    Removed,
    /// The replica was emptied on an operator's word (replaced disk): it holds nothing.
    Emptied,
}

impl Meta {
    /// Memory of a new volume: `config` is durable on this node before anybody uses it.
    #[must_use]
    pub fn created(node: NodeId, has_data: bool, config: Config, incarnation: Incarnation, boot: BootId) -> Meta {
        let voter = config.voters.get(&node).map(|id| VoterState {
            id: *id,
            promised: Ballot::default(),
            accepted: Some((Ballot::default(), Box::new(config.clone()))),
        });
        Meta {
            node,
            has_data,
            config,
            incarnation,
            boot,
            left: BTreeSet::new(),
            voter,
            intent: BTreeSet::new(),
            dirty: BTreeMap::new(),
            failed: None,
            removed: false,
        }
    }

    /// Memory of a member that knows of the volume and nothing else: it has no data, and no vote until it is given one.
    #[must_use]
    pub fn forgotten(node: NodeId, config: Config, incarnation: Incarnation, boot: BootId) -> Meta {
        Meta { voter: None, ..Meta::created(node, false, config, incarnation, boot) }
    }

    /// Memory of a replica that is empty and has yet to be added to a volume that exists: every block of it has to be compared before
    /// it counts, whatever anybody's dirty map says.
    #[must_use]
    pub fn empty_replica(node: NodeId, config: Config, incarnation: Incarnation, boot: BootId) -> Meta {
        let dirty = BTreeMap::from([(node, DirtyMap::default())]);
        Meta { has_data: true, dirty, ..Meta::forgotten(node, config, incarnation, boot) }
    }

    /// The same memory, of a voter above all, beside an empty replica or beside none: `config` is any that the volume had.
    #[must_use]
    pub fn reshaped(self, has_data: bool, config: Config) -> Meta {
        let Meta { node, incarnation, boot, left, voter, .. } = self;
        let newer = |own: &Config| own.generation != config.generation || own.epoch > config.epoch;
        let config = if newer(&self.config) { self.config } else { config };
        let fresh = match has_data {
            true => Meta::empty_replica(node, config, incarnation, boot),
            false => Meta::forgotten(node, config, incarnation, boot),
        };
        Meta { left, voter, ..fresh }
    }

    /// Folds one update in.
    pub fn apply(&mut self, update: &MetaUpdate) {
        match update {
            MetaUpdate::Started { incarnation, boot } => {
                self.incarnation = *incarnation;
                self.boot = *boot;
            }
            MetaUpdate::Config(config) => self.config = (**config).clone(),
            MetaUpdate::Left(node, incarnation) => {
                self.left.insert((*node, *incarnation));
            }
            MetaUpdate::LeftEnded(node, incarnation) => {
                self.left.remove(&(*node, *incarnation));
            }
            MetaUpdate::Voter(voter) => self.voter = Some(voter.clone()),
            MetaUpdate::IntentSet(regions) => self.intent.extend(regions.iter().copied()),
            MetaUpdate::IntentClear(regions) => {
                for region in regions {
                    self.intent.remove(region);
                }
            }
            MetaUpdate::DirtyBegin { peer, since } => {
                self.dirty.insert(*peer, DirtyMap { since: *since, ..DirtyMap::default() });
            }
            MetaUpdate::DirtyChunk { peer, chunk, copy, compare } => {
                if let Some(map) = self.dirty.get_mut(peer) {
                    map.copy.set_chunk(*chunk, *copy);
                    map.compare.set_chunk(*chunk, *compare);
                }
            }
            MetaUpdate::DirtyEnd(peer) => {
                self.dirty.remove(peer);
            }
            MetaUpdate::Removed => self.removed = true,
            MetaUpdate::Failed(reason) => self.failed = Some(reason.clone()),
            MetaUpdate::Emptied => {
                self.failed = None;
                self.intent.clear();
                self.dirty.clear();
            }
        }
    }
}
