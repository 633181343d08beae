//! The one place that calls the mirror engine: its types become the program's, its errors failures with their kind.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lockstep_core::{AttachMode, Command, CommandError, Net, NodeId, Reply, VolumeId};
use lockstep_engine::{
    CreateVolume, DeleteVolume, Engine, EngineConfig, ExitReport, FindVolume, FrontEndAddress, FrontEndKind, FuseKind,
    GivePart, Identity, LearnNodes, LeasePort, LoopSession, NodeAddress, Pending, SendReport, StartEngine,
    StartFrontEnd, StopFrontEnd, VolumeEntry, VolumeState, VolumeStatus,
};
use lockstep_proto::node::v1 as proto;

use super::Place;
use super::leases::LeaseWay;
use crate::cluster::{Cluster, Dedicated, Node};
use crate::failure::{Failure, chain};
use crate::first_config::first_config;
use crate::spec::Spec;
use crate::state_dir::StateDir;
use crate::{host, input, pool};

/// How long a snapshot of a volume may take: its loop answers between two turns.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(4);

/// How long the last disk writes of a killed predecessor may take. A disk request older than 10 s counts as failed.
const FREE_WITHIN: Duration = Duration::from_secs(30);

/// How often it is looked whether they have landed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long each step of telling a peer may take. A peer that is away learns it by the connection's end anyway.
const REPORT_WITHIN: Duration = Duration::from_secs(1);

/// The running engine.
pub(super) struct EnginePort {
    engine: Arc<Engine>,
    cluster: Mutex<Arc<Cluster>>,
    state: StateDir,
    /// Which file system the pool was on when it was opened.
    pool_file_system: Mutex<Option<String>>,
    /// The way to Leases, where the cluster file names a kubeconfig.
    leases: Option<Arc<LeaseWay>>,
}

/// What a command will answer.
pub(super) struct Answer {
    pending: Pending<Result<Reply, CommandError>>,
    volume: String,
    names: Vec<(NodeId, String)>,
}

impl Future for Answer {
    type Output = Result<Reply, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = std::task::ready!(Pin::new(&mut self.pending).poll(context));
        Poll::Ready(match answered {
            None => Err(Failure::not_reachable("the engine is stopping")),
            Some(Ok(reply)) => Ok(reply),
            Some(Err(error)) => Err(explain_command(&self.volume, &self.names, error)),
        })
    }
}

impl EnginePort {
    /// Starts the engine. Waits for the disk and the network: not on a thread that serves others.
    ///
    /// # Errors
    /// The whole chain of why it does not start.
    pub(super) fn start(place: &Place, pool: Option<PathBuf>) -> Result<Self, Failure> {
        let cluster = place.nodes.get();
        let look = |path: &PathBuf| pool::observe_file_system(path);
        let file_system =
            pool.as_ref().map(look).transpose().map_err(|error| Failure::of_host("look at the pool", &error))?;
        let leases = LeaseWay::start(&cluster, &place.me).map_err(|error| Failure::of_host("start", &error))?;
        let config = EngineConfig {
            leases: leases.clone().map(|leases| leases as Arc<dyn LeasePort>),
            ..engine_config(&cluster, &place.me, &place.state, pool)
        };
        let engine = start_when_free(&config).map_err(|error| Failure::of_host("start the engine", &error))?;
        let engine = Arc::new(engine);
        if let Some(leases) = &leases {
            leases.tell(&engine);
        }
        let (cluster, pool_file_system) = (Mutex::new(cluster), Mutex::new(file_system));
        Ok(Self { engine, cluster, state: place.state.clone(), pool_file_system, leases })
    }

    /// Why the last request to the API server for a volume failed, if it did.
    pub(super) fn api_server_trouble(&self, volume: VolumeId) -> Option<String> {
        self.leases.as_ref()?.trouble(volume)
    }

    pub(super) fn identity(&self) -> Identity {
        self.engine.identity()
    }

    /// Where its replicas are, if it has a pool.
    pub(super) fn pool(&self) -> Option<PathBuf> {
        self.engine.pool()
    }

