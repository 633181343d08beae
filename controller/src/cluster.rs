//! The cluster's objects as they were seen last, in memory: watched, never asked for one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use lockstep_api::{Arbiter, MirrorPool, MirrorReplica, MirrorVolume, names};
use lockstep_leases::Again;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::plan::definition::parse_id;
use crate::plan::pools::{Pool, parse_pools};
use crate::plan::register::plan_register_trouble;
use crate::reconcile::liveness::Beats;

/// After so long the API server ends a watch, and the next begins where it ended: a connection that died unnoticed is noticed then.
const WATCH_SECONDS: u32 = 60;

/// A watch that broke is begun again after this long, later attempts after up to the longest: fail-over waits for it.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_LONGEST: Duration = Duration::from_secs(3);

/// Selects the Leases that hold configurations of volumes.
const REGISTERS: &str = "lockstep.storage/kind=configuration";

/// What changed, for whoever reconciles.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// A volume, or a part of one.
    Volume(String),
    /// A node, or its pool.
    Node(String),
    /// A node's Lease: mostly that it was renewed.
    Beat(String),
}

/// Whoever wants to know what changed.
type Audience = tokio::sync::mpsc::UnboundedSender<Touched>;

/// The objects, and who is told of changes.
pub struct Cluster {
    /// Asks the API server.
    pub client: Client,
    /// Where Leases of volumes and of the leadership are.
    pub namespace: String,
    /// Where Leases of nodes are.
    pub node_namespace: String,
    /// Nodes.
    pub nodes: Store<Node>,
    /// Pools.
    pub pools: Store<MirrorPool>,
    /// Volumes.
    pub volumes: Store<MirrorVolume>,
    /// Their parts.
    pub replicas: Store<MirrorReplica>,
    /// Leases of nodes.
    pub node_leases: Store<Lease>,
    /// Leases that hold configurations of volumes.
    pub registers: Store<Lease>,
    /// Guard pods of nodes.
    pub guards: Store<Pod>,
    /// What may forbid their eviction.
    pub budgets: Store<PodDisruptionBudget>,
    /// How long a node's Lease must not have been renewed before the node counts as lost.
    pub stale_after: Duration,
    /// When each node's Lease was last seen renewed, on this program's clock.
    pub beats: Mutex<Beats>,
    changes: watch::Sender<u64>,
    audience: Mutex<Option<Audience>>,
}

impl Debug for Cluster {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// The watches: they end when this is dropped.
#[derive(Debug)]
pub struct Watches {
    tasks: JoinSet<()>,
}

/// The first lists did not come.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not list the cluster's objects within {within:?}")]
pub struct NotSynced {
    /// How long was waited.
    pub within: Duration,
}

impl Cluster {
    /// Starts to watch.
    #[must_use]
    pub fn watch(
        client: Client,
        (namespace, node_namespace): (&str, &str),
        stale_after: Duration,
    ) -> (Arc<Self>, Watches) {
        let (nodes, nodes_writer) = store();
        let (pools, pools_writer) = store();
        let (volumes, volumes_writer) = store();
        let (replicas, replicas_writer) = store();
        let (node_leases, leases_writer) = store();
        let (registers, registers_writer) = store();
        let (guards, guards_writer) = store();
        let (budgets, budgets_writer) = store();
        let cluster = Arc::new(Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            node_namespace: node_namespace.to_owned(),
            nodes,
            pools,
            volumes,
            replicas,
            node_leases,
            registers,
            guards,
            budgets,
            stale_after,
            beats: Mutex::new(Beats::default()),
            changes: watch::Sender::new(0),
            audience: Mutex::new(None),
        });
        let mut tasks = JoinSet::new();
        let all = watcher::Config::default;
        let told = |touched: Touched| {
            let cluster = Arc::clone(&cluster);
            move |name: String| cluster.told(touched_as(&touched, name))
        };
        let (node, volume) = (Touched::Node(String::new()), Touched::Volume(String::new()));
        let on = told(node.clone());
        tasks.spawn(follow(Api::all(client.clone()), all(), nodes_writer, move |node: &Node| on(node.name_any())));
        let on = told(node);
        tasks.spawn(follow(
            Api::all(client.clone()),
            all(),
            pools_writer,
            move |pool: &MirrorPool| on(pool.name_any()),
        ));
        let on = told(volume.clone());
        let named = move |volume: &MirrorVolume| on(volume.name_any());
        tasks.spawn(follow(Api::all(client.clone()), all(), volumes_writer, named));
        let on = told(volume);
        let of = move |part: &MirrorReplica| on(part.spec.volume.clone());
        tasks.spawn(follow(Api::all(client.clone()), all(), replicas_writer, of));
        let it = Arc::clone(&cluster);
        let leases = Api::namespaced(client.clone(), node_namespace);
        tasks.spawn(follow(leases, all(), leases_writer, move |lease: &Lease| it.heard(lease)));
        let it = Arc::clone(&cluster);
        let (leases, only) = (Api::namespaced(client.clone(), namespace), all().labels(REGISTERS));
        tasks.spawn(follow(leases, only, registers_writer, move |lease: &Lease| it.register_changed(lease)));
        // Who looks after them looks every second.
        let of_guards = || all().labels(names::LABEL_GUARD);
        tasks.spawn(follow(Api::namespaced(client.clone(), namespace), of_guards(), guards_writer, |_: &Pod| {}));
        let budgets = Api::namespaced(client, namespace);
        tasks.spawn(follow(budgets, of_guards(), budgets_writer, |_: &PodDisruptionBudget| {}));
        (cluster, Watches { tasks })
    }

