//! What is to be done about a part next: a pure decision, from the object that wants it and from what the engine has.

use lockstep_api::{MirrorReplica, MirrorReplicaSpec, Phase, ReplicaRole, WritePriority, is_true, names};
use lockstep_proto::node::v1 as proto;

use super::definition::ack_to_proto;
use super::part_status::READY;
use super::part_work::Work;

/// What this node's engine has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// The engine's volume of the part's name.
    pub(super) engine: Option<&'a proto::VolumeStatus>,
    /// The engine has the pool; else why it has none.
    pub(super) pool: Result<(), &'a str>,
    /// This node shall have a pool.
    pub(super) pool_wanted: bool,
    /// Nothing of the volume is attached here, nor being attached.
    pub(super) unused: bool,
}

/// What to do about a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All is as it should be.
    Nothing,
    /// One of those that the volume is made of.
    Make,
    /// A member without data of a volume that exists.
    Admit,
    /// A replica or the tie-breaker of a volume that exists: what is still missing to that.
    Join,
    /// Take it away, then let the object go.
    Delete,
    /// An attachment that nobody uses any more: its object is to be marked.
    Abandon,
    /// It was made, and the engine has it no more. Nothing is made in its place: it would be empty, or without memory.
    Lost(String),
    /// Another volume bears the name here.
    Taken,
    /// It cannot be done yet.
    Wait(String),
}

/// Decides about one part.
pub(super) fn plan_step(object: &MirrorReplica, facts: Facts<'_>) -> Step {
    let (spec, metadata) = (&object.spec, &object.metadata);
    let is_replica = spec.role == ReplicaRole::Replica;
    if metadata.deletion_timestamp.is_some() {
        let ours = metadata.finalizers.iter().flatten().any(|finalizer| finalizer == names::FINALIZER_REPLICA);
        return match facts.pool {
            _ if !ours => Step::Nothing,
            // Its files would stay behind. A node that shall have no pool never had any.
            Err(reason) if is_replica && facts.pool_wanted => Step::Wait(format!("the pool is not open: {reason}")),
            _ => Step::Delete,
        };
    }
    match facts.engine {
        Some(engine) if engine.id.is_empty() || engine.id == spec.definition.id => match spec.role {
            ReplicaRole::Attachment if facts.unused => Step::Abandon,
            ReplicaRole::Attachment => Step::Nothing,
            ReplicaRole::Replica | ReplicaRole::TieBreaker if spec.joins => plan_joining(spec, engine, facts),
            ReplicaRole::Replica | ReplicaRole::TieBreaker => Step::Nothing,
        },
        Some(_) => Step::Taken,
        None if spec.role == ReplicaRole::Attachment && facts.unused => Step::Abandon,
        None => plan_missing(object, facts),
    }
}

/// What is there may be a part of another kind, or one that the volume does not count yet.
fn plan_joining(spec: &MirrorReplicaSpec, engine: &proto::VolumeStatus, facts: Facts<'_>) -> Step {
    let this = engine.this_node.clone().unwrap_or_default();
    if engine.epoch == 0 || this.disk() == proto::DiskState::Failed {
        return Step::Nothing;
    }
    let holds_data = !matches!(this.disk(), proto::DiskState::Diskless | proto::DiskState::Removed);
    match (spec.role, this.role()) {
        (ReplicaRole::Replica, proto::Role::Replica) if holds_data => Step::Nothing,
        (ReplicaRole::TieBreaker, proto::Role::TieBreaker) if this.disk() == proto::DiskState::Diskless => {
            Step::Nothing
        }
        (ReplicaRole::Replica, _) => match facts.pool {
            Ok(()) => Step::Join,
            Err(reason) => Step::Wait(format!("the pool is not open: {reason}")),
        },
        _ => Step::Join,
    }
}

fn plan_missing(object: &MirrorReplica, facts: Facts<'_>) -> Step {
    let spec = &object.spec;
    if spec.role == ReplicaRole::Replica {
        if let Err(reason) = facts.pool {
            return Step::Wait(format!("the pool is not open: {reason}"));
        }
        if was_made(object) {
            return Step::Lost(format!("the replica is not in the pool of node {} any more", spec.node_name));
        }
    }
    match spec.role {
        ReplicaRole::Replica | ReplicaRole::TieBreaker if spec.joins => Step::Join,
        // A vote is a memory of what was promised: one that was lost is not made as it was at first.
        ReplicaRole::TieBreaker if was_made(object) => Step::Admit,
        ReplicaRole::Replica | ReplicaRole::TieBreaker => Step::Make,
        ReplicaRole::Attachment => Step::Admit,
    }
}

