//! Where in the cluster a volume can be reached.

use std::collections::BTreeMap;

/// A part of the cluster: values of topology keys, all of which hold there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Topology {
    /// Key to value. Never empty in a request.
    pub segments: BTreeMap<String, String>,
}

/// From where a new volume has to be reachable, and from where first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accessibility {
    /// It has to be reachable from at least one of these, if there are any.
    pub requisite: Vec<Topology>,
    /// It should be reachable from the first of these that is possible: the first consumer's node, where there is one.
    pub preferred: Vec<Topology>,
}
