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

/// Who keeps the volume's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arbiter {
    /// A quorum of its voters.
    #[default]
    Peers,
    /// A Kubernetes Lease.
    Lease,
}

/// Who decides who may write which range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policing {
    /// Its members, by messages.
    #[default]
    Peer,
    /// So many Kubernetes Leases.
    Lease {
        /// 1 to [`lockstep_core::Policing::SHARDS_MAX`].
        shards: u8,
    },
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
    /// Who keeps the configuration.
    #[serde(default)]
    pub arbiter: Arbiter,
    /// Who decides who may write where.
    #[serde(default)]
    pub policing: Policing,
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

    /// Those of them that decide about its configuration.
    pub fn voters(&self) -> impl Iterator<Item = u32> + '_ {
        self.members().filter(|_| self.arbiter == Arbiter::Peers)
    }

    /// Whether `other` asks for the same volume: a repeated request, not another volume of that name.
    #[must_use]
    pub fn is_repeated_by(&self, other: &Self) -> bool {
        let key = |spec: &Self| {
            let replicas: Vec<u32> = spec.replicas.keys().copied().collect();
            let settings = (spec.ack, spec.on_quorum_loss, spec.access, spec.arbiter, spec.policing);
            (spec.size_bytes, settings, replicas, spec.tie_breaker)
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
        let (arbiter, access) = (parse_arbiter(spec.arbiter()), parse_access(spec.access()));
        check_tie_breaker(arbiter, spec.tie_breaker_id)?;
        let policing = match spec.policing_shards {
            0 => Policing::Peer,
            shards => parse_policing(proto::Policing::Lease, Some(shards), arbiter, access)?,
        };
        Ok(Self {
            name: spec.name.clone(),
            id,
            generation,
            size_bytes: spec.size_bytes,
            ack: parse_ack(spec.ack()),
            on_quorum_loss: parse_on_quorum_loss(spec.on_quorum_loss()),
            access,
            arbiter,
            policing,
            replicas,
            tie_breaker: spec.tie_breaker_id,
        })
    }

    /// As it travels.
    #[must_use]
    pub fn to_proto(&self) -> proto::VolumeSpec {
        proto::VolumeSpec {
            name: self.name.clone(),
            id: input::to_hex(&self.id),
            generation: format!("{:016x}", self.generation),
            size_bytes: self.size_bytes,
            ack: self.ack.to_proto().into(),
            on_quorum_loss: self.on_quorum_loss.to_proto().into(),
            access: self.access.to_proto().into(),
            arbiter: self.arbiter.to_proto().into(),
            policing_shards: self.policing.shards(),
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

impl Ack {
    /// As it travels.
    #[must_use]
    pub const fn to_proto(self) -> proto::Ack {
        match self {
            Ack::Disk => proto::Ack::Disk,
            Ack::Durable => proto::Ack::Durable,
        }
    }
}

impl OnQuorumLoss {
    /// As it travels.
    #[must_use]
    pub const fn to_proto(self) -> proto::OnQuorumLoss {
        match self {
            OnQuorumLoss::Suspend => proto::OnQuorumLoss::Suspend,
            OnQuorumLoss::Error => proto::OnQuorumLoss::Error,
        }
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

impl Arbiter {
    /// As it travels.
    #[must_use]
    pub const fn to_proto(self) -> proto::Arbiter {
        match self {
            Arbiter::Peers => proto::Arbiter::Peers,
            Arbiter::Lease => proto::Arbiter::Lease,
        }
    }
}

impl Policing {
    /// How many Leases say who may write; 0: none does.
    #[must_use]
    pub fn shards(self) -> u32 {
        match self {
            Policing::Peer => 0,
            Policing::Lease { shards } => u32::from(shards),
        }
    }
}

/// Who keeps the configuration, of a request.
#[must_use]
pub const fn parse_arbiter(arbiter: proto::Arbiter) -> Arbiter {
    match arbiter {
        proto::Arbiter::Unspecified | proto::Arbiter::Peers => Arbiter::Peers,
        proto::Arbiter::Lease => Arbiter::Lease,
    }
}

/// Who decides who may write where, of a request.
///
/// # Errors
/// Wrong input for a number of Leases that cannot be, or that fits nothing else of the request.
pub fn parse_policing(
    policing: proto::Policing,
    shards: Option<u32>,
    arbiter: Arbiter,
    access: Access,
) -> Result<Policing, Failure> {
    let given = shards.unwrap_or(1);
    let wrong_shards = |message: String| Err(Failure::wrong_input("policing_shards", given, message));
    if policing != proto::Policing::Lease {
        return match shards {
            None => Ok(Policing::Peer),
            Some(_) => wrong_shards("only Lease policing has shards: it goes with \"policing\" lease".to_owned()),
        };
    }
    if arbiter != Arbiter::Lease {
        let message = "needs a Lease as the arbiter too: add \"arbiter\" lease";
        return Err(Failure::wrong_input("policing", "lease", message));
    }
    let most = lockstep_core::Policing::SHARDS_MAX;
    match u8::try_from(given) {
        Ok(shards) if (2..=most).contains(&shards) && access == Access::SingleWriter => {
            wrong_shards("must be 1 for a single-writer volume: one node writes all of it".to_owned())
        }
        Ok(shards) if (1..=most).contains(&shards) => Ok(Policing::Lease { shards }),
        _ => wrong_shards(format!("must be 1 to {most}")),
    }
}

/// Where nobody votes, nobody is there to break a tie.
fn check_tie_breaker(arbiter: Arbiter, tie_breaker: Option<u32>) -> Result<(), Failure> {
    match tie_breaker {
        Some(id) if arbiter == Arbiter::Lease => Err(Failure::wrong_input("tie_breaker", id, NO_VOTES)),
        _ => Ok(()),
    }
}

/// Why a volume with a Lease as its arbiter has no tie-breaker.
pub const NO_VOTES: &str = "a Lease is the arbiter, and nobody votes: leave it out";

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
    use super::{Access, Ack, Arbiter, OnQuorumLoss, Policing, Spec, parse_policing, proto};

    fn spec() -> Spec {
        Spec {
            name: "v1".into(),
            id: [3; 16],
            generation: 9,
            size_bytes: 1 << 20,
            ack: Ack::Durable,
            on_quorum_loss: OnQuorumLoss::Error,
            access: Access::MultiWriter,
            arbiter: Arbiter::Peers,
            policing: Policing::Peer,
            replicas: [(1, 5), (2, 6)].into(),
            tie_breaker: Some(3),
        }
    }

    #[test]
    fn a_spec_survives_the_protocol() {
        assert_eq!(Spec::parse(&spec().to_proto()), Ok(spec()));
        assert_eq!(spec().members().collect::<Vec<_>>(), [1, 2, 3]);
        let policing = Policing::Lease { shards: 16 };
        let leased = Spec { arbiter: Arbiter::Lease, policing, tie_breaker: None, ..spec() };
        assert_eq!(Spec::parse(&leased.to_proto()), Ok(leased));
    }

    #[test]
    fn a_spec_of_an_earlier_release_is_read() {
        let mut json = serde_json::to_value(spec()).expect("is JSON");
        let fields = json.as_object_mut().expect("an object");
        for later in ["arbiter", "policing"] {
            assert!(fields.remove(later).is_some());
        }
        assert_eq!(serde_json::from_value::<Spec>(json).expect("is read"), spec());
    }

    #[test]
    fn policing_that_cannot_be_is_named() {
        let lease = proto::Policing::Lease;
        let multi = |shards| parse_policing(lease, Some(shards), Arbiter::Lease, Access::MultiWriter);
        assert_eq!(
            parse_policing(lease, None, Arbiter::Lease, Access::SingleWriter),
            Ok(Policing::Lease { shards: 1 })
        );
        assert_eq!(multi(16), Ok(Policing::Lease { shards: 16 }));
        for (wrong, field, says) in [
            (multi(0), "policing_shards", "must be 1 to 16"),
            (multi(17), "policing_shards", "must be 1 to 16"),
            (multi(300), "policing_shards", "must be 1 to 16"),
            (parse_policing(lease, Some(2), Arbiter::Lease, Access::SingleWriter), "policing_shards", "must be 1 for"),
            (
                parse_policing(lease, None, Arbiter::Peers, Access::MultiWriter),
                "policing",
                "needs a Lease as the arbiter",
            ),
            (
                parse_policing(proto::Policing::Peer, Some(4), Arbiter::Lease, Access::MultiWriter),
                "policing_shards",
                "only Lease policing",
            ),
        ] {
            let failure = wrong.expect_err(says);
            assert_eq!(failure.field.as_deref(), Some(field));
            assert!(failure.message.contains(says), "{failure}");
        }
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
            super::proto::VolumeSpec { arbiter: proto::Arbiter::Lease.into(), ..good.clone() },
            super::proto::VolumeSpec { policing_shards: 1, ..good.clone() },
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
