//! What a run can end with, and how to see it again.

use serde::Serialize;

/// What kind of wrong it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The core panicked: an assertion of its own, or an arithmetic error.
    Crash,
    /// Something was seen that the rules exclude.
    Correctness,
    /// Something that has to happen did not.
    Liveness,
}

/// One wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, thiserror::Error)]
#[error("{kind:?} ({rule}): {what}")]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// Which invariant or rule: `I7`, `liveness`, `contract`.
    pub rule: String,
    /// What was seen.
    pub what: String,
    /// Nanoseconds of the world's time.
    pub at: u64,
}

impl Failure {
    /// Something that the rules exclude.
    #[must_use]
    pub fn correctness(rule: &str, at: u64, what: impl Into<String>) -> Failure {
        Failure { kind: Kind::Correctness, rule: rule.to_owned(), what: what.into(), at }
    }

    /// Something that did not happen.
    #[must_use]
    pub fn liveness(rule: &str, at: u64, what: impl Into<String>) -> Failure {
        Failure { kind: Kind::Liveness, rule: rule.to_owned(), what: what.into(), at }
    }

    /// A panic.
    #[must_use]
    pub fn crash(at: u64, what: impl Into<String>) -> Failure {
        Failure { kind: Kind::Crash, rule: "panic".to_owned(), what: what.into(), at }
    }
}
