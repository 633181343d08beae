//! The configuration of a volume: one register, changed only by compare-and-swap at the arbiter.

use alloc::collections::BTreeMap;

use crate::ids::{Epoch, Incarnation, NodeId, RequestTag, VolumeId, VoterId};
use crate::lease::Policing;
use crate::message::Class;

/// Lineage of the configuration. A new one is minted by an operator's `force` and by nothing else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation {
    /// Random identity.
    pub id: u64,
    /// The generation that this one was forced from; 0 for a volume's first.
    pub parent: u64,
}

/// When a peer acknowledges a write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Ack {
    /// When its device completed the write.
    #[default]
    Disk,
    /// When the write is durable there.
    Durable,
}

/// What happens to requests while the volume cannot change its configuration and lacks a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum OnQuorumLoss {
    /// They wait.
    #[default]
    Suspend,
    /// They fail.
    Error,
}

/// How many nodes may have the volume attached for writing at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Access {
    /// One: it holds the grant over the whole volume for as long as it is attached.
    #[default]
    SingleWriter,
    /// Any number: each holds grants over extents, given by the granting node on demand.
    MultiWriter,
}

/// Who keeps a volume's configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Arbiter {
    /// A quorum of the volume's voters.
    #[default]
    Peers,
    /// A register elsewhere: a Kubernetes Lease. There are no voters.
    Lease,
}

/// Settings of a volume that its creator chose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Settings {
    /// Acknowledgement level.
    pub ack: Ack,
    /// Behaviour without a quorum.
    pub on_quorum_loss: OnQuorumLoss,
    /// One writer or several.
    pub access: Access,
    /// Who keeps the configuration.
    pub arbiter: Arbiter,
    /// Blocks of one extent, the unit of grants: a power of two between [`Settings::EXTENT_BLOCKS_MIN`] and
    /// [`Settings::EXTENT_BLOCKS_MAX`].
    pub extent_blocks: u64,
    /// Who decides who may write where.
    pub policing: Policing,
}

impl Settings {
    /// 64 KiB.
    pub const EXTENT_BLOCKS_MIN: u64 = 16;
    /// 1 MiB: what a volume has unless its creator asks for something else.
    pub const EXTENT_BLOCKS: u64 = 256;
    /// 4 MiB.
    pub const EXTENT_BLOCKS_MAX: u64 = 1024;
}

/// What of a volume may be changed while it is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Setting {
    /// Acknowledgement level of writes that begin.
    Ack(Ack),
    /// Class of requests for grants.
    Priority(Class),
}

impl Setting {
    /// Whether the volume has it.
    #[must_use]
    pub fn is_of(&self, config: &Config) -> bool {
        match self {
            Setting::Ack(ack) => config.settings.ack == *ack,
            Setting::Priority(class) => config.priority == *class,
        }
    }

    pub(crate) fn put(&self, config: &mut Config) {
        match self {
            Setting::Ack(ack) => config.settings.ack = *ack,
            Setting::Priority(class) => config.priority = *class,
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ack: Ack::default(),
            on_quorum_loss: OnQuorumLoss::default(),
            access: Access::default(),
            arbiter: Arbiter::default(),
            extent_blocks: Settings::EXTENT_BLOCKS,
            policing: Policing::default(),
        }
    }
}

/// How a member has the volume attached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AttachMode {
    /// Reads and writes: a *writer*.
    ReadWrite,
    /// Reads only.
    ReadOnly,
}

/// One attachment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Attachment {
    /// The run of the engine that has it.
    pub incarnation: Incarnation,
    /// Reads only, or writes too.
    pub mode: AttachMode,
    /// The front end survives a restart of the engine: expulsion may wait for the next incarnation.
    pub recoverable: bool,
    /// Epoch of the swap that attached. Writes under an older grant belong to an attachment that ended.
    pub since: Epoch,
    /// Class of its requests for grants, if not the volume's.
    pub class: Option<Class>,
}

/// A replica that receives and acknowledges every write, and does not serve yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Joining {
    /// The run of the engine that joins.
    pub incarnation: Incarnation,
    /// The in-sync member that it pulls from.
    pub source: NodeId,
}

