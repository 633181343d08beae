//! What a new volume begins with: the same on every member, and in its register.

use lockstep_core::{
    Access, Ack, Arbiter, Class, Config, Epoch, Generation, Incarnation, NodeId, OnQuorumLoss, Policing, Settings,
    VolumeId, VoterId,
};

use crate::input;
use crate::spec::{self, Spec};

/// The configuration with which a volume begins: everything is in sync, because nothing was written.
#[must_use]
pub fn first_config(spec: &Spec) -> Config {
    let arbiter = match spec.arbiter {
        spec::Arbiter::Peers => Arbiter::Peers,
        spec::Arbiter::Lease => Arbiter::Lease,
    };
    let voters = spec.voters().map(|node| (NodeId(node), voter_id(spec, node)));
    let size_blocks = spec.size_bytes / input::BLOCK_BYTES;
    Config {
        volume: VolumeId(spec.id),
        generation: Generation { id: spec.generation, parent: 0 },
        epoch: Epoch(1),
        size_blocks,
        settings: Settings {
            ack: match spec.ack {
                spec::Ack::Disk => Ack::Disk,
                spec::Ack::Durable => Ack::Durable,
            },
            on_quorum_loss: match spec.on_quorum_loss {
                spec::OnQuorumLoss::Suspend => OnQuorumLoss::Suspend,
                spec::OnQuorumLoss::Error => OnQuorumLoss::Error,
            },
            access: match spec.access {
                spec::Access::SingleWriter => Access::SingleWriter,
                spec::Access::MultiWriter => Access::MultiWriter,
            },
            arbiter,
            policing: match spec.policing {
                spec::Policing::Peer => Policing::Peer,
                spec::Policing::Lease { shards } => Policing::lease(shards, size_blocks, Settings::EXTENT_BLOCKS),
            },
            extent_blocks: Settings::EXTENT_BLOCKS,
        },
        replicas: spec.replicas.keys().map(|node| NodeId(*node)).collect(),
        tie_breaker: spec.tie_breaker.map(NodeId),
        voters: voters.collect(),
        in_sync: spec.replicas.iter().map(|(node, run)| (NodeId(*node), Incarnation(*run))).collect(),
        joining: Default::default(),
        attached: Default::default(),
        last_in_sync: Default::default(),
        added: Default::default(),
        requests: Default::default(),
        priority: Class::default(),
    }
}

/// The first identity of a voter's memory: the same on all members, and no other volume's.
fn voter_id(spec: &Spec, node: u32) -> VoterId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&spec.id).update(&spec.generation.to_le_bytes()).update(&node.to_le_bytes());
    let hash = hasher.finalize();
    let (bytes, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
    VoterId(u64::from_le_bytes(*bytes))
}
