//! The way to Kubernetes Leases, for whoever has one: the engine itself knows none.

use std::fmt::Debug;

use lockstep_core::{Effect, Settings, VolumeId};

/// Does what volumes want of Leases. Called on the event loops: no method may wait, and none is called for a request of a
/// front end.
///
/// What comes of it is told by [`crate::Engine::lease_told`], at any time, once or never.
pub trait LeasePort: Debug + Send + Sync {
    /// A volume runs here from now on.
    fn started(&self, volume: VolumeId, settings: &Settings);

    /// A volume wants something: [`Effect::RegisterRead`], [`Effect::RegisterSwap`] or [`Effect::Lease`].
    fn ask(&self, volume: VolumeId, effect: Effect);

    /// A volume does not run here any more.
    fn ended(&self, volume: VolumeId);

    /// How often the API server was asked, for the metrics.
    fn requests(&self) -> Vec<LeaseRequests>;
}

/// How often the API server was asked for one thing. All rise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseRequests {
    /// The verb, as RBAC calls it.
    pub verb: &'static str,
    /// What for.
    pub kind: &'static str,
    /// Requests sent.
    pub sent: u64,
    /// Requests that were refused or had no answer in time.
    pub failed: u64,
}