/// What a node is for in a volume, attached or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// It holds a replica.
    Replica,
    /// It votes, and holds nothing.
    TieBreaker,
}

/// The register. Two configurations of one generation and epoch are equal (invariant I8).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// The volume.
    pub volume: VolumeId,
    /// Lineage.
    pub generation: Generation,
    /// Rises by one with every swap.
    pub epoch: Epoch,
    /// Size in blocks of 4096 bytes.
    pub size_blocks: u64,
    /// What the creator chose.
    pub settings: Settings,
    /// Class of requests for grants; can be changed at any time.
    pub priority: Class,
    /// The nodes that hold a replica, in sync or not. At most [`Config::REPLICAS_MAX`].
    pub replicas: alloc::collections::BTreeSet<NodeId>,
    /// Of replicas that came after the volume was created: the epoch in which. A replica that a node had before is another one.
    pub added: BTreeMap<NodeId, Epoch>,
    /// The voter without data, where there is one.
    pub tie_breaker: Option<NodeId>,
    /// Whose votes decide a swap of this register (quorum of peers).
    pub voters: BTreeMap<NodeId, VoterId>,
    /// Replicas that hold everything completed.
    pub in_sync: BTreeMap<NodeId, Incarnation>,
    /// Replicas that are on their way into `in_sync`.
    pub joining: BTreeMap<NodeId, Joining>,
    /// Who has the volume attached.
    pub attached: BTreeMap<NodeId, Attachment>,
    /// For each replica that is not in sync: the last epoch in which it was.
    pub last_in_sync: BTreeMap<NodeId, Epoch>,
    /// The last swap of each node that took effect.
    pub requests: BTreeMap<NodeId, RequestTag>,
}

impl Config {
    /// Most replicas of a volume: three, and the one that is on its way to take the place of one of them.
    pub const REPLICAS_MAX: usize = 4;

    /// What a node is for, if it is for anything.
    #[must_use]
    pub fn role_of(&self, node: NodeId) -> Option<Role> {
        match self.replicas.contains(&node) {
            true => Some(Role::Replica),
            false => (self.tie_breaker == Some(node)).then_some(Role::TieBreaker),
        }
    }

    /// Since when the node has the replica that it has: 0 is since the volume was created. Tells it from another that the node had
    /// before, and that was removed.
    #[must_use]
    pub fn replica_since(&self, node: NodeId) -> Option<Epoch> {
        self.replicas.contains(&node).then(|| self.added.get(&node).copied().unwrap_or_default())
    }

    /// A replica that was added and has not been in sync yet, if there is one.
    #[must_use]
    pub fn arriving(&self) -> Option<NodeId> {
        let been = |node: &NodeId| self.in_sync.contains_key(node) || self.last_in_sync.contains_key(node);
        self.added.keys().copied().find(|node| !been(node))
    }

    /// True if this incarnation of the node is in sync.
    #[must_use]
    pub fn is_in_sync(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.in_sync.get(&node) == Some(&incarnation)
    }

    /// True if this incarnation of the node is joining.
    #[must_use]
    pub fn is_joining(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.joining.get(&node).is_some_and(|j| j.incarnation == incarnation)
    }

    /// True if this incarnation of the node has the volume attached.
    #[must_use]
    pub fn is_attached(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.attached.get(&node).is_some_and(|a| a.incarnation == incarnation)
    }

    /// The incarnation under which the node takes part as in-sync, joining or attached member.
    #[must_use]
    pub fn incarnation_of(&self, node: NodeId) -> Option<Incarnation> {
        (self.in_sync.get(&node).copied())
            .or_else(|| self.joining.get(&node).map(|j| j.incarnation))
            .or_else(|| self.attached.get(&node).map(|a| a.incarnation))
    }