    /// Waits until everything was listed once.
    ///
    /// # Errors
    /// That took longer than `within`.
    pub async fn synced(&self, within: Duration) -> Result<(), NotSynced> {
        let all = async {
            // Fails only when a watch has ended, which none does.
            let _ = tokio::join!(
                self.nodes.wait_until_ready(),
                self.pools.wait_until_ready(),
                self.volumes.wait_until_ready(),
                self.replicas.wait_until_ready(),
                self.node_leases.wait_until_ready(),
                self.registers.wait_until_ready(),
                self.guards.wait_until_ready(),
                self.budgets.wait_until_ready(),
            );
        };
        tokio::time::timeout(within, all).await.map_err(|_| NotSynced { within })
    }

    /// From now on, changes are told there.
    pub fn tell(&self, audience: Audience) {
        *lock(&self.audience) = Some(audience);
    }

    /// Has an object looked at, for a reason that no event tells.
    pub fn touch(&self, touched: Touched) {
        self.told(touched);
    }

    fn told(&self, touched: Touched) {
        if let Some(audience) = &*lock(&self.audience) {
            // Fails only at the end of the program.
            let _ = audience.send(touched);
        }
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn heard(&self, lease: &Lease) {
        let said = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        let version = lease.metadata.resource_version.clone();
        lock(&self.beats).hear(&lease.name_any(), (said.map(|time| time.0), version), Instant::now());
        self.told(Touched::Beat(lease.name_any()));
    }

    /// The register of a volume, whose identity its label has.
    fn register_changed(&self, lease: &Lease) {
        let id = lease.labels().get(lockstep_leases::names::VOLUME_LABEL);
        let of = |volume: &MirrorVolume| volume.status.as_ref().is_some_and(|status| status.id.as_ref() == id);
        if let Some(volume) = id.and_then(|_| self.volumes.find(of)) {
            self.told(Touched::Volume(volume.name_any()));
        }
    }

    /// Why a volume's register is lost, if it has one and that is.
    #[must_use]
    pub fn register_trouble(&self, volume: &MirrorVolume) -> Option<String> {
        let status = volume.status.as_ref().filter(|status| status.arbiter == Some(Arbiter::Lease))?;
        let name = lockstep_leases::names::register_name(lockstep_core::VolumeId(parse_id(status.id.as_deref()?)?));
        let lease = self.registers.get(&ObjectRef::new(&name).within(&self.namespace));
        plan_register_trouble(&name, lease.as_deref())
    }

    /// Rises with every change of any object.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Looks with every change until `look` gives something; nothing: `within` has passed.
    pub async fn until<T>(&self, within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut changes = self.changes();
        let found = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = look() {
                    return Some(found);
                }
                changes.changed().await.ok()?;
            }
        };
        tokio::time::timeout(within, found).await.ok().flatten()
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<Arc<MirrorVolume>> {
        self.volumes.get(&ObjectRef::new(name))
    }

