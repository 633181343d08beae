//! A volume as it was created: what every node knows of it, parsed once from the protocol.

use std::collections::BTreeMap;

use lockstep_proto::node::v1 as proto;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::input;

/// When a peer acknowledges a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// When its device completed it.
    Disk,
    /// When it is durable there.
    Durable,
}

/// What requests do without a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnQuorumLoss {
    /// They wait.
    Suspend,
    /// They fail.
    Error,
}

/// How many nodes may have the volume attached for writing at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// One.
    #[default]
    SingleWriter,
    /// Any number.
    MultiWriter,
}

/// A new volume's first configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name in the cluster.
    pub name: String,
    /// Random.
    pub id: [u8; 16],
    /// Random: the first generation.
    pub generation: u64,
    /// At creation.
    pub size_bytes: u64,
    /// Acknowledgement level.
    pub ack: Ack,
    /// Behaviour without a quorum.
    pub on_quorum_loss: OnQuorumLoss,
    /// One writer or several.
    #[serde(default)]
    pub access: Access,
    /// Nodes with a replica, each with the incarnation that is in sync at the start.
    pub replicas: BTreeMap<u32, u64>,
    /// The voter without data.
    pub tie_breaker: Option<u32>,
}

impl Spec {
    /// The nodes that must have a part of the volume before it exists.
    pub fn members(&self) -> impl Iterator<Item = u32> + '_ {
        self.replicas.keys().copied().chain(self.tie_breaker)
    }

    /// Whether `other` asks for the same volume: a repeated request, not another volume of that name.
    #[must_use]
    pub fn is_repeated_by(&self, other: &Self) -> bool {
        let key = |spec: &Self| {
            let replicas: Vec<u32> = spec.replicas.keys().copied().collect();
            (spec.size_bytes, spec.ack, spec.on_quorum_loss, spec.access, replicas, spec.tie_breaker)
        };
        self.name == other.name && key(self) == key(other)
    }

    /// Parses what a peer or agent sent.
    ///
    /// # Errors
    /// Wrong input, with the field.
    pub fn parse(spec: &proto::VolumeSpec) -> Result<Self, Failure> {
        input::check_name("name", &spec.name)?;
        input::check_size(spec.size_bytes)?;
        let id = parse_id(&spec.id)?;
        let generation = u64::from_str_radix(&spec.generation, 16)
            .map_err(|_| Failure::wrong_input("generation", &spec.generation, "must be 16 hex digits"))?;
        let replicas: BTreeMap<u32, u64> =
            spec.replicas.iter().map(|replica| (replica.node_id, replica.incarnation)).collect();
        if replicas.len() != spec.replicas.len() || !(1..=3).contains(&replicas.len()) {
            let given = spec.replicas.len();
            return Err(Failure::wrong_input("replicas", given, "must be 1 to 3 different nodes"));
        }
        if let Some(tie_breaker) = spec.tie_breaker_id
            && replicas.contains_key(&tie_breaker)
        {
            return Err(Failure::wrong_input("tie_breaker", tie_breaker, "has a replica"));
        }
        Ok(Self {
            name: spec.name.clone(),
            id,
            generation,
            size_bytes: spec.size_bytes,
            ack: parse_ack(spec.ack()),
            on_quorum_loss: parse_on_quorum_loss(spec.on_quorum_loss()),
            access: parse_access(spec.access()),
            replicas,
            tie_breaker: spec.tie_breaker_id,
        })
    }

    /// As it travels.
    #[must_use]
    pub fn to_proto(&self) -> proto::VolumeSpec {
        let ack = match self.ack {
            Ack::Disk => proto::Ack::Disk,
            Ack::Durable => proto::Ack::Durable,
        };
        let on_quorum_loss = match self.on_quorum_loss {
            OnQuorumLoss::Suspend => proto::OnQuorumLoss::Suspend,
            OnQuorumLoss::Error => proto::OnQuorumLoss::Error,
        };
        proto::VolumeSpec {
            name: self.name.clone(),
            id: input::to_hex(&self.id),
            generation: format!("{:016x}", self.generation),
            size_bytes: self.size_bytes,
            ack: ack.into(),
            on_quorum_loss: on_quorum_loss.into(),
            access: self.access.to_proto().into(),
            replicas: self
                .replicas
                .iter()
                .map(|(node_id, incarnation)| proto::Incarnation { node_id: *node_id, incarnation: *incarnation })
                .collect(),
            tie_breaker_id: self.tie_breaker,
        }
    }
}

