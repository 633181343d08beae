//! Conditions as Kubernetes has them: one entry a type, and a time that changes only with the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition of a part: its replica was made, and is not in the node's pool any more, which is open.
pub const LOST: &str = "Lost";

/// Condition of a volume, and of a part as its node sees it: the configuration Lease is gone, another, or older than what is known.
pub const REGISTER_LOST: &str = "RegisterLost";

/// A condition that holds (`true`) or does not, since `now`.
#[must_use]
pub fn condition(
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Time,
) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: now,
    }
}

/// Puts `new` in the place of the condition of its type. The time of the last transition stays where the status does.
/// Says whether anything but that time changed.
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    let Some(old) = conditions.iter_mut().find(|old| old.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != new;
    *old = new;
    changed
}

/// Whether the condition of this type is there and holds.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}
