//! The program: flags, and what runs for how long.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use kube::Client;
use lockstep_csi::{Directory, Plugin, Socket};
use lockstep_leases::{IN_CLUSTER, Leases, Place, read_access};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::csi::Port;
use crate::health::{self, Health};
use crate::leadership::Candidate;
use crate::metrics::{self, Counts};
use crate::reconcile::Leader;
use crate::uninstall::Check;

/// For the first lists of the cluster's objects. Then the program ends, and is started again with new connections.
const SYNC_WITHIN: Duration = Duration::from_secs(60);

/// A connection to the API server that takes longer is given up.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// The controller of Lockstep.
#[derive(Debug, Parser)]
#[command(name = "lockstep-controller", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer CSI's Controller service, and lead when no other replica of the controller does.
    Run(Run),
    /// Print the definitions of the custom resources as YAML.
    Definitions,
    /// Fail while there are volumes, and say which: what `helm uninstall` asks first.
    UninstallCheck(Check),
    /// Do nothing until told to end: what runs in a node's guard pod, whose eviction a drain waits for.
    Guard,
}

#[derive(Debug, Args)]
struct Run {
    /// Namespace of the installation: Leases of volumes and of the leadership.
    #[arg(long, env = "LOCKSTEP_NAMESPACE", default_value = "lockstep-system")]
    namespace: String,
    /// Namespace of the Leases of nodes; default: that of the installation with -nodes behind it.
    #[arg(long, env = "LOCKSTEP_NODE_NAMESPACE")]
    node_namespace: Option<String>,
    /// Unix socket of the CSI plugin.
    #[arg(long, env = "LOCKSTEP_CSI_SOCKET", default_value = "/csi/csi.sock")]
    csi_socket: PathBuf,
    /// Where /healthz, /readyz and /metrics are.
    #[arg(long, env = "LOCKSTEP_HEALTH", default_value = "0.0.0.0:7505")]
    health_address: SocketAddr,
    /// Configuration file; none: all defaults, and no pools.
    #[arg(long, env = "LOCKSTEP_CONFIG")]
    config: Option<PathBuf>,
    /// This run's name as a candidate; a random part is added.
    #[arg(long, env = "LOCKSTEP_POD", default_value = "lockstep-controller")]
    pod: String,
    /// Kubeconfig file; none: the cluster that this runs in.
    #[arg(long, env = "LOCKSTEP_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
}

