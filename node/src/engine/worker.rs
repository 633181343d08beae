//! The worker: the mirror engine, with the agent's socket and the metrics beside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use lockstep_proto::node::v1 as proto;
use lockstep_proto::node::v1::engine_server::EngineServer;
use nix::sys::signal::SigSet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::transport::Server;

use super::admin::EngineService;
use super::attachments::Attachments;
use super::engine_port::EnginePort;
use super::holder_link::HolderLink;
use super::meter::Meters;
use super::resume::Left;
use super::{EngineOptions, Place, metrics};
use crate::agent::pool_marker;
use crate::failure::{Failure, chain};
use crate::holder::Kept;
use crate::host::lock;
use crate::process;
use crate::state_dir::Program;
use crate::{pool, rpc};

/// How long leaving all volumes may take: everything in flight is flushed, on disks that may be busy.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

/// How soon a device shows that its volume was grown at another node.
const GROWTH_SEEN_WITHIN: Duration = Duration::from_secs(1);

/// The worker's state.
pub(super) struct Worker {
    pub(super) place: Place,
    pub(super) attachments: Arc<Attachments>,
    /// Nobody will go on with what is attached.
    pub(super) host_goes_down: AtomicBool,
    /// What an earlier engine left at the holder, until the engine has started.
    left: Mutex<Vec<Kept>>,
    link: Arc<HolderLink>,
    pub(super) verifies: Mutex<std::collections::BTreeMap<String, proto::Verify>>,
    pub(super) resync_meters: Meters,
    pub(super) verify_meters: Meters,
    /// Notified when the worker shall leave everything and end.
    pub(super) end: Notify,
    engine: OnceLock<Arc<EnginePort>>,
}

impl Worker {
    /// The engine, if it runs.
    pub(super) fn engine(&self) -> Result<Arc<EnginePort>, Failure> {
        self.engine.get().cloned().ok_or_else(|| Failure::not_reachable("the engine is starting"))
    }

    /// Takes the pool that the agent has opened.
    pub(super) fn open_pool(&self, path: &Path) -> Result<(), Failure> {
        let marker = pool_marker(&self.place.nodes.get(), &self.place.me);
        match pool::marker::Marker::read(path) {
            Ok(Some(found)) => found.check(path, &marker).map_err(|error| Failure::state_forbids(error.to_string()))?,
            Ok(None) => return Err(Failure::wrong_input("path", path.display(), "has no pool's marker")),
            Err(error) => return Err(Failure::state_forbids(chain(&error))),
        }
        self.engine()?.open_pool(path)
    }

    /// Starts the engine beside the runtime. A worker whose engine does not start is of no use: it says why and ends.
    fn start_engine(self: &Arc<Self>) -> JoinHandle<anyhow::Result<()>> {
        let worker = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _entered = runtime.enter();
            let engine = Arc::new(EnginePort::start(&worker.place, worker.observe_pool())?);
            worker.attachments.resume_all(&engine, worker.take_left());
            worker.engine.set(engine).ok().expect("the engine is started once");
            Ok(())
        })
    }

    /// The pool, if it is open already; else the agent brings it. Without it the engine votes and remembers.
    fn observe_pool(&self) -> Option<PathBuf> {
        let cluster = self.place.nodes.get();
        let place = cluster.this.pool.as_ref()?;
        let marker = pool_marker(&cluster, &self.place.me);
        match pool::observe_open(place, &self.place.state.pool_mount(), &marker) {
            Ok(path) => path,
            Err(error) => {
                tracing::error!(error = chain(&error), "engine starts without its pool");
                None
            }
        }
    }

    /// What can be gone on with. The rest is of nobody: it is closed.
    fn take_left(&self) -> Vec<Left> {
        let kept = std::mem::take(&mut *self.left.lock().expect("no holder panics"));
        let mut left = Vec::new();
        for kept in kept {
            let name = kept.name.clone();
            match Left::parse(kept) {
                Ok(device) if device.volume() == name => left.push(device),
                Ok(_) => self.link.forget(&name),
                Err(reason) => {
                    tracing::error!(name, reason, "what the holder has is not an engine's");
                    self.link.forget(&name);
                }
            }
        }
        left
    }

    /// Says whether devices are left to the next engine.
    async fn end(&self) -> bool {
        let Ok(engine) = self.engine() else { return false };
        let handed_over = match self.host_goes_down.load(Ordering::Relaxed) {
            true => BTreeSet::new(),
            false => self.attachments.hand_over_all(&engine).await,
        };
        self.attachments.stop_all(&engine).await;
        engine.leave_all(&handed_over, LEAVE_WITHIN).await;
        !handed_over.is_empty()
    }
}