    /// Which file system that was on when it was opened.
    pub(super) fn pool_file_system(&self) -> Option<String> {
        self.pool_file_system.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens the replicas of a prepared pool. Idempotent.
    pub(super) fn open_pool(&self, path: &std::path::Path) -> Result<(), Failure> {
        let host = |error: &std::io::Error| Failure::of_host("open the pool", error);
        let found = pool::observe_file_system(path).map_err(|error| host(&error))?;
        let mut opened = self.pool_file_system.lock().unwrap_or_else(PoisonError::into_inner);
        let other = || Failure::state_forbids("the engine has another pool");
        if opened.as_ref().is_some_and(|opened| *opened != found) {
            return Err(other());
        }
        self.engine.open_pool(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => other(),
            _ => host(&error),
        })?;
        *opened = Some(found);
        Ok(())
    }

    /// Tells where a node is on the dedicated network.
    pub(super) fn learn_dedicated(&self, node: &Node, address: IpAddr) {
        self.engine.learn_dedicated(NodeId(node.id), SocketAddr::new(address, node.port));
    }

    fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&self.cluster.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the engine of nodes that came or moved, and of others that went; `cluster` is what there is then. Waits for the loops.
    pub(super) fn learn_nodes(
        &self,
        cluster: &Cluster,
        (came, went): (&[Node], &[u32]),
        me: &Node,
    ) -> Result<(), Failure> {
        let own = came.iter().find(|node| node.id == me.id);
        if own.is_some_and(|own| own != me) {
            return Err(Failure::state_forbids("this node's own addresses are learned at the engine's start only"));
        }
        // Itself is as the engine knows it already: what it found at its start need not be there any more.
        let came: Vec<_> = came.iter().filter(|node| node.id != me.id).map(|node| address(node, me)).collect();
        let went = went.iter().copied().map(NodeId).filter(|id| !came.iter().any(|node| node.id == *id)).collect();
        self.engine.learn_nodes(&came, &went).map_err(|error| match error {
            LearnNodes::NotKnown(_) => Failure::not_reachable(error.to_string()),
            LearnNodes::OwnAddress | LearnNodes::InUse { .. } => Failure::state_forbids(error.to_string()),
        })?;
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(cluster.clone());
        Ok(())
    }

    /// Makes this node's part of a new volume, or admits it to one that `exists`.
    pub(super) async fn create(&self, spec: &Spec, exists: bool) -> Result<(), Failure> {
        let config = first_config(spec);
        let has_data = spec.replicas.contains_key(&self.identity().node.0);
        let (engine, name) = (Arc::clone(&self.engine), spec.name.clone());
        let volume = config.volume;
        let work = move || if exists { engine.admit(&name, config) } else { engine.create(&name, config, has_data) };
        let created = blocking("create the volume", work).await?;
        match created {
            Ok(()) => Ok(()),
            // The same request again.
            Err(CreateVolume::Exists(_)) if self.entry(&spec.name).and_then(|entry| entry.volume) == Some(volume) => {
                Ok(())
            }
            Err(error) => Err(explain_create(&spec.name, error)),
        }
    }

    /// Gives this node a part of a volume that exists: an empty replica, or memory.
    pub(super) async fn give_part(&self, name: &str, configuration: &[u8], replica: bool) -> Result<(), Failure> {
        let wrong = |reason: String| Failure::wrong_input("configuration", "", reason);
        let config = lockstep_engine::decode_configuration(configuration).map_err(wrong)?;
        let (engine, owned) = (Arc::clone(&self.engine), name.to_owned());
        let given = blocking("make the part", move || engine.give_part(&owned, config, replica)).await?;
        given.map_err(|error| match error {
            GivePart::Create(error) => explain_create(name, error),
            GivePart::Find(error) => explain_find(&error),
            GivePart::Attached(_) | GivePart::Other(_) => Failure::state_forbids(error.to_string()),
            error @ (GivePart::Open { .. } | GivePart::Delete { .. }) => Failure::of_host("make the part", &error),
        })
    }

