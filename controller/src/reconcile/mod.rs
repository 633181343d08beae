//! What the leader does: carries out what [`crate::plan`] decides, object by object, again and again until nothing is left to do.
//!
//! Every write is idempotent, and is made over what was read: a successor that repeats it, or a predecessor's that arrives late,
//! harms nothing.

pub mod apply;
mod creation;
mod deletion;
mod events;
mod fail_over;
mod guards;
pub mod liveness;
mod members;
mod pools;
mod unmaking;
mod volumes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::runtime::controller::{Action, Config as RunnerConfig, applier};
use kube::runtime::reflector::ObjectRef;
use lockstep_api::{MirrorPool, MirrorVolume};
use lockstep_leases::Leases;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::cluster::{Cluster, Touched};
use crate::config::Config;
use crate::metrics::Counts;

/// Volumes reconciled side by side: enough for fifty claims at once, few enough not to be throttled.
const VOLUMES_AT_ONCE: u16 = 16;

/// A volume is looked at so often even when nothing changed: what an event was lost for is found.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// After a failure, and while something is waited for that no event announces.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What the leader works with.
#[derive(Debug)]
pub struct Leader {
    /// What is seen.
    pub cluster: Arc<Cluster>,
    /// What was configured.
    pub config: Config,
    /// Registers of volumes.
    pub leases: Leases,
    /// Volumes placed by this leader whose placement was not seen in the store yet: the next plan counts them.
    placed: Mutex<BTreeMap<String, MirrorVolume>>,
    events: events::Events,
    counts: Arc<Counts>,
    lost_since: Mutex<members::LostSince>,
}

/// Why an object could not be reconciled now; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused, or did not answer.
    #[error("{what}")]
    Write {
        /// What was written.
        what: &'static str,
        /// Why not.
        source: apply::ApplyError,
    },
    /// Leases could not be written.
    #[error("the Leases of the volume")]
    Leases {
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is written down of the volume is not enough.
    #[error("what is written down of the volume")]
    Incomplete {
        /// What is missing.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Leader {
    /// A leader that has done nothing yet.
    #[must_use]
    pub fn new(
        cluster: Arc<Cluster>,
        config: Config,
        leases: Leases,
        identity: String,
        counts: Arc<Counts>,
    ) -> Arc<Self> {
        let events = events::Events::new(cluster.client.clone(), identity);
        Arc::new(Self {
            cluster,
            config,
            leases,
            placed: Mutex::default(),
            events,
            counts,
            lost_since: Mutex::default(),
        })
    }

    /// Works for ever.
    pub async fn lead(self: &Arc<Self>) {
        let (volumes_sender, volumes) = mpsc::unbounded_channel::<ObjectRef<MirrorVolume>>();
        let (pools_sender, pools) = mpsc::unbounded_channel::<ObjectRef<MirrorPool>>();
        let (sender, mut touched) = mpsc::unbounded_channel();
        self.cluster.tell(sender);
        for volume in self.cluster.volumes.state() {
            let _ = volumes_sender.send(ObjectRef::new(&volume.name_any()));
        }
        let route = async {
            self.reconcile_pools().await;
            while let Some(touched) = touched.recv().await {
                self.route(touched, &volumes_sender, &pools_sender).await;
            }
        };
        let concurrency = RunnerConfig::default().concurrency(VOLUMES_AT_ONCE);
        let volumes = applier(
            |volume, leader: Arc<Self>| Box::pin(async move { leader.reconcile_volume(&volume).await }),
            |volume: Arc<MirrorVolume>, error, leader: Arc<Self>| leader.failed(&volume.name_any(), error),
            Arc::clone(self),
            self.cluster.volumes.clone(),
            UnboundedReceiverStream::new(volumes).map(Ok::<_, std::convert::Infallible>),
            concurrency.clone(),
        )
        .for_each(|_| std::future::ready(()));
        let pools = applier(
            |pool, leader: Arc<Self>| Box::pin(async move { leader.reconcile_pool(&pool).await }),
            |pool: Arc<MirrorPool>, error, leader: Arc<Self>| leader.failed(&pool.name_any(), error),
            Arc::clone(self),
            self.cluster.pools.clone(),
            UnboundedReceiverStream::new(pools).map(Ok::<_, std::convert::Infallible>),
            concurrency,
        )
        .for_each(|_| std::future::ready(()));
        tokio::join!(route, volumes, pools, self.watch_over_nodes(), self.watch_over_drains());
    }

    /// Who has to be looked at because something changed.
    async fn route(
        &self,
        touched: Touched,
        volumes: &mpsc::UnboundedSender<ObjectRef<MirrorVolume>>,
        pools: &mpsc::UnboundedSender<ObjectRef<MirrorPool>>,
    ) {
        match touched {
            Touched::Volume(name) => {
                let _ = volumes.send(ObjectRef::new(&name));
            }
            Touched::Beat(_) => {}
            Touched::Node(node) => {
                self.reconcile_pool_of(&node).await;
                let _ = pools.send(ObjectRef::new(&node));
                for volume in self.cluster.volumes.state() {
                    if volumes::depends_on(&volume, &node) {
                        let _ = volumes.send(ObjectRef::new(&volume.name_any()));
                    }
                }
            }
        }
    }
}

impl Leader {
    fn failed(&self, name: &str, error: &ReconcileError) -> Action {
        Counts::rise(&self.counts.failed_reconciles);
        let error = chain(error);
        tracing::warn!(object = name, error, "reconcile_failed");
        Action::requeue(RETRY_AFTER)
    }
}

/// An error with its causes.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}
