//! How often the API server was asked for what: read by metrics and tests.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is asked of the API server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(usize)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read all objects of a kind.
    List,
    /// Be told of changes.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object, under the version that was read.
    Update,
    /// Delete an object.
    Delete,
}

/// What a Lease is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(usize)]
pub enum Kind {
    /// It holds a volume's configuration.
    Configuration,
    /// It says who may write a shard of a volume.
    Grants,
    /// It says that a node's engine runs.
    Node,
}

impl Verb {
    /// All of them.
    pub const ALL: [Verb; 6] = [Verb::Get, Verb::List, Verb::Watch, Verb::Create, Verb::Update, Verb::Delete];

    /// As RBAC and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Delete => "delete",
        }
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Configuration, Kind::Grants, Kind::Node];

    /// As labels and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Configuration => "configuration",
            Kind::Grants => "grants",
            Kind::Node => "node",
        }
    }
}

/// Requests by verb and kind. All rise.
#[derive(Debug, Default)]
pub struct Requests {
    sent: [[AtomicU64; Kind::ALL.len()]; Verb::ALL.len()],
    failed: [[AtomicU64; Kind::ALL.len()]; Verb::ALL.len()],
}

impl Requests {
    pub(crate) fn count_sent(&self, verb: Verb, kind: Kind) {
        self.sent[verb as usize][kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failed(&self, verb: Verb, kind: Kind) {
        self.failed[verb as usize][kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were sent.
    #[must_use]
    pub fn sent(&self, verb: Verb, kind: Kind) -> u64 {
        self.sent[verb as usize][kind as usize].load(Ordering::Relaxed)
    }

    /// How many of these had no answer in time, or were refused. A conflict, or that an object is not there, is an answer.
    #[must_use]
    pub fn failed(&self, verb: Verb, kind: Kind) -> u64 {
        self.failed[verb as usize][kind as usize].load(Ordering::Relaxed)
    }
}
