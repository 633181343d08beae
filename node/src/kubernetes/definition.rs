//! A volume's definition, as a MirrorReplica carries it, made into what engines are given.

use lockstep_api as api;
use lockstep_proto::node::v1 as proto;

use crate::failure::Failure;
use crate::spec::{Access, Arbiter, OnQuorumLoss, Spec};

/// An acknowledgement level as it travels.
pub(super) const fn ack_to_proto(ack: api::Ack) -> proto::Ack {
    match ack {
        api::Ack::Disk => proto::Ack::Disk,
        api::Ack::Durable => proto::Ack::Durable,
    }
}

/// Parses the definition of volume `name`.
///
/// # Errors
/// Wrong input, with the field: nobody can make such a volume.
pub(crate) fn parse_definition(name: &str, definition: &api::Definition) -> Result<Spec, Failure> {
    let size_bytes = u64::try_from(definition.size_bytes)
        .map_err(|_| Failure::wrong_input("size_bytes", definition.size_bytes, "must be positive"))?;
    let on_quorum_loss = match definition.on_quorum_loss {
        api::OnQuorumLoss::Suspend => OnQuorumLoss::Suspend,
        api::OnQuorumLoss::Error => OnQuorumLoss::Error,
    };
    let access = match definition.access {
        api::Access::SingleWriter => Access::SingleWriter,
        api::Access::MultiWriter => Access::MultiWriter,
    };
    let arbiter = match definition.arbiter {
        api::Arbiter::Peers => Arbiter::Peers,
        api::Arbiter::Lease => Arbiter::Lease,
    };
    let replicas = definition.replicas.iter();
    // What holds for a definition from another agent holds for this one: it goes the same way.
    Spec::parse(&proto::VolumeSpec {
        name: name.to_owned(),
        id: definition.id.clone(),
        generation: definition.generation.clone(),
        size_bytes,
        ack: ack_to_proto(definition.ack).into(),
        on_quorum_loss: on_quorum_loss.to_proto().into(),
        replicas: replicas
            .map(|member| proto::Incarnation { node_id: member.node_id, incarnation: member.incarnation })
            .collect(),
        tie_breaker_id: definition.tie_breaker,
        access: access.to_proto().into(),
        arbiter: arbiter.to_proto().into(),
        policing_shards: u32::from(definition.policing_shards),
    })
}

#[cfg(test)]
mod tests {
    use super::parse_definition;
    use crate::spec::{Access, Ack, Arbiter, OnQuorumLoss, Policing};
    use lockstep_api as api;

    fn definition() -> api::Definition {
        api::Definition {
            id: "000102030405060708090a0b0c0d0e0f".to_owned(),
            generation: "00000000000000ff".to_owned(),
            size_bytes: 1 << 20,
            access: api::Access::MultiWriter,
            arbiter: api::Arbiter::Lease,
            policing_shards: 4,
            ack: api::Ack::Durable,
            on_quorum_loss: api::OnQuorumLoss::Error,
            replicas: vec![
                api::FirstMember { node_id: 4_000_000_000, incarnation: 1 << 60 },
                api::FirstMember { node_id: 2, incarnation: 3 },
            ],
            tie_breaker: None,
        }
    }

    #[test]
    fn a_definition_becomes_a_spec() {
        let spec = parse_definition("pvc-1", &definition()).expect("is right");
        assert_eq!((spec.name.as_str(), spec.id[15], spec.generation), ("pvc-1", 15, 255));
        assert_eq!((spec.size_bytes, spec.ack, spec.on_quorum_loss), (1 << 20, Ack::Durable, OnQuorumLoss::Error));
        assert_eq!((spec.access, spec.arbiter), (Access::MultiWriter, Arbiter::Lease));
        assert_eq!(spec.policing, Policing::Lease { shards: 4 });
        assert_eq!(spec.replicas, [(4_000_000_000, 1 << 60), (2, 3)].into());
    }

    #[test]
    fn a_definition_that_cannot_be_is_refused_by_field() {
        let cases = [
            (api::Definition { size_bytes: -4096, ..definition() }, "size_bytes"),
            (api::Definition { size_bytes: 4097, ..definition() }, "size"),
            (api::Definition { id: "x".to_owned(), ..definition() }, "id"),
            (api::Definition { generation: String::new(), ..definition() }, "generation"),
            (api::Definition { replicas: Vec::new(), ..definition() }, "replicas"),
            (api::Definition { tie_breaker: Some(2), ..definition() }, "tie_breaker"),
        ];
        for (wrong, field) in cases {
            let failure = parse_definition("pvc-1", &wrong).expect_err(field);
            assert_eq!(failure.field.as_deref(), Some(field), "{failure}");
        }
    }
}
