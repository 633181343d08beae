//! The engine as a library: what `node` wraps with its admin protocol, and what anybody else may embed.
//!
//! Every method may be called from any thread that may wait. None is needed on the data path.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lockstep_core::{
    Arbiter, BlockRange, Command, CommandError, Config, Incarnation, Input, Meta, Net, NodeId, Op, Reply, VolumeId,
};
use lockstep_format::disk::Owner;
use lockstep_format::wire::greeting::ClusterKey;

use crate::event_loop::{EventLoop, LoopCommand};
use crate::front_ends::Attached;
use crate::lease_port::LeasePort;
use crate::parts;
use crate::pending::{Pending, pending};
use crate::shared::{Identity, NodeAddress, Shared, boot_id, mailbox, next_incarnation};
use crate::socket;
use crate::storage::{self, CreateReplica, Files};
use crate::volume::{RequestResult, VolumeStatus};

/// Most loops of one engine: one per core is the design, and no machine needs more for volumes that are pinned.
const LOOPS_MAX: usize = 64;
/// How long the end of the loops is waited for: a disk that hangs must not keep a shutdown.
const LOOP_END: Duration = Duration::from_secs(5);

/// How an engine is started.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// This node.
    pub node: NodeId,
    /// Where the engine keeps its incarnation and the memory of volumes of which it holds no data. Made if missing.
    pub state_dir: PathBuf,
    /// The cluster's pre-shared secret.
    pub psk: Vec<u8>,
    /// All nodes that are known at the start, this one included. See [`Engine::learn_nodes`].
    pub nodes: Vec<NodeAddress>,
    /// Event loops; 0 is one per core.
    pub loops: usize,
    /// Directory of the replicas, if it is ready; else see [`Engine::open_pool`].
    pub pool: Option<PathBuf>,
    /// The way to Leases. Without one, volumes whose configuration a Lease keeps are neither made nor opened.
    pub leases: Option<Arc<dyn LeasePort>>,
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartEngine {
    /// The configuration does not list this node.
    #[error("node {0} is not among the nodes of the cluster")]
    UnknownNode(NodeId),
    /// The state directory cannot be used.
    #[error("cannot use the state directory {}", path.display())]
    StateDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another engine uses the state directory.
    #[error("another engine runs with the state directory {}", .0.display())]
    Running(PathBuf),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A loop cannot be made.
    #[error("cannot start an event loop")]
    Loop(#[source] io::Error),
}

/// Why something cannot be asked of a volume.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FindVolume {
    /// No such volume on this node.
    #[error("no volume {0:?} on this node")]
    Unknown(String),
    /// Its files are being opened: an engine that was killed may still hold them.
    #[error("volume {0:?} is being opened")]
    Opening(String),
    /// Its files cannot be used.
    #[error("volume {name:?} cannot be run: {reason}")]
    Failed {
        /// The volume.
        name: String,
        /// Why.
        reason: String,
    },
    /// The loop does not answer: the engine stops.
    #[error("the engine is stopping")]
    Stopping,
}