    /// The pool of a node.
    #[must_use]
    pub fn pool(&self, node: &str) -> Option<Arc<MirrorPool>> {
        self.pools.get(&ObjectRef::new(node))
    }

    /// A node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.get(&ObjectRef::new(name))
    }

    /// The Lease of a node.
    #[must_use]
    pub fn node_lease(&self, node: &str) -> Option<Arc<Lease>> {
        self.node_leases.get(&ObjectRef::new(node).within(&self.node_namespace))
    }

    /// All parts of a volume, in order of their nodes.
    #[must_use]
    pub fn parts(&self, volume: &str) -> Vec<Arc<MirrorReplica>> {
        let mut parts = self.replicas.state_filter(|part| part.spec.volume == volume);
        parts.sort_by(|a, b| a.spec.node_name.cmp(&b.spec.node_name));
        parts
    }

    /// The pools as the planner sees them; `placed` are volumes that were placed a moment ago, and count in place of what was seen of them.
    #[must_use]
    pub fn plan_pools(&self, placed: &BTreeMap<String, MirrorVolume>) -> Vec<Pool> {
        let (pools, nodes, volumes) = (self.pools.state(), self.nodes.state(), self.volumes.state());
        let seen = volumes.iter().map(|volume| &**volume).filter(|volume| !placed.contains_key(&volume.name_any()));
        let mut pools =
            parse_pools(pools.iter().map(|it| &**it), nodes.iter().map(|it| &**it), seen.chain(placed.values()));
        // What a node says of itself stands there when it is gone, too.
        let lost = self.lost_nodes();
        pools.iter_mut().for_each(|pool| pool.engine &= !lost.contains(&pool.node));
        pools
    }

    /// Nodes whose Lease was not renewed for so long that they are taken for lost, and those that do not exist any more.
    ///
    /// Where more than half of all look lost, it is this program that does not hear, and nothing is said of any.
    #[must_use]
    pub fn lost_nodes(&self) -> BTreeSet<String> {
        let beats = lock(&self.beats);
        let stale = beats.stale(self.stale_after, Instant::now());
        let silent = if stale.len() * 2 > beats.count() { BTreeSet::new() } else { stale };
        drop(beats);
        let placed = self.replicas.state();
        let gone = placed.iter().map(|part| part.spec.node_name.clone()).filter(|node| self.node(node).is_none());
        silent.into_iter().chain(gone).collect()
    }
}

/// The same kind of change, of this object.
fn touched_as(kind: &Touched, name: String) -> Touched {
    match kind {
        Touched::Volume(_) => Touched::Volume(name),
        Touched::Node(_) => Touched::Node(name),
        Touched::Beat(_) => Touched::Beat(name),
    }
}

/// Watches one kind into its store, for ever.
async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    writer: kube::runtime::reflector::store::Writer<K>,
    told: impl Fn(&K),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Default + Eq + std::hash::Hash,
{
    let kind = K::kind(&K::DynamicType::default()).to_string();
    let slim = |object: &mut K| object.managed_fields_mut().clear();
    let events = watcher(api, config.timeout(WATCH_SECONDS))
        .backoff(Again::new(AGAIN, AGAIN_LONGEST))
        .modify(slim)
        .reflect(writer);
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object) | watcher::Event::Delete(object)) => {
                told(&object);
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => tracing::warn!(kind, %error, "watch_broke"),
        }
    }
}

/// A lock that nobody panics under.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watches {
    /// Waits for a watch to end, which none does.
    pub async fn ended(&mut self) {
        self.tasks.join_next().await;
    }
}