    /// The configuration of a volume, as another node's part needs it.
    pub(super) async fn configuration(&self, name: &str) -> Result<Vec<u8>, Failure> {
        Ok(lockstep_engine::encode_configuration(&self.status(name).await?.core.config))
    }

    /// Deletes a volume, if it is the one of this identity. Says whether it was there.
    pub(super) async fn delete(&self, name: &str, id: Option<[u8; 16]>) -> Result<bool, Failure> {
        let Some(entry) = self.entry(name) else { return Ok(false) };
        if let (Some(id), Some(volume)) = (id, entry.volume)
            && volume.0 != id
        {
            return Ok(false);
        }
        let (engine, owned) = (Arc::clone(&self.engine), name.to_owned());
        match blocking("delete the volume", move || engine.delete(&owned)).await? {
            Ok(()) => Ok(true),
            Err(DeleteVolume::Find(FindVolume::Unknown(_))) => Ok(false),
            Err(DeleteVolume::Find(error)) => Err(explain_find(&error)),
            Err(DeleteVolume::Attached(_)) => {
                let holder = self.cluster().name_of(self.identity().node.0);
                Err(Failure::held_by(&holder, format!("volume {name:?} is attached at node {holder}")))
            }
            Err(error @ DeleteVolume::Files { .. }) => Err(Failure::of_host("delete the volume", &error)),
        }
    }

    fn entry(&self, name: &str) -> Option<VolumeEntry> {
        self.engine.list().into_iter().find(|entry| entry.name == name)
    }

    /// All volumes: those that run with their status, the others with why they do not.
    pub(super) async fn list(&self) -> Vec<Result<VolumeStatus, proto::VolumeStatus>> {
        let mut all = Vec::new();
        for entry in self.engine.list() {
            match self.status(&entry.name).await {
                Ok(status) => all.push(Ok(status)),
                Err(_) => all.push(Err(self.describe_entry(&entry))),
            }
        }
        all
    }

    /// A volume that does not run, as far as it can be described.
    pub(super) fn describe_absent(&self, name: &str) -> Option<proto::VolumeStatus> {
        self.entry(name).map(|entry| self.describe_entry(&entry))
    }

    fn describe_entry(&self, entry: &VolumeEntry) -> proto::VolumeStatus {
        let identity = self.identity();
        let mut this = proto::ThisNode {
            node: self.cluster().name_of(identity.node.0),
            incarnation: identity.incarnation.0,
            ..Default::default()
        };
        let state = match &entry.state {
            VolumeState::Failed(reason) => {
                this.set_disk(proto::DiskState::Failed);
                this.reason.clone_from(reason);
                proto::VolumeState::Failed
            }
            VolumeState::Opening | VolumeState::Running => {
                this.set_disk(proto::DiskState::Outdated);
                "it is being opened".clone_into(&mut this.reason);
                proto::VolumeState::Starting
            }
        };
        let mut out = proto::VolumeStatus {
            volume: entry.name.clone(),
            id: entry.volume.map(|volume| input::to_hex(&volume.0)).unwrap_or_default(),
            this_node: Some(this),
            ..Default::default()
        };
        out.set_state(state);
        out
    }

    pub(super) async fn status(&self, name: &str) -> Result<VolumeStatus, Failure> {
        let pending = self.engine.status(name).map_err(|error| explain_find(&error))?;
        match tokio::time::timeout(SNAPSHOT_WITHIN, pending).await {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(Failure::not_reachable("the engine is stopping")),
            Err(_) => Err(Failure::not_reachable(format!("the loop of volume {name:?} does not answer"))),
        }
    }

    /// Waits while a volume is being opened: an engine that was killed holds its files until its last write has landed.
    pub(super) async fn wait_open(&self, name: &str, deadline: tokio::time::Instant) {
        let opening = || self.entry(name).is_some_and(|entry| entry.state == VolumeState::Opening);
        while opening() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) fn command(&self, name: &str, command: Command) -> Result<Answer, Failure> {
        let pending = self.engine.command(name, command).map_err(|error| explain_find(&error))?;
        let names = self.cluster().nodes.iter().map(|node| (NodeId(node.id), node.name.clone())).collect();
        Ok(Answer { pending, volume: name.to_owned(), names })
    }