/// Why a volume was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateVolume {
    /// The configuration cannot be one.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// The name is taken.
    #[error("a volume {0:?} exists")]
    Exists(String),
    /// A Lease is to keep the configuration, and there is no way to one.
    #[error("a Lease is to keep the configuration, and this node is given no kubeconfig")]
    NoLeases,
    /// A replica was asked for, and no pool is open.
    #[error("no pool is open on this node")]
    NoPool,
    /// Its files could not be made.
    #[error(transparent)]
    Files(#[from] CreateReplica),
    /// It could not be started.
    #[error("cannot start the volume")]
    Start(#[source] io::Error),
    /// The engine stops.
    #[error("the engine is stopping")]
    Stopping,
}

/// Why a volume was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteVolume {
    /// No such volume, or it cannot be told to stop.
    #[error(transparent)]
    Find(#[from] FindVolume),
    /// It has a front end.
    #[error("volume {0:?} is attached here")]
    Attached(String),
    /// Its files could not be taken away.
    #[error("cannot delete the files of volume {name:?}")]
    Files {
        /// The volume.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where a volume stands on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VolumeState {
    /// Its files are being opened.
    Opening,
    /// It runs.
    Running,
    /// Its files cannot be used, with the reason. They are as they were found.
    Failed(String),
}

/// A volume in [`Engine::list`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeEntry {
    /// Its name.
    pub name: String,
    /// Its identity, if its files tell it.
    pub volume: Option<VolumeId>,
    /// Where it stands.
    pub state: VolumeState,
}

#[derive(Debug)]
struct Known {
    dir: PathBuf,
    volume: Option<VolumeId>,
    state: VolumeState,
    pub(crate) attached: Option<Attached>,
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    state_dir: PathBuf,
    volumes: Arc<Mutex<BTreeMap<String, Known>>>,
    pool: Mutex<Option<PathBuf>>,
    threads: Mutex<Vec<JoinHandle<io::Result<()>>>>,
    /// Held while a number is taken for a run.
    minting: Mutex<()>,
    /// Held while the engine lives.
    _lock: File,
}

impl Engine {
    /// Starts the loops, and opens all volumes of the state directory and the pool in the background.
    ///
    /// # Errors
    /// See [`StartEngine`].
    pub fn start(config: EngineConfig) -> Result<Engine, StartEngine> {
        let nodes: BTreeMap<NodeId, NodeAddress> = config.nodes.into_iter().map(|node| (node.id, node)).collect();
        let own = nodes.get(&config.node).ok_or(StartEngine::UnknownNode(config.node))?.clone();
        let state = |source| StartEngine::StateDir { path: config.state_dir.clone(), source };
        let memory_dir = memory_dir(&config.state_dir);
        std::fs::create_dir_all(&memory_dir).map_err(state)?;
        let lock = File::create(config.state_dir.join("lock")).map_err(state)?;
        if lock.try_lock().is_err() {
            return Err(StartEngine::Running(config.state_dir));
        }
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_nanos = u64::try_from(unix.as_nanos()).unwrap_or(0);
        let incarnation = next_incarnation(&config.state_dir.join("incarnation"), unix_nanos).map_err(state)?;
        let boot = boot_id().map_err(state)?;

        let mut listeners = Vec::new();
        for net in [Net::Ordinary, Net::Dedicated] {
            if let Some(address) = own.on(net) {
                let socket = socket::listen_on(address).map_err(|source| StartEngine::Listen { address, source })?;
                listeners.push((socket, net));
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let loops = if config.loops == 0 { cores } else { config.loops }.min(LOOPS_MAX);
        let mut handles = Vec::new();
        let mut mailboxes = Vec::new();
        for _ in 0..loops {
            let (handle, mailbox) = mailbox().map_err(StartEngine::Loop)?;
            handles.push(handle);
            mailboxes.push(mailbox);
        }
        let shared = Arc::new(Shared {
            identity: Identity { node: config.node, incarnation, boot },
            key: ClusterKey::derive(&config.psk),
            nodes: RwLock::new(nodes),
            learned: Mutex::default(),
            loops: handles,
            homes: Mutex::new(BTreeMap::new()),
            counters: crate::shared::ConnectionCounters::default(),
            leases: config.leases,
        });
        let mut threads = Vec::new();
        for (index, mailbox) in mailboxes.into_iter().enumerate() {
            let listeners = if index == 0 { std::mem::take(&mut listeners) } else { Vec::new() };
            let shared = shared.clone();
            let (ready, started) = pending();
            let thread = std::thread::Builder::new().name(format!("loop-{index}")).spawn(move || {
                if let Err(error) = crate::front::become_io_flusher() {
                    tracing::info!(index, %error, "io_flusher_refused");
                }
                // A ring belongs to the thread that made it.
                match EventLoop::new(mailbox, shared, listeners) {
                    Ok(event_loop) => {
                        ready.answer(Ok(()));
                        event_loop.run()
                    }
                    Err(error) => {
                        ready.answer(Err(error));
                        Ok(())
                    }
                }
            });
            threads.push(thread.map_err(StartEngine::Loop)?);
            started.wait().unwrap_or_else(|| Err(io::ErrorKind::Other.into())).map_err(StartEngine::Loop)?;
        }
        let engine = Engine {
            shared,
            state_dir: config.state_dir.clone(),
            volumes: Arc::new(Mutex::new(BTreeMap::new())),
            pool: Mutex::new(None),
            threads: Mutex::new(threads),
            minting: Mutex::new(()),
            _lock: lock,
        };
        engine.open_all(&memory_dir).map_err(state)?;
        if let Some(pool) = config.pool {
            engine.open_pool(&pool).map_err(state)?;
        }
        tracing::info!(node = config.node.0, incarnation = incarnation.0, loops, "engine_started");
        Ok(engine)
    }

    /// Who this engine is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Tells where a node is on the dedicated network, if its address there is not in the configuration: that names only
    /// the network, and each node knows its own address in it.
    pub fn learn_dedicated(&self, node: NodeId, address: SocketAddr) {
        self.shared.learn_dedicated(node, address);
    }

    /// Opens the replicas of a pool, a directory, in the background. Idempotent for the same directory.
    ///
    /// # Errors
    /// If the directory cannot be listed, or another pool is open.
    pub fn open_pool(&self, dir: &Path) -> io::Result<()> {
        {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            match &*pool {
                Some(open) if open == dir => return Ok(()),
                Some(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => *pool = Some(dir.to_owned()),
            }
        }
        self.open_all(dir)
    }

    /// The pool that is open.
    #[must_use]
    pub fn pool(&self) -> Option<PathBuf> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes this node's part of a new volume and runs it. `has_data`: with a replica, in the pool; otherwise only the
    /// memory of a voter, in the state directory.
    ///
    /// # Errors
    /// See [`CreateVolume`].
    pub fn create(&self, name: &str, config: Config, has_data: bool) -> Result<(), CreateVolume> {
        let Identity { node, incarnation, boot } = self.shared.identity;
        let dir = if has_data { self.pool().ok_or(CreateVolume::NoPool)? } else { memory_dir(&self.state_dir) };
        self.make(name, dir, Meta::created(node, has_data, config, incarnation, boot))
    }

    /// Makes this node a member of a volume that exists, of which it holds nothing (any more): without data, and without
    /// a vote until a member that is in sync gives it one. `config` is any that the volume ever had.
    ///
    /// # Errors
    /// See [`CreateVolume`].
    pub fn admit(&self, name: &str, config: Config) -> Result<(), CreateVolume> {
        let Identity { node, boot, .. } = self.shared.identity;
        let incarnation = self.mint_incarnation(name)?;
        self.make(name, memory_dir(&self.state_dir), Meta::forgotten(node, config, incarnation, boot))
    }

    pub(crate) fn make(&self, name: &str, dir: PathBuf, meta: Meta) -> Result<(), CreateVolume> {
        let config = &meta.config;
        config.check().map_err(CreateVolume::Config)?;
        if config.settings.arbiter == Arbiter::Lease && self.shared.leases.is_none() {
            return Err(CreateVolume::NoLeases);
        }
        let volume = config.volume;
        {
            let mut volumes = self.volumes();
            let taken = volumes.contains_key(name) || volumes.values().any(|known| known.volume == Some(volume));
            if taken {
                return Err(CreateVolume::Exists(name.to_owned()));
            }
            let known = Known { dir: dir.clone(), volume: Some(volume), state: VolumeState::Opening, attached: None };
            volumes.insert(name.to_owned(), known);
        }
        let owner = Owner { volume, node: meta.node };
        let made = storage::create(&dir, name, owner, meta).map_err(CreateVolume::Files).and_then(|files| {
            run(&self.shared, &self.volumes, name, files).ok_or(CreateVolume::Stopping)?.map_err(CreateVolume::Start)
        });
        if made.is_err() {
            self.volumes().remove(name);
        }
        made
    }

    /// Stops a volume and deletes its files. The volume must have no front end.
    ///
    /// # Errors
    /// See [`DeleteVolume`].
    pub fn delete(&self, name: &str) -> Result<(), DeleteVolume> {
        if self.with_attached(name, |attached| attached.is_some()) == Some(true) {
            return Err(DeleteVolume::Attached(name.to_owned()));
        }
        let dir = self.stop_volume(name)?;
        storage::delete(&dir, name).map_err(|source| DeleteVolume::Files { name: name.to_owned(), source })?;
        self.volumes().remove(name);
        Ok(())
    }

    /// Stops a volume, and says where its files are.
    pub(crate) fn stop_volume(&self, name: &str) -> Result<PathBuf, FindVolume> {
        let (dir, volume, state) = {
            let volumes = self.volumes();
            let known = volumes.get(name).ok_or_else(|| FindVolume::Unknown(name.to_owned()))?;
            (known.dir.clone(), known.volume, known.state.clone())
        };
        match (state, volume) {
            (VolumeState::Opening, _) => return Err(FindVolume::Opening(name.to_owned())),
            (VolumeState::Running, Some(volume)) => {
                let (done, removed) = pending();
                self.to_home(volume, LoopCommand::Remove { volume, done });
                removed.wait().ok_or(FindVolume::Stopping)?;
                self.shared.homes().remove(&volume);
            }
            _ => {}
        }
        if let Some(known) = self.volumes().get_mut(name) {
            known.state = VolumeState::Opening;
        }
        Ok(dir)
    }

    /// Runs a volume that was stopped from the files that it has now.
    pub(crate) fn run_again(&self, name: &str, dir: &Path, files: Files) -> Result<(), CreateVolume> {
        if let Some(known) = self.volumes().get_mut(name) {
            dir.clone_into(&mut known.dir);
        }
        run(&self.shared, &self.volumes, name, files).ok_or(CreateVolume::Stopping)?.map_err(CreateVolume::Start)
    }

    /// A volume that was stopped does not run any more.
    pub(crate) fn fail_volume(&self, name: &str, reason: String) {
        if let Some(known) = self.volumes().get_mut(name) {
            known.state = VolumeState::Failed(reason);
        }
    }

    /// All volumes of this node, by name.
    #[must_use]
    pub fn list(&self) -> Vec<VolumeEntry> {
        let volumes = self.volumes();
        let entry = |(name, known): (&String, &Known)| VolumeEntry {
            name: name.clone(),
            volume: known.volume,
            state: known.state.clone(),
        };
        volumes.iter().map(entry).collect()
    }

    /// A snapshot of a volume.
    ///
    /// # Errors
    /// See [`FindVolume`].
    pub fn status(&self, name: &str) -> Result<Pending<VolumeStatus>, FindVolume> {
        let volume = self.find(name)?;
        let (done, status) = pending();
        self.to_home(volume, LoopCommand::Status { volume, done });
        Ok(status)
    }

    /// What was heard of a volume's Leases: [`Input::Register`] and [`Input::Lease`]. For a volume that does not run here any
    /// more it is dropped.
    pub fn lease_told(&self, volume: VolumeId, input: Input) {
        self.to_home(volume, LoopCommand::LeaseTold { volume, input: Box::new(input) });
    }

    /// Gives an operator's command to a volume. Answers that take as long as a take-over or a verify come when they come.
    ///
    /// # Errors
    /// See [`FindVolume`].
    pub fn command(&self, name: &str, command: Command) -> Result<Pending<Result<Reply, CommandError>>, FindVolume> {
        let volume = self.find(name)?;
        let (done, reply) = pending();
        self.to_home(volume, LoopCommand::Command { volume, command, done });
        Ok(reply)
    }

    /// A request without a front end, for whoever embeds the engine. The volume must be attached here
    /// ([`Command::Attach`]). `data` is that of a write, exactly as long as the range; empty otherwise.
    ///
    /// # Errors
    /// See [`FindVolume`].
    ///
    /// # Panics
    /// If `data` is not as long as it has to be, or the range is longer than 32 MiB.
    pub fn request(
        &self,
        name: &str,
        op: Op,
        range: BlockRange,
        data: Vec<u8>,
    ) -> Result<Pending<RequestResult>, FindVolume> {
        let wanted = if matches!(op, Op::Write { .. }) { range.bytes() } else { 0 };
        assert_eq!(data.len() as u64, wanted, "the data of a request is as long as its range");
        let limit = lockstep_format::wire::PAYLOAD_BYTES_MAX as u64;
        assert!(!matches!(op, Op::Read | Op::Write { .. }) || range.bytes() <= limit, "a request fits a frame");
        let volume = self.find(name)?;
        let (done, result) = pending();
        self.to_home(volume, LoopCommand::Request { volume, op, range, data, done });
        Ok(result)
    }

    /// Leaves all volumes as planned, as far as that is possible within `patience`, and stops the loops. Front ends that
    /// are still there are ended by force.
    pub fn shutdown(self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let running = self.list().into_iter().filter(|entry| entry.state == VolumeState::Running);
        let leaving: Vec<_> =
            running.filter_map(|entry| Some((self.command(&entry.name, Command::Leave).ok()?, entry.name))).collect();
        for (left, name) in leaving {
            match left.wait_for(deadline.saturating_duration_since(Instant::now())) {
                Ok(Some(Ok(_))) => tracing::info!(volume = name, "left"),
                Ok(Some(Err(error))) => tracing::warn!(volume = name, ?error, "not_left"),
                Ok(None) | Err(_) => tracing::warn!(volume = name, "not_left_in_time"),
            }
        }
        self.stop_loops();
    }

    fn stop_loops(&self) {
        for each in &self.shared.loops {
            each.send(LoopCommand::Stop { within: LOOP_END });
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "loop_failed"),
                Err(_) => tracing::error!("loop_panicked"),
            }
        }
    }

    // ---- for the other files of the engine ---------------------------------------------------------------------------

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    pub(crate) fn memory_dir(&self) -> PathBuf {
        memory_dir(&self.state_dir)
    }

    /// Where a part with or without data lies.
    pub(crate) fn place_of(&self, has_data: bool) -> Result<PathBuf, CreateVolume> {
        if has_data { self.pool().ok_or(CreateVolume::NoPool) } else { Ok(self.memory_dir()) }
    }

    pub(crate) fn minting(&self) -> MutexGuard<'_, ()> {
        self.minting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running volume of this name.
    pub(crate) fn find(&self, name: &str) -> Result<VolumeId, FindVolume> {
        let volumes = self.volumes();
        let known = volumes.get(name).ok_or_else(|| FindVolume::Unknown(name.to_owned()))?;
        match (&known.state, known.volume) {
            (VolumeState::Running, Some(volume)) => Ok(volume),
            (VolumeState::Failed(reason), _) => {
                Err(FindVolume::Failed { name: name.to_owned(), reason: reason.clone() })
            }
            _ => Err(FindVolume::Opening(name.to_owned())),
        }
    }

    /// Sends to the loop that runs a volume. Without one the command is dropped, and its responder says so.
    pub(crate) fn to_home(&self, volume: VolumeId, command: LoopCommand) {
        if let Some(home) = self.shared.home(volume) {
            home.send(command);
        }
    }

    /// What is known of a volume's front end, to be looked at or changed.
    pub(crate) fn with_attached<T>(&self, name: &str, look: impl FnOnce(&mut Option<Attached>) -> T) -> Option<T> {
        self.volumes().get_mut(name).map(|known| look(&mut known.attached))
    }

    /// What front ends are named after.
    pub(crate) fn front_end_place(&self, name: &str) -> PathBuf {
        self.state_dir.join(name)
    }

    /// Opens every volume in `dir`, each on a thread of its own: one may have to wait for its lock.
    fn open_all(&self, dir: &Path) -> io::Result<()> {
        for name in storage::list(dir)? {
            let memory = self.memory_dir().join(&name);
            let unfinished = dir != self.memory_dir() && parts::volume_of(&memory).is_some();
            if unfinished && parts::volume_of(&memory) == parts::volume_of(&dir.join(&name)) {
                // The replica was being made beside a memory, or taken away, when the engine ended.
                tracing::warn!(volume = name, "unfinished_part_deleted");
                storage::delete(dir, &name)?;
                continue;
            }
            let known = Known { dir: dir.to_owned(), volume: None, state: VolumeState::Opening, attached: None };
            self.volumes().insert(name.clone(), known);
            let (shared, volumes, dir) = (self.shared.clone(), self.volumes.clone(), dir.to_owned());
            std::thread::Builder::new()
                .name(format!("open-{name}"))
                .spawn(move || open(&shared, &volumes, &dir, &name))?;
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_loops();
    }
}

/// Memory of volumes of which this node holds no data.
fn memory_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("memory")
}

fn open(shared: &Arc<Shared>, volumes: &Mutex<BTreeMap<String, Known>>, dir: &Path, name: &str) {
    let path = dir.join(name);
    let reason = match storage::open(&path, shared.identity.node, shared.leases.is_some()) {
        Ok(files) => match run(shared, volumes, name, files) {
            Some(Ok(())) | None => return,
            Some(Err(error)) => error.to_string(),
        },
        Err(error) => error.to_string(),
    };
    tracing::error!(volume = name, reason, "volume_failed");
    if let Some(known) = volumes.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name) {
        known.state = VolumeState::Failed(reason);
    }
}

/// Gives a volume to a loop. `None`: the engine stops.
fn run(
    shared: &Arc<Shared>,
    volumes: &Mutex<BTreeMap<String, Known>>,
    name: &str,
    files: Files,
) -> Option<io::Result<()>> {
    let volume = files.journal.meta().config.volume;
    let index = {
        let mut homes = shared.homes();
        // The loop with the fewest volumes.
        let load = |index: &usize| homes.values().filter(|home| *home == index).count();
        let index = (0..shared.loops.len()).min_by_key(load)?;
        homes.insert(volume, index);
        index
    };
    let (done, added) = pending();
    let files = Box::new(files);
    shared.loops[index].send(LoopCommand::Add { name: name.to_owned(), files, done });
    let added = added.wait()?;
    let mut volumes = volumes.lock().unwrap_or_else(PoisonError::into_inner);
    match (&added, volumes.get_mut(name)) {
        (Ok(()), Some(known)) => (known.volume, known.state) = (Some(volume), VolumeState::Running),
        _ => {
            shared.homes().remove(&volume);
        }
    }
    Some(added)
}

/// The incarnation under which a start of this engine would run next is above this one; for the supervisor's report.
///
/// # Errors
/// If there is no engine's state there.
pub fn last_incarnation(state_dir: &Path) -> io::Result<Incarnation> {
    let text = std::fs::read_to_string(state_dir.join("incarnation"))?;
    text.trim().parse().map(Incarnation).map_err(|_| io::ErrorKind::InvalidData.into())
}
