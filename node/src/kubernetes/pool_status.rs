//! What a MirrorPool says of its node, and what of it is worth a request.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lockstep_api::{MirrorPool, MirrorPoolStatus, condition, set_condition};
use lockstep_proto::node::v1 as proto;

use crate::cluster::Node;
use crate::input;

/// The pool is open, or the node has none.
pub(super) const READY: &str = "Ready";
/// The engine answers its agent.
pub(super) const ENGINE_READY: &str = "EngineReady";
/// An engine may restart under a writer.
pub(super) const RESTART_INVISIBLE: &str = "RestartInvisible";

/// The engine has no part that no MirrorReplica wants.
pub(super) const PARTS_WANTED: &str = "PartsWanted";

/// Most volumes that a message names.
const NAMED_MAX: usize = 10;

/// Free space is told when it moved by so many hundredths of the pool.
const FREE_PERCENT: i64 = 5;

/// What is known of this node.
#[derive(Clone, Debug)]
pub(super) struct Facts<'a> {
    pub(super) me: &'a Node,
    /// Its own address on the dedicated network, if it is on one.
    pub(super) dedicated: Option<IpAddr>,
    /// Its pool; none: it shall have none.
    pub(super) pool: Option<proto::Pool>,
    /// Its engine, if that runs.
    pub(super) engine: Option<proto::EngineIdentity>,
    /// Why an engine's restart would be seen; empty: it would not.
    pub(super) restart_visible: &'a str,
    /// Other nodes with this one's number or place.
    pub(super) doubled: &'a [String],
    /// Volumes that the engine has a part of and no MirrorReplica wants.
    pub(super) unwanted: &'a [String],
}

/// The status of this node's pool, from the one it had.
pub(super) fn pool_status(object: &MirrorPool, facts: &Facts<'_>, now: &Time) -> MirrorPoolStatus {
    let mut status = object.status.clone().unwrap_or_default();
    let engine = facts.engine.as_ref().filter(|engine| engine.node_id == facts.me.id);
    status.observed_generation = object.metadata.generation;
    status.node_id = facts.me.id;
    status.incarnation = engine.map_or(0, |engine| engine.incarnation);
    status.address = Some(facts.me.address.to_string());
    status.dedicated_address = facts.dedicated.map(|address| address.to_string());
    status.port = facts.me.port;
    if let Some(engine) = engine {
        status.version = Some(engine.version.clone());
    }
    let open = facts.pool.as_ref().filter(|pool| pool.ready);
    match (&facts.pool, open) {
        (_, Some(pool)) => {
            (status.capacity_bytes, status.free_bytes) = (bytes(pool.size_bytes), bytes(pool.free_bytes))
        }
        (None, _) => (status.capacity_bytes, status.free_bytes) = (0, 0),
        // It is not open now, and as large as it was.
        (Some(_), None) => {}
    }
    let show = |bytes: i64| u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).map(input::show_bytes);
    (status.capacity, status.free) = (show(status.capacity_bytes), show(status.free_bytes));
    for (kind, (holds, reason, message)) in [
        (READY, ready(facts, engine)),
        (ENGINE_READY, engine_ready(facts, engine)),
        (RESTART_INVISIBLE, restart_invisible(facts)),
        (PARTS_WANTED, parts_wanted(facts)),
    ] {
        let condition = condition(kind, holds, reason, &message, status.observed_generation, now.clone());
        set_condition(&mut status.conditions, condition);
    }
    status
}

fn ready(facts: &Facts<'_>, engine: Option<&proto::EngineIdentity>) -> (bool, &'static str, String) {
    if !facts.doubled.is_empty() {
        let names = facts.doubled.join(", ");
        return (
            false,
            "Doubled",
            format!("{names}: a node with the number or address of another one; was a state directory copied?"),
        );
    }
    match &facts.pool {
        None => (true, "NoStorage", String::new()),
        Some(pool) if !pool.ready && pool.reason.is_empty() => (false, "Opening", "it is being opened".to_owned()),
        Some(pool) if !pool.ready => (false, "NotOpen", pool.reason.clone()),
        Some(_) if engine.is_some_and(|engine| engine.pool.is_empty()) => {
            (false, "Opening", "the engine has not taken it yet".to_owned())
        }
        // Its storage was changed: an engine takes one pool in its life.
        Some(pool) if engine.is_some_and(|engine| is_other(pool, engine)) => {
            let message =
                "the engine still has the pool that was here before: restart it by deleting its pod".to_owned();
            (false, "OtherPool", message)
        }
        Some(_) => (true, "Open", String::new()),
    }
}

/// Devices are mounted one after the other at the same path, and may cover what was a directory. An engine of a version
/// that does not tell its pool's file system has its pool by the path alone.
fn is_other(pool: &proto::Pool, engine: &proto::EngineIdentity) -> bool {
    let told = !engine.pool_file_system.is_empty();
    engine.pool != pool.path || (told && engine.pool_file_system != pool.file_system)
}

fn engine_ready(facts: &Facts<'_>, engine: Option<&proto::EngineIdentity>) -> (bool, &'static str, String) {
    match (&facts.engine, engine) {
        (_, Some(_)) => (true, "Answers", String::new()),
        (Some(other), None) => {
            let message = format!("it runs as node {}, and this is node {}: restart it", other.node_id, facts.me.id);
            (false, "OtherIdentity", message)
        }
        (None, None) => (false, "Down", "the engine does not answer its agent".to_owned()),
    }
}