    /// The same, with the core's own answer.
    pub(super) async fn raw_command(
        &self,
        name: &str,
        command: Command,
    ) -> Result<Result<Reply, CommandError>, Failure> {
        let pending = self.engine.command(name, command).map_err(|error| explain_find(&error))?;
        pending.await.ok_or_else(|| Failure::not_reachable("the engine is stopping"))
    }

    /// Size of a volume, in bytes.
    pub(super) async fn size_of(&self, name: &str) -> Result<u64, Failure> {
        Ok(self.status(name).await?.core.config.size_blocks * input::BLOCK_BYTES)
    }

    /// Whether this node's replicas are still to be brought by its agent.
    pub(super) fn waits_for_pool(&self) -> bool {
        self.cluster().this.pool.is_some() && self.pool().is_none()
    }

    /// What the next engine needs to go on with the volume's device.
    pub(super) fn loop_session(&self, name: &str) -> Option<LoopSession> {
        self.engine.loop_session(name).unwrap_or_else(|error| {
            tracing::warn!(volume = name, %error, "no descriptor for the holder");
            None
        })
    }

    /// Goes on with a device of an earlier engine.
    pub(super) async fn resume_front_end(
        &self,
        name: &str,
        session: LoopSession,
        mode: AttachMode,
    ) -> Result<proto::Attachment, Failure> {
        let (engine, owned) = (Arc::clone(&self.engine), name.to_owned());
        let address = blocking("go on with the device", move || engine.resume_front_end(&owned, session)).await?;
        let address = address.map_err(|error| Failure::of_host("go on with the device", &error))?;
        Ok(describe_attachment(name, address, proto::Fuse::Recoverable, mode))
    }

    /// Leaves the device to the next engine.
    pub(super) async fn hand_over_front_end(&self, name: &str) -> Result<(), Failure> {
        let (engine, owned) = (Arc::clone(&self.engine), name.to_owned());
        let handed_over = blocking("hand the device over", move || engine.hand_over_front_end(&owned)).await?;
        handed_over.map_err(|error| explain_find(&error))
    }

    /// Fails a device of an earlier engine.
    pub(super) async fn abandon_front_end(&self, name: &str, volume_id: &str, session: LoopSession) {
        let Ok(id) = crate::spec::parse_id(volume_id) else { return };
        let (engine, owned) = (Arc::clone(&self.engine), name.to_owned());
        let abandoned =
            blocking("give the device up", move || engine.abandon_front_end(&owned, VolumeId(id), session)).await;
        if let Err(failure) = abandoned {
            tracing::warn!(volume = name, %failure, "device is not given up");
        }
    }

    /// All metrics. Asks the loops, and therefore waits.
    pub(super) async fn metrics_text(&self) -> Result<String, Failure> {
        let engine = Arc::clone(&self.engine);
        blocking("read the metrics", move || engine.metrics_text()).await
    }

    /// Makes a front end of the attached volume.
    pub(super) async fn start_front_end(
        &self,
        name: &str,
        front_end: proto::FrontEnd,
        fuse: proto::Fuse,
        mode: AttachMode,
    ) -> Result<proto::Attachment, Failure> {
        let kind = match front_end {
            proto::FrontEnd::NbdSocket => FrontEndKind::NbdSocket { path: self.state.nbd_socket(name) },
            _ => FrontEndKind::Loop {
                fuse: match fuse {
                    proto::Fuse::IoUring => FuseKind::IoUring,
                    proto::Fuse::Unspecified | proto::Fuse::Recoverable => FuseKind::Recoverable,
                },
            },
        };
        if let FrontEndKind::NbdSocket { path } = &kind {
            check_socket_path(path)?;
        }
        let (engine, owned) = (Arc::clone(&self.engine), name.to_owned());
        let address = blocking("start the front end", move || engine.start_front_end(&owned, kind)).await?;
        let address = address.map_err(|error| match error {
            StartFrontEnd::Find(error) => explain_find(&error),
            StartFrontEnd::Exists(_) => Failure::state_forbids(error.to_string()),
            StartFrontEnd::UringOff => Failure::state_forbids(error.to_string()),
            error => Failure::of_host("start the front end", &error),
        })?;
        Ok(describe_attachment(name, address, fuse, mode))
    }