/// How a worker ended that was told to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It has left every volume.
    Left,
    /// It left devices to the next engine, and stays a member of their volumes.
    HandedOver,
}

impl Ended {
    /// The exit status by which the supervisor tells that from an end without a successor. (EX_TEMPFAIL: none that a program has by chance.)
    pub(super) const HANDED_OVER: u8 = 75;

    /// The exit status of the process.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        match self {
            Ended::Left => ExitCode::SUCCESS,
            Ended::HandedOver => ExitCode::from(Ended::HANDED_OVER),
        }
    }
}

/// Runs the worker until it is told to end.
///
/// # Errors
/// What keeps it from starting, or from going on.
pub fn run(options: &EngineOptions) -> anyhow::Result<Ended> {
    end_on_panic();
    // Inherited from the supervisor, which waits for its signals; ours are delivered.
    SigSet::all().thread_unblock().context("unblock signals")?;
    let place = options.place()?;
    // A predecessor that was killed holds this until its last disk write has landed.
    let _lock = lock::wait_lock(&place.state.worker_lock()).context("wait for the previous worker's end")?;
    let pid_file = place.state.pid_file(Program::Worker);
    // After the lock: nobody else serves what is there.
    let (link, left) = HolderLink::start(options.holder_socket(&place.state));
    let worker = Arc::new(Worker {
        place,
        attachments: Arc::new(Attachments::new(Arc::clone(&link))),
        host_goes_down: AtomicBool::new(false),
        left: Mutex::new(left),
        link,
        verifies: Mutex::default(),
        resync_meters: Meters::default(),
        verify_meters: Meters::default(),
        end: Notify::new(),
        engine: OnceLock::new(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(16)
        .thread_name("admin")
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(worker));
    runtime.shutdown_background();
    if served.is_ok() {
        // The supervisor takes a record that is gone for a planned end.
        process::forget_self(&pid_file);
    }
    served
}

/// A violated invariant ends the whole worker, whichever thread found it: a half that goes on would be silence to the peers and
/// a hang to whoever waits. The supervisor reports the end.
fn end_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
}

async fn serve(worker: Arc<Worker>) -> anyhow::Result<Ended> {
    let socket = worker.place.state.engine_socket();
    let incoming = rpc::listen_unix(&socket).with_context(|| format!("listen at {}", socket.display()))?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let starting = worker.start_engine();
    let admin = Server::builder()
        .add_service(EngineServer::new(EngineService(Arc::clone(&worker))))
        .serve_with_incoming(incoming);
    let scraped = serve_metrics(Arc::clone(&worker));
    let started = async {
        starting.await.context("start the engine")??;
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        result = started => result?,
        result = admin => result.context("serve the agent")?,
        result = scraped => result?,
        () = follow_growth(&worker) => {}
        () = worker.end.notified() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let handed_over = worker.end().await;
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!(%error, "socket stays");
    }
    Ok(if handed_over { Ended::HandedOver } else { Ended::Left })
}

/// A volume may be grown at another node than the one where it is attached.
async fn follow_growth(worker: &Worker) {
    let mut look = tokio::time::interval(GROWTH_SEEN_WITHIN);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if let Ok(engine) = worker.engine()
            && let Err(failure) = worker.attachments.follow_growth(&engine).await
        {
            tracing::debug!(%failure, "a device does not grow yet");
        }
    }
}

async fn serve_metrics(worker: Arc<Worker>) -> anyhow::Result<()> {
    let Some(port) = worker.place.nodes.get().this.metrics_port else { return std::future::pending().await };
    metrics::serve(port, move || metrics::render(Arc::clone(&worker)))
        .await
        .with_context(|| format!("serve metrics at port {port}"))
}
