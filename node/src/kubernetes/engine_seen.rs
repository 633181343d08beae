//! This node's engine, as it was seen last: asked often, by one task, for all who want to know.

use std::time::Duration;

use lockstep_proto::node::v1 as proto;
use tokio::sync::watch;
use tokio::time::Instant;

/// An engine that has not answered for so long counts as down. Its process may be stopped: then it answers never.
const DOWN_AFTER: Duration = Duration::from_secs(2);

/// What is known of the engine.
#[derive(Debug)]
pub(super) struct EngineSeen(watch::Sender<Option<(Instant, proto::EngineIdentity)>>);

impl Default for EngineSeen {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl EngineSeen {
    /// It answered.
    pub(super) fn see(&self, identity: proto::EngineIdentity) {
        self.0.send_replace(Some((Instant::now(), identity)));
    }

    /// The engine, if it runs as far as is known.
    pub(super) fn identity(&self) -> Option<proto::EngineIdentity> {
        let seen = self.0.borrow();
        let (at, identity) = seen.as_ref()?;
        (identity.ready && at.elapsed() < DOWN_AFTER).then(|| identity.clone())
    }

    /// Its run; 0: it is down.
    pub(super) fn incarnation(&self) -> u64 {
        self.identity().map_or(0, |identity| identity.incarnation)
    }
}