/// Whether the engine ever had the part. Nothing is written to a volume before all its parts were reported made.
fn was_made(object: &MirrorReplica) -> bool {
    object.status.as_ref().is_some_and(|status| {
        status.phase == Phase::Ready || status.seen.epoch > 0 || is_true(&status.conditions, READY)
    })
}

/// Whether this node is the one that changes the volume's size and settings: the first in-sync replica. A writer may have no more than an
/// attachment, whose object says nothing of what is wanted.
pub(super) fn is_changer(engine: &proto::VolumeStatus, me: &str) -> bool {
    engine.in_sync.iter().min().is_some_and(|first| first == me)
}

/// A setting that is to be another one, and that this node changes.
pub(super) fn wanted_setting(spec: &MirrorReplicaSpec, engine: &proto::VolumeStatus, me: &str) -> Option<Work> {
    if !is_changer(engine, me) {
        return None;
    }
    let ack = spec.ack.map(ack_to_proto);
    let priority = spec.write_priority.map(|priority| match priority {
        WritePriority::Low => proto::Priority::Low,
        WritePriority::Normal => proto::Priority::Normal,
        WritePriority::High => proto::Priority::High,
    });
    let ack = ack.filter(|ack| *ack != engine.ack()).map(|ack| Work::SetAck { ack });
    ack.or_else(|| priority.filter(|it| *it != engine.priority()).map(|priority| Work::SetPriority { priority }))
}

/// A member that is not wanted any more and that this node takes out: the first of the wanted replicas that are in sync does. A tie-breaker
/// that has a successor goes in the same swap as that comes.
pub(super) fn surplus_member(spec: &MirrorReplicaSpec, engine: &proto::VolumeStatus) -> Option<u32> {
    let wanted = |id: u32| spec.members.iter().any(|member| member.node_id == id);
    let mut able = engine.replicas.iter().filter(|replica| {
        replica.in_sync
            && spec.members.iter().any(|it| it.node_id == replica.node_id && it.role == ReplicaRole::Replica)
    });
    let first = able.next()?;
    // One that came is given its vote by a swap of its own: before that, a vote less is one too few.
    let votes = |node: &String| engine.voters.is_empty() || engine.voters.contains(node);
    if first.node != spec.node_name || !votes(&first.node) || !able.all(|replica| votes(&replica.node)) {
        return None;
    }
    let vote = Some(engine.tie_breaker_id).filter(|id| *id != 0 && !wanted(*id));
    let vote = vote.filter(|_| spec.members.iter().all(|member| member.role != ReplicaRole::TieBreaker));
    engine.replicas.iter().map(|replica| replica.node_id).find(|id| !wanted(*id)).or(vote)
}

#[cfg(test)]
mod tests {
    use super::{Facts, Step, Work, is_changer, plan_step, surplus_member, wanted_setting};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use lockstep_api::{Ack, Member, MirrorReplica, MirrorReplicaStatus, Phase, ReplicaRole, WritePriority, names};
    use lockstep_proto::node::v1 as proto;
    use serde_json::json;

    const ID: &str = "000102030405060708090a0b0c0d0e0f";

    fn object(role: ReplicaRole, joins: bool) -> MirrorReplica {
        serde_json::from_value(json!({
            "apiVersion": "lockstep.storage/v1alpha1",
            "kind": "MirrorReplica",
            "metadata": { "name": "v.a", "finalizers": [names::FINALIZER_REPLICA] },
            "spec": {
                "volume": "v", "nodeName": "a", "role": role, "joins": joins,
                "definition": {
                    "id": ID, "generation": "0000000000000001", "sizeBytes": 4096, "access": "SingleWriter",
                    "arbiter": "Peers", "policingShards": 0, "ack": "Disk", "onQuorumLoss": "Suspend",
                    "replicas": [{ "nodeId": 1, "incarnation": 1 }],
                },
            },
        }))
        .expect("is an object")
    }

    fn made(mut object: MirrorReplica) -> MirrorReplica {
        object.status = Some(MirrorReplicaStatus { phase: Phase::Ready, ..Default::default() });
        object
    }

    fn marked(mut object: MirrorReplica) -> MirrorReplica {
        object.metadata.deletion_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
        object
    }

    const NOTHING: Facts<'static> = Facts { engine: None, pool: Ok(()), pool_wanted: true, unused: false };