/// Parses a volume's identity.
///
/// # Errors
/// Wrong input for anything but 32 hex digits.
pub fn parse_id(text: &str) -> Result<[u8; 16], Failure> {
    input::from_hex(text)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Failure::wrong_input("id", text, "must be 32 hex digits"))
}

/// The acknowledgement level of a request.
#[must_use]
pub const fn parse_ack(ack: proto::Ack) -> Ack {
    match ack {
        proto::Ack::Unspecified | proto::Ack::Disk => Ack::Disk,
        proto::Ack::Durable => Ack::Durable,
    }
}

impl Access {
    /// As it travels.
    #[must_use]
    pub const fn to_proto(self) -> proto::Access {
        match self {
            Access::SingleWriter => proto::Access::SingleWriter,
            Access::MultiWriter => proto::Access::MultiWriter,
        }
    }
}

/// Who may write, of a request.
#[must_use]
pub const fn parse_access(access: proto::Access) -> Access {
    match access {
        proto::Access::Unspecified | proto::Access::SingleWriter => Access::SingleWriter,
        proto::Access::MultiWriter => Access::MultiWriter,
    }
}

/// The behaviour without a quorum of a request.
#[must_use]
pub const fn parse_on_quorum_loss(choice: proto::OnQuorumLoss) -> OnQuorumLoss {
    match choice {
        proto::OnQuorumLoss::Unspecified | proto::OnQuorumLoss::Suspend => OnQuorumLoss::Suspend,
        proto::OnQuorumLoss::Error => OnQuorumLoss::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Ack, OnQuorumLoss, Spec};

    fn spec() -> Spec {
        Spec {
            name: "v1".into(),
            id: [3; 16],
            generation: 9,
            size_bytes: 1 << 20,
            ack: Ack::Durable,
            on_quorum_loss: OnQuorumLoss::Error,
            access: Access::MultiWriter,
            replicas: [(1, 5), (2, 6)].into(),
            tie_breaker: Some(3),
        }
    }

    #[test]
    fn a_spec_survives_the_protocol() {
        assert_eq!(Spec::parse(&spec().to_proto()), Ok(spec()));
        assert_eq!(spec().members().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn hostile_specs_are_refused() {
        let good = spec().to_proto();
        let twice = vec![good.replicas[0], good.replicas[0]];
        let bad = [
            super::proto::VolumeSpec { name: "../x".into(), ..good.clone() },
            super::proto::VolumeSpec { id: "00".into(), ..good.clone() },
            super::proto::VolumeSpec { generation: "-".into(), ..good.clone() },
            super::proto::VolumeSpec { size_bytes: 1, ..good.clone() },
            super::proto::VolumeSpec { replicas: vec![], ..good.clone() },
            super::proto::VolumeSpec { replicas: twice, ..good.clone() },
            super::proto::VolumeSpec { tie_breaker_id: Some(1), ..good.clone() },
        ];
        for bad in bad {
            assert!(Spec::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_repeated_request_differs_in_identity_only() {
        let again = Spec { id: [4; 16], generation: 1, replicas: [(1, 7), (2, 6)].into(), ..spec() };
        assert!(spec().is_repeated_by(&again));
        assert!(!spec().is_repeated_by(&Spec { size_bytes: 4096, ..again }));
    }
}
