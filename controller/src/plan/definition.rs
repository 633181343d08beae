//! What a volume begins with, as its members and its register are told it. Fixed with the placement, and never changed.

use lockstep_api::{Access, Ack, Arbiter, Definition, FirstMember, MirrorVolume, OnQuorumLoss, Policing, ReplicaRole};
use lockstep_core::{self as core, Config, Epoch, Generation, Incarnation, NodeId, Settings};

/// Grant Leases of a volume that several nodes write: enough that they rarely want the same one, few enough that each is renewed cheaply.
const SHARDS_OF_MANY: u8 = 8;

/// A volume's objects do not say what they have to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("volume {volume}: its status has no usable {field}")]
pub struct Incomplete {
    /// Which volume.
    pub volume: String,
    /// What is missing.
    pub field: &'static str,
}

/// The definition of a volume whose placement is written down. `size_bytes` of its status is the size at creation until it is created.
///
/// # Errors
/// The status lacks something.
pub fn plan_definition(volume: &MirrorVolume) -> Result<Definition, Incomplete> {
    let name = volume.metadata.name.clone().unwrap_or_default();
    let missing = |field| Incomplete { volume: name.clone(), field };
    let status = volume.status.as_ref().ok_or_else(|| missing("content"))?;
    let arbiter = status.arbiter.ok_or_else(|| missing("arbiter"))?;
    let members = |role| status.placement.iter().filter(move |placed| placed.role == role);
    let mut replicas: Vec<FirstMember> = members(ReplicaRole::Replica)
        .map(|placed| FirstMember { node_id: placed.node_id, incarnation: placed.incarnation })
        .collect();
    replicas.sort_by_key(|member| member.node_id);
    if replicas.is_empty() {
        return Err(missing("placement"));
    }
    Ok(Definition {
        id: status.id.clone().ok_or_else(|| missing("id"))?,
        generation: status.generation.clone().ok_or_else(|| missing("generation"))?,
        size_bytes: status.size_bytes,
        access: volume.spec.access,
        arbiter,
        policing_shards: match (volume.spec.policing, volume.spec.access) {
            (Policing::Peer, _) => 0,
            (Policing::Lease, Access::SingleWriter) => 1,
            (Policing::Lease, Access::MultiWriter) => SHARDS_OF_MANY,
        },
        ack: volume.spec.ack,
        on_quorum_loss: volume.spec.on_quorum_loss,
        replicas,
        tie_breaker: members(ReplicaRole::TieBreaker).map(|placed| placed.node_id).next(),
    })
}

/// The volume's identity in bytes; none: it is not 32 hex digits.
#[must_use]
pub fn parse_id(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(id)
}

/// The configuration with which the register of a volume begins whose arbiter is a Lease: nobody votes. None: a number does not parse.
#[must_use]
pub fn plan_register(definition: &Definition) -> Option<Config> {
    let size_blocks = u64::try_from(definition.size_bytes).ok()? / lockstep_csi::capacity::BLOCK_BYTES;
    Some(Config {
        volume: core::VolumeId(parse_id(&definition.id)?),
        generation: Generation { id: u64::from_str_radix(&definition.generation, 16).ok()?, parent: 0 },
        epoch: Epoch(1),
        size_blocks,
        settings: Settings {
            ack: match definition.ack {
                Ack::Disk => core::Ack::Disk,
                Ack::Durable => core::Ack::Durable,
            },
            on_quorum_loss: match definition.on_quorum_loss {
                OnQuorumLoss::Suspend => core::OnQuorumLoss::Suspend,
                OnQuorumLoss::Error => core::OnQuorumLoss::Error,
            },
            access: match definition.access {
                Access::SingleWriter => core::Access::SingleWriter,
                Access::MultiWriter => core::Access::MultiWriter,
            },
            arbiter: match definition.arbiter {
                Arbiter::Peers => core::Arbiter::Peers,
                Arbiter::Lease => core::Arbiter::Lease,
            },
            policing: match definition.policing_shards {
                0 => core::Policing::Peer,
                shards => core::Policing::lease(shards, size_blocks, Settings::EXTENT_BLOCKS),
            },
            extent_blocks: Settings::EXTENT_BLOCKS,
        },
        replicas: definition.replicas.iter().map(|member| NodeId(member.node_id)).collect(),
        tie_breaker: definition.tie_breaker.map(NodeId),
        in_sync: definition
            .replicas
            .iter()
            .map(|member| (NodeId(member.node_id), Incarnation(member.incarnation)))
            .collect(),
        voters: Default::default(),
        joining: Default::default(),
        added: Default::default(),
        attached: Default::default(),
        last_in_sync: Default::default(),
        requests: Default::default(),
        priority: core::Class::default(),
    })
}