    #[test]
    fn the_first_replica_in_sync_changes_settings_one_by_one() {
        let mut spec = object(ReplicaRole::Replica, false).spec;
        let mut engine = proto::VolumeStatus { in_sync: vec!["b".to_owned(), "a".to_owned()], ..Default::default() };
        engine.set_ack(proto::Ack::Disk);
        engine.set_priority(proto::Priority::Normal);
        assert_eq!(wanted_setting(&spec, &engine, "a"), None, "nothing is wanted");
        (spec.ack, spec.write_priority) = (Some(Ack::Durable), Some(WritePriority::High));
        assert_eq!(wanted_setting(&spec, &engine, "b"), None, "a does it");
        assert_eq!(wanted_setting(&spec, &engine, "a"), Some(Work::SetAck { ack: proto::Ack::Durable }));
        engine.set_ack(proto::Ack::Durable);
        let second = Some(Work::SetPriority { priority: proto::Priority::High });
        assert_eq!(wanted_setting(&spec, &engine, "a"), second);
        engine.set_priority(proto::Priority::High);
        assert_eq!(wanted_setting(&spec, &engine, "a"), None, "all is as wanted");
    }

    #[test]
    fn a_part_that_is_missing_is_made_as_its_role_allows() {
        use ReplicaRole::{Attachment, Replica, TieBreaker};
        let step = |object: &MirrorReplica| plan_step(object, NOTHING);
        assert_eq!(step(&object(Replica, false)), Step::Make);
        assert_eq!(step(&object(TieBreaker, false)), Step::Make);
        assert_eq!(step(&object(Attachment, false)), Step::Admit);
        assert_eq!(step(&object(Replica, true)), Step::Join);
        assert_eq!(step(&object(TieBreaker, true)), Step::Join);
        assert!(matches!(step(&made(object(Replica, false))), Step::Lost(_)), "never an empty one in its place");
        assert!(matches!(step(&made(object(Replica, true))), Step::Lost(_)), "nor of one that joined");
        assert_eq!(step(&made(object(TieBreaker, false))), Step::Admit, "never a vote that forgot its promises");
    }

    #[test]
    fn a_part_joins_until_the_volume_counts_it() {
        use proto::{DiskState, Role};
        let step = |role, disk, counted| {
            let mut this = proto::ThisNode::default();
            this.set_disk(disk);
            this.set_role(counted);
            let engine =
                proto::VolumeStatus { id: ID.to_owned(), epoch: 3, this_node: Some(this), ..Default::default() };
            plan_step(&object(role, true), Facts { engine: Some(&engine), ..NOTHING })
        };
        let replica = ReplicaRole::Replica;
        assert_eq!(step(replica, DiskState::Diskless, Role::TieBreaker), Step::Join, "a vote that becomes a replica");
        assert_eq!(step(replica, DiskState::Diskless, Role::Diskless), Step::Join, "an attachment that becomes one");
        assert_eq!(step(replica, DiskState::Removed, Role::Diskless), Step::Join, "it was one before");
        assert_eq!(step(replica, DiskState::Diskless, Role::Replica), Step::Join, "the volume counts what is gone");
        assert_eq!(step(replica, DiskState::Inconsistent, Role::Diskless), Step::Join, "it is empty, and not counted");
        assert_eq!(step(replica, DiskState::Inconsistent, Role::Replica), Step::Nothing);
        assert_eq!(step(replica, DiskState::Failed, Role::Replica), Step::Nothing);
        let vote = ReplicaRole::TieBreaker;
        assert_eq!(step(vote, DiskState::UpToDate, Role::Replica), Step::Join, "a replica that becomes a vote");
        assert_eq!(step(vote, DiskState::Removed, Role::TieBreaker), Step::Join, "its data are in the way");
        assert_eq!(step(vote, DiskState::Diskless, Role::TieBreaker), Step::Nothing);
    }

    #[test]
    fn a_replica_waits_for_its_pool_to_be_made_and_to_be_deleted() {
        let closed = Facts { pool: Err("no disk"), ..NOTHING };
        let replica = object(ReplicaRole::Replica, false);
        for object in [replica.clone(), made(replica.clone()), marked(replica.clone())] {
            assert_eq!(plan_step(&object, closed), Step::Wait("the pool is not open: no disk".to_owned()));
        }
        assert_eq!(plan_step(&object(ReplicaRole::TieBreaker, false), closed), Step::Make);
        assert_eq!(plan_step(&marked(object(ReplicaRole::TieBreaker, false)), closed), Step::Delete);
        assert_eq!(plan_step(&marked(replica), Facts { pool_wanted: false, ..closed }), Step::Delete);
    }