/// Runs the program as its arguments say.
#[must_use]
pub fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LOCKSTEP_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if std::env::var("LOCKSTEP_LOG_FORMAT").as_deref() == Ok("json") {
        log.json().init()
    } else {
        log.init()
    }
    let outcome = match Arguments::parse().command {
        Command::Definitions => definitions(),
        Command::Run(run) => runtime().and_then(|runtime| runtime.block_on(run.run())),
        Command::Guard => runtime().and_then(|runtime| runtime.block_on(guard())),
        Command::UninstallCheck(check) => match runtime().and_then(|runtime| runtime.block_on(check.run())) {
            Ok(Some(refusal)) => {
                // As it is, and not as one line of a log: people read it with `kubectl logs`.
                eprint!("{refusal}");
                return ExitCode::FAILURE;
            }
            outcome => outcome.map(|_| tracing::info!("nothing_is_left")),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("make a runtime")
}

fn definitions() -> Result<()> {
    let text = serde_saphyr::to_string_multiple(&lockstep_api::definitions()).context("write YAML")?;
    print!("{text}");
    Ok(())
}

async fn guard() -> Result<()> {
    let end = CancellationToken::new();
    listen_to_signals(&end)?;
    end.cancelled().await;
    Ok(())
}

impl Run {
    async fn run(self) -> Result<()> {
        let config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        let end = CancellationToken::new();
        let _end_on_return = end.clone().drop_guard();
        listen_to_signals(&end)?;
        let client = connect(self.kubeconfig.as_deref()).await?;
        let node_namespace = self.node_namespace.clone().unwrap_or_else(|| format!("{}-nodes", self.namespace));
        let (cluster, mut watches) =
            Cluster::watch(client.clone(), (&self.namespace, &node_namespace), config.fail_over.node_lease_stale_after);
        let port = Arc::new(Port::new(Arc::clone(&cluster), config.clone()));
        let socket = Socket::listen(&self.csi_socket, Directory::Theirs).context("listen for CSI")?;
        let plugin = Plugin::new().with_controller(Arc::clone(&port));
        let serving = tokio::spawn(plugin.serve(socket, end.clone().cancelled_owned()));
        let counts = Arc::new(Counts::default());
        let (seen, counted) = (Arc::clone(&cluster), Arc::clone(&counts));
        let health = Health::new(move || metrics::text(&seen, &counted));
        let answering =
            tokio::spawn(health::serve(self.health_address, Arc::clone(&health), end.clone().cancelled_owned()));
        let ready = async {
            tokio::select! {
                synced = cluster.synced(SYNC_WITHIN) => synced?,
                () = end.cancelled() => return Ok(()),
            }
            port.open();
            health.set_ready(true);
            self.lead(&cluster, &config, &counts, &end).await
        };
        let outcome = tokio::select! {
            outcome = ready => outcome,
            () = watches.ended() => Err(anyhow::anyhow!("a watch ended")),
        };
        health.set_ready(false);
        end.cancel();
        serving.await.context("the CSI server")?.context("serve CSI")?;
        answering.await.context("the health server")?.context("serve health")?;
        outcome
    }

    /// Waits for the leadership, then leads until it is lost: that is an error, because then this process must not write any more.
    async fn lead(
        &self,
        cluster: &Arc<Cluster>,
        config: &Config,
        counts: &Arc<Counts>,
        end: &CancellationToken,
    ) -> Result<()> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).context("draw a random name")?;
        let identity = format!("{}_{:08x}", self.pod, u32::from_le_bytes(random));
        let mut candidate = Candidate::new(cluster.client.clone(), &self.namespace, identity.clone());
        tokio::select! {
            () = candidate.win() => {}
            () = end.cancelled() => {
                // It may have been won without that being heard.
                candidate.release().await;
                return Ok(());
            }
        }
        let place = Place {
            kubeconfig: self.kubeconfig.clone().unwrap_or_else(|| IN_CLUSTER.into()),
            namespace: self.namespace.clone(),
        };
        let leases = Leases::new(place, identity.clone());
        let leader = Leader::new(Arc::clone(cluster), config.clone(), leases, identity, Arc::clone(counts));
        counts.leading.store(true, Ordering::Relaxed);
        let lost = tokio::select! {
            lost = candidate.keep() => Some(lost),
            () = leader.lead() => None,
            () = end.cancelled() => None,
        };
        // Whatever the leader was writing has been dropped with it.
        match lost {
            Some(lost) => Err(lost.into()),
            None => {
                candidate.release().await;
                Ok(())
            }
        }
    }
}

/// The first signal ends the program in order; the kernel's is there for whoever cannot wait.
fn listen_to_signals(end: &CancellationToken) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("listen to signals")?;
        let end = end.clone();
        tokio::spawn(async move {
            signals.recv().await;
            end.cancel();
        });
    }
    Ok(())
}

/// A client of the API server that a kubeconfig file names; none: of the cluster that this runs in.
pub(crate) async fn connect(kubeconfig: Option<&Path>) -> Result<Client> {
    let mut config = read_access(kubeconfig.unwrap_or(Path::new(IN_CLUSTER))).await?;
    config.connect_timeout = Some(CONNECT_WITHIN);
    // Whoever asks has a bound, and asks again by itself: an eviction that a budget refuses (429) would be waited for, and others behind it.
    config.default_retry = false;
    Client::try_from(config).context("make a client")
}