    /// Makes the volume's present size visible at its device.
    pub(super) async fn grow_front_end(&self, name: &str) -> Result<(), Failure> {
        let (engine, owned) = (Arc::clone(&self.engine), name.to_owned());
        let grown = blocking("grow the device", move || engine.grow_front_end(&owned)).await?;
        grown.map_err(|error| Failure::of_host("grow the device", &error))
    }

    /// Takes the front end away; with `force` whoever uses it gets errors.
    pub(super) async fn stop_front_end(&self, name: &str, force: bool) -> Result<(), Failure> {
        let (engine, owned) = (Arc::clone(&self.engine), name.to_owned());
        let stopped = blocking("stop the front end", move || engine.stop_front_end(&owned, force)).await?;
        stopped.map_err(|error| match error {
            StopFrontEnd::Find(error) => explain_find(&error),
            error @ StopFrontEnd::Device(_) => Failure::state_forbids(format!("volume {name:?}: {}", chain(&error))),
        })
    }

    /// Leaves all volumes as planned, as far as that is possible within `patience`.
    /// Those of `attached` stay members: their devices wait for the next engine, and who leaves is not attached any more.
    pub(super) async fn leave_all(&self, attached: &BTreeSet<String>, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        let running = self.engine.list().into_iter().filter(|entry| entry.state == VolumeState::Running);
        let running = running.filter(|entry| !attached.contains(&entry.name));
        let leaving: Vec<_> =
            running.filter_map(|entry| Some((self.command(&entry.name, Command::Leave).ok()?, entry.name))).collect();
        for (answer, volume) in leaving {
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(_)) => tracing::info!(volume, "left as planned"),
                Ok(Err(failure)) => tracing::warn!(volume, %failure, "not left as planned"),
                Err(_) => tracing::warn!(volume, "not left as planned in time"),
            }
        }
    }
}

fn describe_attachment(name: &str, address: FrontEndAddress, fuse: proto::Fuse, mode: AttachMode) -> proto::Attachment {
    let mut attachment = proto::Attachment { volume: name.to_owned(), ..Default::default() };
    attachment.set_mode(match mode {
        AttachMode::ReadWrite => proto::AttachMode::ReadWrite,
        AttachMode::ReadOnly => proto::AttachMode::ReadOnly,
    });
    attachment.set_fuse(fuse);
    match address {
        FrontEndAddress::Loop { device, major, minor } => {
            attachment.set_front_end(proto::FrontEnd::Loop);
            attachment.device = device.display().to_string();
            attachment.device_major = major;
            attachment.device_minor = minor;
        }
        FrontEndAddress::NbdSocket { path, export } => {
            attachment.set_front_end(proto::FrontEnd::NbdSocket);
            attachment.socket = path.display().to_string();
            attachment.export = export;
        }
    }
    attachment
}

/// A predecessor that was killed is gone before its ring is: until its last disk write has landed its sockets still listen.
fn start_when_free(config: &EngineConfig) -> Result<Engine, StartEngine> {
    let start = Instant::now();
    loop {
        match Engine::start(config.clone()) {
            Err(StartEngine::Listen { source, .. })
                if source.kind() == std::io::ErrorKind::AddrInUse && start.elapsed() < FREE_WITHIN =>
            {
                std::thread::sleep(LOOK_EVERY);
            }
            result => return result,
        }
    }
}

/// Runs what waits for the disk or the kernel beside the runtime.
async fn blocking<T: Send + 'static>(doing: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::of_host(doing, &error))
}

fn check_socket_path(path: &std::path::Path) -> Result<(), Failure> {
    if path.as_os_str().len() <= crate::rpc::SOCKET_PATH_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the socket's path {} is too long: shorten the state directory's", path.display());
    Err(Failure::state_forbids(message))
}