    #[test]
    fn what_is_there_stays_and_what_is_marked_goes() {
        let there = proto::VolumeStatus { id: ID.to_owned(), ..Default::default() };
        let other = proto::VolumeStatus { id: "00".repeat(16), ..Default::default() };
        let replica = object(ReplicaRole::Replica, false);
        let with = |engine| Facts { engine: Some(engine), ..NOTHING };
        assert_eq!(plan_step(&replica, with(&there)), Step::Nothing);
        assert_eq!(plan_step(&replica, with(&other)), Step::Taken);
        assert_eq!(plan_step(&marked(replica.clone()), with(&there)), Step::Delete);
        let mut released = marked(replica);
        released.metadata.finalizers = None;
        assert_eq!(plan_step(&released, with(&there)), Step::Nothing);
    }

    #[test]
    fn an_attachment_that_nobody_uses_is_abandoned() {
        let there = proto::VolumeStatus { id: ID.to_owned(), ..Default::default() };
        let attachment = object(ReplicaRole::Attachment, false);
        for engine in [None, Some(&there)] {
            let facts = Facts { engine, ..NOTHING };
            assert_ne!(plan_step(&attachment, facts), Step::Abandon);
            assert_eq!(plan_step(&attachment, Facts { unused: true, ..facts }), Step::Abandon);
        }
        assert_eq!(plan_step(&object(ReplicaRole::Replica, false), Facts { unused: true, ..NOTHING }), Step::Make);
    }

    #[test]
    fn a_member_that_is_not_wanted_is_taken_out_by_one_of_the_others() {
        use ReplicaRole::{Replica, TieBreaker};
        let surplus = |me: &str, members: &[(u32, ReplicaRole)], in_sync: &[u32], tie_breaker_id: u32| {
            let mut object = object(Replica, false);
            object.spec.node_name = me.to_owned();
            let member = |(node_id, role): &(u32, ReplicaRole)| Member { node_id: *node_id, role: *role };
            object.spec.members = members.iter().map(member).collect();
            let replicas = [(1, "a"), (2, "b"), (4, "d")].map(|(node_id, node)| proto::ReplicaStatus {
                node: node.to_owned(),
                in_sync: in_sync.contains(&node_id),
                joining: false,
                node_id,
            });
            let voters = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
            let engine =
                proto::VolumeStatus { replicas: replicas.to_vec(), tie_breaker_id, voters, ..Default::default() };
            let fewer = proto::VolumeStatus { voters: vec!["a".to_owned(), "b".to_owned()], ..engine.clone() };
            assert_eq!(
                surplus_member(&object.spec, &fewer).filter(|_| in_sync.contains(&4)),
                None,
                "d has no vote yet"
            );
            surplus_member(&object.spec, &engine)
        };
        let wanted = [(1, Replica), (4, Replica), (3, TieBreaker)];
        assert_eq!(surplus("a", &wanted, &[1, 4], 3), Some(2));
        assert_eq!(surplus("d", &wanted, &[1, 4], 3), None, "one node is enough");
        assert_eq!(surplus("d", &wanted, &[4], 3), Some(2));
        assert_eq!(surplus("b", &wanted, &[2], 3), None, "nobody takes itself out");
        assert_eq!(surplus("a", &[], &[1, 4], 3), None, "nothing was said");
        let all = [(1, Replica), (2, Replica), (4, Replica)];
        assert_eq!(surplus("a", &all, &[1, 2, 4], 3), Some(3), "three replicas need no other vote");
        let another = [(1, Replica), (2, Replica), (4, Replica), (5, TieBreaker)];
        assert_eq!(surplus("a", &another, &[1, 2, 4], 3), None, "its successor takes its place");
    }

    #[test]
    fn one_node_makes_the_volume_larger() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let status = |writers: &[&str], in_sync: &[&str]| proto::VolumeStatus {
            writers: names(writers),
            in_sync: names(in_sync),
            ..Default::default()
        };
        // A writer on a node without a replica is told of no size.
        assert!(is_changer(&status(&["c"], &["b", "a"]), "a"));
        assert!(!is_changer(&status(&["c"], &["b", "a"]), "b") && !is_changer(&status(&["c"], &["b", "a"]), "c"));
        assert!(!is_changer(&status(&[], &[]), "a"));
    }
}