    /// Everybody who has the volume attached for writing.
    pub fn writers(&self) -> impl Iterator<Item = (NodeId, Incarnation)> + '_ {
        let writes = |(_, a): &(&NodeId, &Attachment)| a.mode == AttachMode::ReadWrite;
        self.attached.iter().filter(writes).map(|(node, a)| (*node, a.incarnation))
    }

    /// Class of a node's requests for grants.
    #[must_use]
    pub fn class_of(&self, node: NodeId) -> Class {
        self.attached.get(&node).and_then(|a| a.class).unwrap_or(self.priority)
    }

    /// The writer that keeps `node` from attaching for writing: that of a single-writer volume, if it is another node.
    #[must_use]
    pub fn other_writer(&self, node: NodeId) -> Option<NodeId> {
        let single = self.settings.access == Access::SingleWriter;
        self.writers().map(|(writer, _)| writer).find(|writer| single && *writer != node)
    }

    /// In-sync and joining replicas: whatever is asked of "all" is asked of these.
    pub fn replicas_written(&self) -> impl Iterator<Item = (NodeId, Incarnation)> + '_ {
        let joining = self.joining.iter().map(|(node, j)| (*node, j.incarnation));
        self.in_sync.iter().map(|(node, i)| (*node, *i)).chain(joining)
    }

    /// Every node that takes part now: in-sync, joining or attached.
    #[must_use]
    pub fn members(&self) -> BTreeMap<NodeId, Incarnation> {
        let mut members: BTreeMap<_, _> = self.attached.iter().map(|(n, a)| (*n, a.incarnation)).collect();
        members.extend(self.replicas_written());
        members
    }

    /// Why this cannot be a configuration of a volume, if it cannot.
    ///
    /// Checked where bytes become a configuration and before every swap.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.size_blocks == 0 {
            return Err("size is 0");
        }
        if self.replicas.is_empty() || self.replicas.len() > Config::REPLICAS_MAX {
            return Err("replicas: between 1 and 4 are needed");
        }
        if self.in_sync.is_empty() {
            return Err("in_sync is empty: the last in-sync replica never leaves");
        }
        if self.added.keys().any(|node| !self.replicas.contains(node)) {
            return Err("added names a node without a replica");
        }
        if self.tie_breaker.is_some_and(|node| self.replicas.contains(&node)) {
            return Err("tie_breaker: the node has a replica");
        }
        match (self.settings.arbiter, self.voters.is_empty()) {
            (Arbiter::Peers, true) => return Err("voters is empty"),
            (Arbiter::Lease, false) => return Err("voters: a Lease is the arbiter, and nobody votes"),
            _ => {}
        }
        if self.replicas_written().any(|(node, _)| !self.replicas.contains(&node)) {
            return Err("in_sync or joining names a node without a replica");
        }
        if self.joining.keys().any(|node| self.in_sync.contains_key(node)) {
            return Err("a node is both in sync and joining");
        }
        if self.joining.values().any(|joining| !self.in_sync.contains_key(&joining.source)) {
            return Err("joining: the source is not in sync");
        }
        if self.settings.access == Access::SingleWriter && self.writers().count() > 1 {
            return Err("attached: a single-writer volume has one writer");
        }
        let unit = self.settings.extent_blocks;
        if !unit.is_power_of_two() || !(Settings::EXTENT_BLOCKS_MIN..=Settings::EXTENT_BLOCKS_MAX).contains(&unit) {
            return Err("extent_blocks: a power of two between 16 and 1024 is needed");
        }
        self.settings.check_policing()
    }
}

impl Settings {
    /// True if grants are of ranges; otherwise there is one over the whole volume, which goes with the attachment.
    #[must_use]
    pub fn grants_ranges(&self) -> bool {
        self.access == Access::MultiWriter || self.policing != Policing::Peer
    }

    fn check_policing(&self) -> Result<(), &'static str> {
        let Policing::Lease { shards, shard_blocks } = self.policing else { return Ok(()) };
        if self.arbiter != Arbiter::Lease {
            return Err("policing: by Leases needs a Lease as the arbiter");
        }
        if shards == 0 || shards > Policing::SHARDS_MAX {
            return Err("policing: between 1 and 16 shards are needed");
        }
        if shards > 1 && self.access == Access::SingleWriter {
            return Err("policing: a single-writer volume has one shard");
        }
        if shard_blocks == 0 || !shard_blocks.is_multiple_of(self.extent_blocks) {
            return Err("policing: a shard is whole extents");
        }
        Ok(())
    }
}