fn restart_invisible(facts: &Facts<'_>) -> (bool, &'static str, String) {
    match facts.restart_visible {
        "" => (true, "Recoverable", String::new()),
        reason => (false, "NotRecoverable", reason.to_owned()),
    }
}

fn parts_wanted(facts: &Facts<'_>) -> (bool, &'static str, String) {
    let named: Vec<&str> = facts.unwanted.iter().take(NAMED_MAX).map(String::as_str).collect();
    match (named.is_empty(), facts.unwanted.len() - named.len()) {
        (true, _) => (true, "Wanted", String::new()),
        (false, 0) => (false, "Unwanted", format!("no MirrorReplica wants what is here of {}", named.join(", "))),
        (false, more) => {
            (false, "Unwanted", format!("no MirrorReplica wants what is here of {} and {more} more", named.join(", ")))
        }
    }
}

fn bytes(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Whether a status is worth a request: a transition is, and free space that moved.
pub(super) fn is_worth_sending(old: &MirrorPoolStatus, new: &MirrorPoolStatus) -> bool {
    let steps = |status: &MirrorPoolStatus| MirrorPoolStatus { free_bytes: 0, free: None, ..status.clone() };
    let least = u64::try_from(new.capacity_bytes / 100 * FREE_PERCENT).unwrap_or(0);
    steps(old) != steps(new) || old.free_bytes.abs_diff(new.free_bytes) > least
}

#[cfg(test)]
mod tests {
    use super::{ENGINE_READY, Facts, READY, is_worth_sending, pool_status};
    use crate::cluster::Node;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use lockstep_api::{MirrorPool, MirrorPoolSpec, MirrorPoolStatus, is_true};
    use lockstep_proto::node::v1 as proto;

    fn me() -> Node {
        Node { id: 7, name: "a".to_owned(), address: [192, 0, 2, 1].into(), dedicated: None, port: 7501 }
    }

    fn pool(free_bytes: u64) -> Option<proto::Pool> {
        Some(proto::Pool {
            ready: true,
            path: "/p".to_owned(),
            file_system: "8:0".to_owned(),
            size_bytes: 1 << 30,
            free_bytes,
            ..Default::default()
        })
    }

    fn engine(node_id: u32) -> Option<proto::EngineIdentity> {
        Some(proto::EngineIdentity {
            node_id,
            incarnation: 3,
            ready: true,
            pool: "/p".to_owned(),
            pool_file_system: "8:0".to_owned(),
            ..Default::default()
        })
    }

    fn status(pool: Option<proto::Pool>, engine: Option<proto::EngineIdentity>) -> MirrorPoolStatus {
        let spec = MirrorPoolSpec { node_name: "a".to_owned(), storage: None, cordoned: false, evict: false };
        let me = me();
        let facts = Facts { me: &me, dedicated: None, pool, engine, restart_visible: "", doubled: &[], unwanted: &[] };
        pool_status(&MirrorPool::new("a", spec), &facts, &Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn a_node_says_who_and_where_it_is() {
        let status = status(pool(1 << 29), engine(7));
        assert_eq!((status.node_id, status.incarnation, status.port), (7, 3, 7501));
        assert_eq!((status.address.as_deref(), status.capacity.as_deref()), (Some("192.0.2.1"), Some("1 GiB")));
        assert!(is_true(&status.conditions, READY) && is_true(&status.conditions, ENGINE_READY));
    }

    #[test]
    fn what_is_not_ready_says_so() {
        let closed = Some(proto::Pool { reason: "no such disk".to_owned(), ..Default::default() });
        let closed = status(closed, None);
        assert!(!is_true(&closed.conditions, READY) && !is_true(&closed.conditions, ENGINE_READY));
        assert!(closed.conditions.iter().any(|condition| condition.message == "no such disk"));
        let covered = pool(0).map(|pool| proto::Pool { file_system: "8:1".to_owned(), ..pool });
        let other = status(covered.clone(), engine(7));
        assert!(!is_true(&other.conditions, READY), "another device is mounted over it: {other:?}");
        let older = engine(7).map(|engine| proto::EngineIdentity { pool_file_system: String::new(), ..engine });
        assert!(is_true(&status(covered, older).conditions, READY), "an older engine does not tell its device");
        let moved = pool(0).map(|pool| proto::Pool { path: "/q".to_owned(), ..pool });
        let moved = status(moved, engine(7));
        assert!(!is_true(&moved.conditions, READY), "nothing is placed in a pool that its engine left");
        assert!(moved.conditions.iter().any(|condition| condition.message.contains("deleting its pod")));
        let other = status(pool(0), engine(8));
        assert_eq!(other.incarnation, 0, "another node's engine is not this one's");
        assert!(!is_true(&other.conditions, ENGINE_READY));
        assert!(is_true(&status(None, engine(7)).conditions, READY), "a node without storage is ready");
    }

    #[test]
    fn free_space_is_told_when_it_moved() {
        let old = status(pool(1 << 29), engine(7));
        assert!(!is_worth_sending(&old, &status(pool((1 << 29) + (1 << 20)), engine(7))));
        assert!(is_worth_sending(&old, &status(pool(1 << 28), engine(7))));
        assert!(is_worth_sending(&old, &status(pool(1 << 29), None)));
    }
}
