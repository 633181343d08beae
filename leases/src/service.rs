//! The Leases of one engine: a thread of its own that asks the API server, so that no event loop ever waits for it.
//!
//! While volumes run here that Leases police, it also watches all grant Leases and renews the node's own: one watch and one
//! renewal per node, not per volume.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use lockstep_core::{Effect, Incarnation, Input, LeaseTold, NodeId, VolumeId};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use crate::node::{OwnLease, RENEW_EVERY};
use crate::register::{Leases, lock};
use crate::watch::{self, Audience};

/// Where answers go. Called on the service's thread: it must not wait.
pub type Told = Arc<dyn Fn(VolumeId, Input) + Send + Sync>;

/// Serves an engine until it is dropped. What has no answer by then never gets one.
pub struct Service {
    leases: Arc<Leases>,
    orders: Option<UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// What other threads want of the service.
enum Order {
    Ask(VolumeId, Effect),
    /// A volume runs here that Leases police.
    Police(VolumeId),
    Ended(VolumeId),
}

impl fmt::Debug for Service {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Service").field("leases", &self.leases).finish_non_exhaustive()
    }
}

impl Service {
    /// Starts the thread. Nothing is asked before the first volume asks.
    ///
    /// # Errors
    /// The thread, or what it waits with, cannot be made.
    pub fn start(leases: Leases, node: NodeId, told: Told) -> io::Result<Service> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let leases = Arc::new(leases);
        let (orders, ordered) = unbounded_channel();
        let served = Served { leases: Arc::clone(&leases), told, policed: Arc::default(), renew: Arc::default(), node };
        let thread = std::thread::Builder::new().name("leases".to_owned()).spawn(move || {
            runtime.block_on(served.serve(ordered));
            // A request that hangs must not keep the engine's end.
            runtime.shutdown_background();
        })?;
        Ok(Service { leases, orders: Some(orders), thread: Some(thread) })
    }

    /// The Leases themselves, for whoever needs no engine.
    #[must_use]
    pub fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// Does what a volume wants of Leases ([`Effect::RegisterRead`], [`Effect::RegisterSwap`], [`Effect::Lease`]), and tells it what
    /// came of it. Does not wait. The core has few questions per volume open at a time, and gives each up when
    /// [`crate::REQUEST_LIMIT`] is over: that is what bounds the queue.
    pub fn ask(&self, volume: VolumeId, effect: Effect) {
        self.order(Order::Ask(volume, effect));
    }

    /// A volume runs here that Leases police: the grant Leases are watched, and the node's own is renewed.
    pub fn police(&self, volume: VolumeId) {
        self.order(Order::Police(volume));
    }

    /// A volume does not run here any more.
    pub fn ended(&self, volume: VolumeId) {
        self.leases.forget(volume);
        self.order(Order::Ended(volume));
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // Fails only when the thread is gone, which nobody outlives.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.orders = None;
        let Some(thread) = self.thread.take() else { return };
        // Whoever told the engine last may be the last to know it: that thread ends by itself.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("leases_panicked");
        }
    }
}

/// What the thread has.
struct Served {
    leases: Arc<Leases>,
    told: Told,
    node: NodeId,
    /// Volumes that run here and that Leases police.
    policed: Arc<Mutex<BTreeSet<VolumeId>>>,
    /// A volume that has just started wants to know that the node's own Lease is renewed.
    renew: Arc<Notify>,
}

/// The volumes that run here and that Leases police.
#[derive(Clone)]
struct Policed {
    volumes: Arc<Mutex<BTreeSet<VolumeId>>>,
    told: Told,
}

impl Audience for Policed {
    fn has(&self, volume: VolumeId) -> bool {
        lock(&self.volumes).contains(&volume)
    }

    fn tell(&self, volume: VolumeId, told: LeaseTold) {
        (self.told)(volume, Input::Lease { ask: None, told });
    }
}

impl Served {
    async fn serve(self, mut ordered: UnboundedReceiver<Order>) {
        let mut running: Vec<AbortHandle> = Vec::new();
        // Rises with each start of the renewal, and tells runs apart.
        let started = u64::try_from(k8s_openapi::jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
        let own = Arc::new(tokio::sync::Mutex::new(OwnLease::new(self.node, Incarnation(started))));
        while let Some(order) = ordered.recv().await {
            match order {
                Order::Ask(volume, effect) => self.ask(volume, effect),
                Order::Police(volume) => {
                    lock(&self.policed).insert(volume);
                    self.renew.notify_one();
                    if running.is_empty() {
                        running = self.begin(&own);
                    }
                }
                Order::Ended(volume) => {
                    let was = lock(&self.policed).remove(&volume);
                    if was && lock(&self.policed).is_empty() {
                        running.drain(..).for_each(|task| task.abort());
                        let (leases, own) = (Arc::clone(&self.leases), Arc::clone(&own));
                        tokio::spawn(async move {
                            if let Err(error) = own.lock().await.remove(&leases).await {
                                tracing::info!(%error, "own_lease_left_behind");
                            }
                        });
                    }
                }
            }
        }
    }

    fn ask(&self, volume: VolumeId, effect: Effect) {
        let (leases, told) = (Arc::clone(&self.leases), Arc::clone(&self.told));
        tokio::spawn(async move {
            if let Some(input) = answer(&leases, volume, effect).await {
                told(volume, input);
            }
        });
    }

    /// Watches and renews, until aborted.
    fn begin(&self, own: &Arc<tokio::sync::Mutex<OwnLease>>) -> Vec<AbortHandle> {
        let policed = Policed { volumes: Arc::clone(&self.policed), told: Arc::clone(&self.told) };
        let (leases, audience) = (Arc::clone(&self.leases), policed.clone());
        let watching = tokio::spawn(async move { watch::watch(&leases, &audience).await });
        let leases = Arc::clone(&self.leases);
        let (own, renew) = (Arc::clone(own), Arc::clone(&self.renew));
        let renewing = tokio::spawn(async move {
            loop {
                // Held while a request is under way: who takes the Lease away comes before or after it.
                let renewed = own.lock().await.renew(&leases).await;
                match renewed {
                    Ok(()) => {
                        let volumes: Vec<VolumeId> = lock(&policed.volumes).iter().copied().collect();
                        volumes.into_iter().for_each(|volume| policed.tell(volume, LeaseTold::Renewed));
                    }
                    Err(error) => tracing::warn!(%error, "own_lease_not_renewed"),
                }
                // A start wants one soon, and many at once want one together.
                let _ = tokio::time::timeout(RENEW_EVERY, renew.notified()).await;
            }
        });
        vec![watching.abort_handle(), renewing.abort_handle()]
    }
}

async fn answer(leases: &Leases, volume: VolumeId, effect: Effect) -> Option<Input> {
    match effect {
        Effect::RegisterRead { ask } => Some(Input::Register { ask, answer: leases.read_register(volume).await }),
        Effect::RegisterSwap { ask, version, config } => {
            Some(Input::Register { ask, answer: leases.swap_register(version, &config).await })
        }
        Effect::Lease { ask, want } => Some(Input::Lease { ask: Some(ask), told: leases.lease(volume, &want).await }),
        // Nothing else is asked of Leases.
        _ => None,
    }
}
