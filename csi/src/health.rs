//! What is wrong with a volume, or with a node's storage.

use crate::capability::Capability;

/// What an adverse condition means for the volume's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, with less than all its replicas or slower.
    Degraded,
    /// It cannot be used: from anywhere if the controller says so, from this node if the node does.
    Inaccessible,
    /// Data is gone for good, or likely to be.
    DataLoss,
}

/// One adverse condition of a volume. It is reported until it is over; no two of one volume have the same severity and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeHealth {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, for machines: one word in CamelCase, the reason of the condition that people see on the object.
    pub reason: &'static str,
    /// What it is, for people.
    pub message: String,
}

/// What an adverse condition of a node's storage means for the volumes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StorageSeverity {
    /// Slower, or with less redundancy.
    Degraded,
    /// Volumes cannot be used from this node.
    Unreachable,
}

/// One adverse condition of a node's storage as a whole: its engine or a pool. No two have the same severity, reason and capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageHealth {
    /// How bad it is.
    pub severity: StorageSeverity,
    /// What it is, for machines: one word in CamelCase.
    pub reason: &'static str,
    /// What it is, for people.
    pub message: String,
    /// The only way of using volumes that it touches; none: every way.
    pub capability: Option<Capability>,
}
