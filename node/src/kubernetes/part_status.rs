//! What a MirrorReplica says of this node's part, from what the engine says of it; and what of it is worth a request.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lockstep_api::{
    Attached, DiskState, LOST, MirrorReplica, MirrorReplicaStatus, Phase, REGISTER_LOST, ReplicaRole, Resync, Seen,
    condition, set_condition,
};
use lockstep_proto::node::v1 as proto;

/// Progress alone is told at most so often...
pub(super) const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// ...and only if it moved by so many hundredths.
const PROGRESS_PERCENT: i64 = 5;

/// Condition: the engine has made its part. It stays true if the part is lost: nothing is ever made in its place.
pub(super) const READY: &str = "Ready";

/// Condition of replicas: the part counts as in sync.
pub(super) const IN_SYNC: &str = "InSync";

/// What is known of a part, beside the object that wants it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Known<'a> {
    /// The engine runs it, opens it, or says why it cannot.
    Engine(&'a proto::VolumeStatus),
    /// It is not made yet; why, if there is something to say.
    Pending(&'a str),
    /// It cannot be made.
    Failed(&'a str),
    /// It was made, and is there no more.
    Lost(&'a str),
    /// It is being taken away; what that waits for, if it waits.
    Deleting(&'a str),
}

/// The status of a part, from the one it had.
pub(super) fn part_status(object: &MirrorReplica, known: Known<'_>, now: &Time) -> MirrorReplicaStatus {
    let mut status = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    status.observed_generation = generation;
    let say = |phase, message: &str, status: &mut MirrorReplicaStatus| {
        status.phase = phase;
        message.clone_into(&mut status.message);
    };
    match known {
        Known::Pending(message) => say(Phase::Pending, message, &mut status),
        Known::Deleting(message) => say(Phase::Deleting, message, &mut status),
        Known::Failed(message) | Known::Lost(message) => {
            if matches!(known, Known::Lost(_)) {
                let lost = condition(LOST, true, "NotInPool", message, generation, now.clone());
                set_condition(&mut status.conditions, lost);
            }
            say(Phase::Failed, message, &mut status);
            status.disk = Some(DiskState::Failed);
            status.attached = None;
            status.device = None;
            if object.spec.role == ReplicaRole::Replica {
                let condition = condition(IN_SYNC, false, "Failed", message, generation, now.clone());
                set_condition(&mut status.conditions, condition);
            }
        }
        Known::Engine(engine) => fill(&mut status, object, engine, now),
    }
    status
}

fn fill(status: &mut MirrorReplicaStatus, object: &MirrorReplica, engine: &proto::VolumeStatus, now: &Time) {
    let generation = object.metadata.generation;
    let made = condition(READY, true, "Made", "", generation, now.clone());
    set_condition(&mut status.conditions, made);
    status.conditions.retain(|condition| condition.type_ != LOST);
    let this = engine.this_node.clone().unwrap_or_default();
    match engine.state() {
        proto::VolumeState::Failed => {
            status.phase = Phase::Failed;
            status.message.clone_from(&this.reason);
            status.disk = Some(DiskState::Failed);
        }
        // It is being opened: what is known of it stays as it was.
        proto::VolumeState::Starting if engine.epoch == 0 => return,
        _ => {
            status.phase = Phase::Ready;
            status.message.clone_from(&this.reason);
            status.disk = disk(this.disk());
        }
    }
    status.attached = attached(this.attached());
    status.device = status.attached.and(Some(this.device)).filter(|device| !device.is_empty());
    if engine.epoch > 0 {
        status.seen = seen(engine);
    }
    status.unreachable = engine.peers.iter().filter(|peer| !peer.reachable).map(|peer| peer.node.clone()).collect();
    status.unreachable.sort_unstable();
    status.dirty_bytes = bytes(engine.dirty_bytes.values().copied().max().unwrap_or(0));
    status.resync = engine.resync.as_ref().filter(|resync| resync.active).map(|resync| Resync {
        bytes_done: bytes(resync.bytes_done),
        bytes_total: bytes(resync.bytes_total),
        bytes_per_second: bytes(resync.bytes_per_second),
    });
    status.suspended = suspended(engine);
    match engine.configuration_trouble.as_str() {
        "" => status.conditions.retain(|condition| condition.type_ != REGISTER_LOST),
        trouble => {
            let lost = condition(REGISTER_LOST, true, REGISTER_LOST, trouble, generation, now.clone());
            set_condition(&mut status.conditions, lost);
        }
    }
    if object.spec.role == ReplicaRole::Replica {
        let in_sync = engine.in_sync.contains(&object.spec.node_name);
        let (reason, message) = if in_sync { ("InSync", "") } else { ("NotInSync", status.message.as_str()) };
        let condition = condition(IN_SYNC, in_sync, reason, message, generation, now.clone());
        set_condition(&mut status.conditions, condition);
    }
}

const fn disk(disk: proto::DiskState) -> Option<DiskState> {
    match disk {
        proto::DiskState::Unspecified => None,
        proto::DiskState::UpToDate => Some(DiskState::UpToDate),
        proto::DiskState::Inconsistent => Some(DiskState::Inconsistent),
        proto::DiskState::Outdated => Some(DiskState::Outdated),
        // What was removed from the volume is no copy of it any more.
        proto::DiskState::Diskless | proto::DiskState::Removed => Some(DiskState::Diskless),
        proto::DiskState::Failed => Some(DiskState::Failed),
    }
}

const fn attached(mode: proto::AttachMode) -> Option<Attached> {
    match mode {
        proto::AttachMode::ReadWrite => Some(Attached::ReadWrite),
        proto::AttachMode::ReadOnly => Some(Attached::ReadOnly),
        proto::AttachMode::Unspecified | proto::AttachMode::None => None,
    }
}

fn seen(engine: &proto::VolumeStatus) -> Seen {
    Seen {
        generation: engine.generation.clone(),
        epoch: engine.epoch,
        size_bytes: bytes(engine.size_bytes),
        in_sync: engine.in_sync.clone(),
        joining: engine.joining.clone(),
        writers: engine.writers.clone(),
    }
}

fn suspended(engine: &proto::VolumeStatus) -> String {
    match engine.state() {
        proto::VolumeState::Suspended if engine.configuration_trouble.is_empty() => {
            "neither a quorum nor all peers can be reached".to_owned()
        }
        proto::VolumeState::Suspended => engine.configuration_trouble.clone(),
        _ => String::new(),
    }
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whether a status is worth a request, `since` the last one was sent: a transition always is, progress now and then.
pub(super) fn is_worth_sending(old: &MirrorReplicaStatus, new: &MirrorReplicaStatus, since: Duration) -> bool {
    if steps_of(old) != steps_of(new) {
        return true;
    }
    let done = |status: &MirrorReplicaStatus| status.resync.as_ref().map_or(0, |resync| resync.bytes_done);
    let total = new.resync.as_ref().map_or(0, |resync| resync.bytes_total);
    let moved =
        |old: i64, new: i64, whole: i64| old.abs_diff(new) > u64::try_from(whole / 100 * PROGRESS_PERCENT).unwrap_or(0);
    let progressed = moved(done(old), done(new), total)
        || moved(old.dirty_bytes, new.dirty_bytes, old.dirty_bytes.max(new.dirty_bytes));
    progressed && since >= PROGRESS_EVERY
}

/// A status without what only moves on: what is left are its steps.
fn steps_of(status: &MirrorReplicaStatus) -> MirrorReplicaStatus {
    let mut steps = status.clone();
    steps.dirty_bytes = i64::from(steps.dirty_bytes > 0);
    steps.resync = steps.resync.map(|_| Resync::default());
    steps
}

#[cfg(test)]
mod tests {
    use super::{IN_SYNC, Known, READY, is_worth_sending, part_status};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use lockstep_api::{
        Access, Ack, Arbiter, Attached, Definition, DiskState, FirstMember, LOST, MirrorReplica, MirrorReplicaSpec,
        MirrorReplicaStatus, OnQuorumLoss, Phase, REGISTER_LOST, ReplicaRole, is_true,
    };
    use lockstep_proto::node::v1 as proto;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn object(role: ReplicaRole) -> MirrorReplica {
        let definition = Definition {
            id: "00".repeat(16),
            generation: "0".repeat(16),
            size_bytes: 4096,
            access: Access::SingleWriter,
            arbiter: Arbiter::Peers,
            policing_shards: 0,
            ack: Ack::Disk,
            on_quorum_loss: OnQuorumLoss::Suspend,
            replicas: vec![FirstMember { node_id: 1, incarnation: 1 }],
            tie_breaker: None,
        };
        let spec = MirrorReplicaSpec {
            volume: "v".to_owned(),
            node_name: "a".to_owned(),
            role,
            definition,
            joins: false,
            size_bytes: None,
            resync_rate: 0,
            ack: None,
            write_priority: None,
            members: Vec::new(),
        };
        MirrorReplica::new("v.a", spec)
    }

    fn engine() -> proto::VolumeStatus {
        let mut this = proto::ThisNode { device: "/dev/lockstep/v".to_owned(), ..Default::default() };
        this.set_attached(proto::AttachMode::ReadWrite);
        this.set_disk(proto::DiskState::UpToDate);
        let peer = |node: &str, reachable| proto::PeerStatus { node: node.to_owned(), reachable, ..Default::default() };
        let mut status = proto::VolumeStatus {
            epoch: 4,
            size_bytes: 8192,
            in_sync: vec!["a".to_owned()],
            writers: vec!["a".to_owned()],
            peers: vec![peer("c", false), peer("b", true)],
            dirty_bytes: [("c".to_owned(), 4096), ("b".to_owned(), 0)].into(),
            this_node: Some(this),
            ..Default::default()
        };
        status.set_state(proto::VolumeState::Degraded);
        status
    }

    fn status(object: &MirrorReplica, known: Known<'_>) -> MirrorReplicaStatus {
        part_status(object, known, &Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn a_part_is_told_as_the_engine_sees_it() {
        let object = object(ReplicaRole::Replica);
        let status = status(&object, Known::Engine(&engine()));
        assert_eq!((status.phase, status.disk), (Phase::Ready, Some(DiskState::UpToDate)));
        assert_eq!((status.attached, status.device.as_deref()), (Some(Attached::ReadWrite), Some("/dev/lockstep/v")));
        assert_eq!((status.seen.epoch, status.seen.size_bytes, status.dirty_bytes), (4, 8192, 4096));
        assert_eq!(status.unreachable, ["c"]);
        assert!(is_true(&status.conditions, READY) && is_true(&status.conditions, IN_SYNC));
    }

    #[test]
    fn a_register_that_cannot_be_believed_is_told_while_it_is_so() {
        let mut object = object(ReplicaRole::Replica);
        let troubled = proto::VolumeStatus { configuration_trouble: "it is older".to_owned(), ..engine() };
        object.status = Some(status(&object, Known::Engine(&troubled)));
        assert!(is_true(&object.status.as_ref().expect("was set").conditions, REGISTER_LOST));
        assert!(!is_true(&status(&object, Known::Engine(&engine())).conditions, REGISTER_LOST));
    }

    #[test]
    fn what_is_lost_stays_made() {
        let mut object = object(ReplicaRole::Replica);
        object.status = Some(status(&object, Known::Engine(&engine())));
        object.status = Some(status(&object, Known::Lost("it is gone")));
        let lost = object.status.clone().expect("was set");
        assert_eq!((lost.phase, lost.message.as_str(), lost.attached), (Phase::Failed, "it is gone", None));
        assert!(is_true(&lost.conditions, READY) && !is_true(&lost.conditions, IN_SYNC));
        assert!(is_true(&lost.conditions, LOST), "who replaces it has to know");
        object.status = Some(status(&object, Known::Engine(&engine())));
        assert!(!is_true(&object.status.expect("was set").conditions, LOST), "it was found again");
    }

    #[test]
    fn a_part_that_is_being_opened_is_told_as_it_was() {
        let mut object = object(ReplicaRole::Replica);
        object.status = Some(status(&object, Known::Engine(&engine())));
        let mut opening = proto::VolumeStatus::default();
        opening.set_state(proto::VolumeState::Starting);
        assert_eq!(Some(status(&object, Known::Engine(&opening))), object.status);
    }

    #[test]
    fn transitions_are_sent_at_once_and_progress_now_and_then() {
        let object = object(ReplicaRole::Replica);
        let resyncing = |done: u64, dirty: u64| {
            let mut engine = engine();
            engine.dirty_bytes = [("c".to_owned(), dirty)].into();
            engine.resync =
                Some(proto::Resync { active: true, bytes_done: done, bytes_total: 10_000, ..Default::default() });
            status(&object, Known::Engine(&engine))
        };
        let old = resyncing(1_000, 10_000);
        assert!(!is_worth_sending(&old, &old, MINUTE));
        assert!(!is_worth_sending(&old, &resyncing(1_400, 10_000), MINUTE), "less than 5 %");
        assert!(!is_worth_sending(&old, &resyncing(1_600, 9_000), SECOND), "less than 10 s");
        assert!(is_worth_sending(&old, &resyncing(1_600, 10_000), MINUTE));
        assert!(is_worth_sending(&old, &resyncing(1_000, 9_000), MINUTE));
        assert!(is_worth_sending(&old, &resyncing(1_000, 0), SECOND), "all is clean");
        assert!(is_worth_sending(&old, &MirrorReplicaStatus { resync: None, ..old.clone() }, SECOND));
        assert!(is_worth_sending(&old, &MirrorReplicaStatus { unreachable: Vec::new(), ..old.clone() }, SECOND));
    }
}
