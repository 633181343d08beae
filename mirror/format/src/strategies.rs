//! Proptest strategies of every core type that has an encoding.

mod messages;
mod metadata;

use std::collections::{BTreeMap, BTreeSet};

use lockstep_core::bitmap::{CHUNK_WORDS, Chunk};
use lockstep_core::message::Uncommitted;
use lockstep_core::range::CHUNK_BLOCKS;
use lockstep_core::{
    Access, Ack, Arbiter, AttachMode, Attachment, Ballot, BlockRange, BlockSet, Class, Config, Epoch, Generation,
    GrantNumber, Incarnation, Joining, NodeId, OnQuorumLoss, Policing, RequestTag, SessionId, Settings, Stamp,
    VolumeId, VoterId, WriteId,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

pub use messages::{frame, message};
pub use metadata::{meta, meta_update};

/// Any node.
pub fn node() -> impl Strategy<Value = NodeId> {
    any::<u32>().prop_map(NodeId)
}

/// Any run of an engine.
pub fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<u64>().prop_map(Incarnation)
}

/// Any epoch.
pub fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

/// A range within the largest volume, never empty, of at most `len_max` blocks.
pub fn range(len_max: u64) -> impl Strategy<Value = BlockRange> {
    (0..1u64 << 50, 1..=len_max).prop_map(|(start, len)| BlockRange::new(start, start + len))
}

/// Any grant.
pub fn grant() -> impl Strategy<Value = GrantNumber> {
    (epoch(), any::<u64>()).prop_map(|(epoch, counter)| GrantNumber { epoch, counter })
}

/// Any ballot.
pub fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), node(), incarnation()).prop_map(|(number, node, incarnation)| Ballot { number, node, incarnation })
}

/// Any stamp.
pub fn stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), epoch(), any::<u8>()).prop_map(|(session, epoch, left)| Stamp {
        session: SessionId(session),
        epoch,
        left,
    })
}

/// A bitmap of a chunk: empty, full, or anything.
pub fn chunk() -> impl Strategy<Value = Chunk> {
    prop_oneof![Just([0; CHUNK_WORDS]), Just([u64::MAX; CHUNK_WORDS]), any::<[u64; CHUNK_WORDS]>()]
}

/// A sparse set of blocks.
pub fn block_set() -> impl Strategy<Value = BlockSet> {
    btree_map(0..1u64 << 40, chunk(), 0..6).prop_map(|chunks| {
        let mut set = BlockSet::new();
        for (number, chunk) in chunks {
            set.set_chunk(number, chunk);
        }
        set
    })
}

/// Number of a chunk of the largest volume.
pub fn chunk_number() -> impl Strategy<Value = u64> {
    0..(1u64 << 50) / CHUNK_BLOCKS
}

/// A write that is not known to be committed.
pub fn uncommitted() -> impl Strategy<Value = Uncommitted> {
    (range(1 << 20), node(), incarnation(), grant(), any::<u64>()).prop_map(
        |(range, writer, incarnation, grant, id)| Uncommitted { range, writer, incarnation, grant, id: WriteId(id) },
    )
}

/// An incarnation that left.
pub fn left_mark() -> impl Strategy<Value = (NodeId, Incarnation)> {
    (node(), incarnation())
}

/// Any class.
pub fn class() -> impl Strategy<Value = Class> {
    (0u8..5).prop_map(|number| Class::from_number(number).expect("one of five"))
}

fn attachment() -> impl Strategy<Value = Attachment> {
    (incarnation(), any::<bool>(), epoch(), option::of(class())).prop_map(|(incarnation, recoverable, since, class)| {
        Attachment { class, incarnation, mode: AttachMode::ReadOnly, recoverable, since }
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let ack = prop_oneof![Just(Ack::Disk), Just(Ack::Durable)];
    let on_quorum_loss = prop_oneof![Just(OnQuorumLoss::Suspend), Just(OnQuorumLoss::Error)];
    let access = prop_oneof![Just(Access::SingleWriter), Just(Access::MultiWriter)];
    let extent_blocks = (4u32..=10).prop_map(|bits| 1 << bits);
    (ack, on_quorum_loss, access, extent_blocks).prop_map(|(ack, on_quorum_loss, access, extent_blocks)| Settings {
        ack,
        on_quorum_loss,
        access,
        arbiter: Arbiter::Peers,
        extent_blocks,
        policing: Policing::Peer,
    })
}

/// Which replica does what: between 1 and 4 replicas, at least one of them in sync, the others joining or away.
fn roles() -> impl Strategy<Value = (BTreeSet<NodeId>, BTreeMap<NodeId, Incarnation>, BTreeMap<NodeId, Joining>)> {
    btree_map(node(), (incarnation(), 0u8..3), 1..=4).prop_map(|members| {
        let replicas = members.keys().copied().collect();
        let (source, (first, _)) = members.first_key_value().map(|(node, role)| (*node, *role)).expect("one at least");
        let mut in_sync = BTreeMap::from([(source, first)]);
        let mut joining = BTreeMap::new();
        for (node, (incarnation, role)) in members.into_iter().skip(1) {
            match role {
                0 => drop(in_sync.insert(node, incarnation)),
                1 => drop(joining.insert(node, Joining { incarnation, source })),
                _ => {}
            }
        }
        (replicas, in_sync, joining)
    })
}

/// A configuration that passes its own check.
pub fn config() -> impl Strategy<Value = Config> {
    let head = (any::<[u8; 16]>(), any::<(u64, u64)>(), epoch(), 1..1u64 << 50, (settings(), class()), roles());
    let tail = (
        option::of(node()),
        btree_map(node(), any::<u64>().prop_map(VoterId), 1..4),
        btree_map(node(), attachment(), 0..4),
        any::<bool>(),
        (btree_map(node(), epoch(), 0..4), btree_map(node(), epoch(), 0..4)),
        btree_map(node(), (incarnation(), any::<u64>()), 0..4),
    );
    (head, tail).prop_map(|(head, tail)| {
        let (volume, (id, parent), epoch, size_blocks, (settings, priority), (replicas, in_sync, joining)) = head;
        let (tie_breaker, voters, mut attached, writer, (last_in_sync, added), requests) = tail;
        let tie_breaker = tie_breaker.filter(|node| !replicas.contains(node));
        let added = added.into_iter().filter(|(node, _)| replicas.contains(node)).collect();
        if let Some(attachment) = attached.values_mut().next() {
            attachment.mode = if writer { AttachMode::ReadWrite } else { AttachMode::ReadOnly };
        }
        let requests =
            requests.into_iter().map(|(node, (incarnation, number))| (node, RequestTag { incarnation, number }));
        Config {
            volume: VolumeId(volume),
            generation: Generation { id, parent },
            epoch,
            size_blocks,
            settings,
            priority,
            replicas,
            added,
            tie_breaker,
            voters,
            in_sync,
            joining,
            attached,
            last_in_sync,
            requests: requests.collect(),
        }
    })
}

/// What a voter accepted last, if anything.
pub fn accepted() -> impl Strategy<Value = Option<(Ballot, Box<Config>)>> {
    option::of((ballot(), config().prop_map(Box::new)))
}

fn left_marks() -> impl Strategy<Value = Vec<(NodeId, Incarnation)>> {
    vec(left_mark(), 0..4)
}
