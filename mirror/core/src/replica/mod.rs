//! The state machine of one volume on one node.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::effect::Effect;
use crate::ids::{BootId, Incarnation, NodeId, Time};
use crate::input::Input;
use crate::meta::Meta;
use crate::status::Status;
use crate::timing::Timing;

/// What a replica is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This run of the engine.
    pub incarnation: Incarnation,
    /// This boot of the machine.
    pub boot: BootId,
    /// What was durable.
    pub meta: Meta,
    /// True if this is the first start after creation: nothing to recover.
    pub fresh: bool,
    /// Time limits.
    pub timing: Timing,
    /// A rule to leave out.
    #[cfg(feature = "broken")]
    pub broken: Option<crate::broken::Broken>,
}

/// One volume on one node.
pub struct Replica {
    setup: Setup,
}

impl Replica {
    /// A machine that has done nothing yet. The first `step` (a [`Input::Tick`]) starts it.
    #[must_use]
    pub fn new(setup: Setup, _now: Time) -> Replica {
        Replica { setup }
    }

    /// Advances the machine by one input, and appends what it wants to `out`.
    pub fn step(&mut self, _now: Time, _input: Input, _out: &mut Vec<Effect>) {}

    /// When the next [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Time {
        Time::NEVER
    }

    /// The nodes that this one wants connections with: replicas, tie-breaker, and attached members.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<NodeId> {
        BTreeSet::new()
    }

    /// What is durable, as the core believes.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.setup.meta
    }

    /// A snapshot for people.
    #[must_use]
    pub fn status(&self) -> Status {
        unreachable!("replaced by the machine")
    }
}