fn explain_find(error: &FindVolume) -> Failure {
    match error {
        FindVolume::Unknown(name) => Failure::unknown_volume(name),
        FindVolume::Opening(_) | FindVolume::Stopping => Failure::not_reachable(error.to_string()),
        FindVolume::Failed { .. } => Failure::state_forbids(error.to_string()),
    }
}

fn explain_create(name: &str, error: CreateVolume) -> Failure {
    match error {
        CreateVolume::Exists(_) => Failure::state_forbids(format!("another volume is named {name:?} there")),
        error @ CreateVolume::NoLeases => {
            Failure::state_forbids(format!("{error}: name one as this.kubeconfig in its cluster file"))
        }
        CreateVolume::NoPool => Failure::state_forbids("its pool is not open"),
        CreateVolume::Config(reason) => Failure::wrong_input("spec", name, reason),
        error @ (CreateVolume::Files(_) | CreateVolume::Start(_)) => Failure::of_host("create the volume", &error),
        CreateVolume::Stopping => Failure::not_reachable("the engine is stopping"),
    }
}

fn explain_command(volume: &str, names: &[(NodeId, String)], error: CommandError) -> Failure {
    let what = |text: &str| format!("volume {volume:?}: {text}");
    match error {
        CommandError::AttachedElsewhere { holder } => {
            let name =
                names.iter().find(|(id, _)| *id == holder).map_or_else(|| holder.to_string(), |(_, name)| name.clone());
            Failure::held_by(&name, what(&format!("node {name} has it attached for writing")))
        }
        CommandError::AttachState { reason } | CommandError::Forbidden { reason } => {
            Failure::state_forbids(what(&reason))
        }
        CommandError::Silent { node } => {
            let name =
                names.iter().find(|(id, _)| *id == node).map_or_else(|| node.to_string(), |(_, name)| name.clone());
            Failure::not_reachable(what(&format!("node {name} does not answer")))
        }
        CommandError::NoUpToDateReplica => Failure::not_reachable(what("no up-to-date replica can be reached")),
        CommandError::NoQuorum => {
            Failure::not_reachable(what("neither a quorum of its voters nor its Lease can be reached"))
        }
        CommandError::Invalid { reason } => Failure::wrong_input("volume", volume, reason),
    }
}

/// Tells all peers that the worker's last run is over, and says in words how each took it. `None`: there never was a run.
pub(super) fn report_exit(cluster: &Cluster, me: &Node, state: &StateDir, restarting: bool) -> Option<String> {
    let incarnation = lockstep_engine::last_incarnation(&state.engine()).ok()?;
    let config = engine_config(cluster, me, state, None);
    let report = ExitReport { node: config.node, incarnation, restarting };
    let results = lockstep_engine::report_exit(report, &config.psk, &config.nodes, REPORT_WITHIN);
    let show = |(node, net, result): &(NodeId, Net, Result<(), SendReport>)| {
        let result = result.as_ref().map_or_else(|error| chain(error), |()| "told".to_owned());
        format!("{} ({net:?}): {result}", cluster.name_of(node.0))
    };
    Some(results.iter().map(show).collect::<Vec<_>>().join(", "))
}

fn engine_config(cluster: &Cluster, me: &Node, state: &StateDir, pool: Option<PathBuf>) -> EngineConfig {
    EngineConfig {
        node: NodeId(me.id),
        state_dir: state.engine(),
        psk: cluster.psk.0.to_vec(),
        nodes: cluster.nodes.iter().map(|node| address(node, me)).collect(),
        loops: cluster.this.loops,
        pool,
        leases: None,
    }
}

fn address(node: &Node, me: &Node) -> NodeAddress {
    let dedicated: Option<IpAddr> = match node.dedicated {
        Some(Dedicated::Address(address)) => Some(address),
        Some(network @ Dedicated::Network { .. }) if node.id == me.id => host::addresses::own_in(network),
        Some(Dedicated::Network { .. }) | None => None,
    };
    NodeAddress {
        id: NodeId(node.id),
        name: node.name.clone(),
        ordinary: SocketAddr::new(node.address, node.port),
        dedicated: dedicated.map(|address| SocketAddr::new(address, node.port)),
    }
}
