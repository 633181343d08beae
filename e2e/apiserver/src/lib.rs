//! A Kubernetes API server of one's own, real but small: etcd and kube-apiserver on loopback ports, nothing else. No
//! controller runs and no node exists; objects are stored, checked for conflicts and watched, which is all that a
//! Lease needs.
//!
//! `scripts/kube-programs` builds the two programs.

mod credentials;
mod definitions;
mod port;
mod rights;

use anyhow::{Context, Result, bail};
use credentials::Credentials;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use lockstep_processes::cleanup::Cleanup;
use lockstep_processes::command::{program, run_ok};
use lockstep_processes::process::Process;
use lockstep_processes::wait;
use nix::sys::signal::Signal;
use port::Port;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// For etcd and kube-apiserver to serve: seconds, but on a busy machine many.
const READY_BOUND: Duration = Duration::from_secs(120);
/// For one look at whether the server is ready.
const LOOK_BOUND: Duration = Duration::from_secs(2);
/// Where the programs are, if not in the cache of `scripts/kube-programs`.
const PROGRAMS_VARIABLE: &str = "LOCKSTEP_KUBE_PROGRAMS";
/// kube-apiserver wants an address to tell others. Nobody asks for it here: one reserved for documentation.
const ADVERTISED_ADDRESS: &str = "192.0.2.1";
/// What is served: what Lockstep uses, and what kube-apiserver itself does not get ready without.
const APIS: &str = "api/all=false,api/v1=true,coordination.k8s.io/v1=true,rbac.authorization.k8s.io/v1=true,\
    apiregistration.k8s.io/v1=true,apiextensions.k8s.io/v1=true,networking.k8s.io/v1=true,discovery.k8s.io/v1=true,\
    events.k8s.io/v1=true,policy/v1=true,apps/v1=true";
/// What looks at objects before they are stored, and has nothing to do with Leases; most wait for what is not served.
const ADMISSION_PLUGINS_OFF: &str = "CertificateApproval,CertificateSigning,CertificateSubjectRestriction,\
    ClusterTrustBundleAttest,DefaultIngressClass,DefaultStorageClass,DefaultTolerationSeconds,LimitRanger,\
    MutatingAdmissionPolicy,MutatingAdmissionWebhook,PersistentVolumeClaimResize,PodSecurity,Priority,ResourceQuota,\
    RuntimeClass,ServiceAccount,StorageObjectInUseProtection,TaintNodesByCondition,ValidatingAdmissionPolicy,\
    ValidatingAdmissionWebhook";

/// What a server is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serves {
    /// Leases, custom resources and what belongs to them: quickly ready.
    Leases,
    /// All that Kubernetes serves in version 1 and later, and its admission, as a cluster has it. Only what would wait for controllers
    /// that do not run here is left out.
    Everything,
}

/// A server and its store. Both are killed when it is dropped.
pub struct ApiServer {
    serves: Serves,
    programs: PathBuf,
    credentials: Credentials,
    server_port: Port,
    client_port: Port,
    peer_port: Port,
    dir: PathBuf,
    // Dropped in order: the server before its store.
    server: Process,
    store: Process,
}

impl ApiServer {
    /// Starts both, with all their files in `dir`, and waits until the server is ready.
    ///
    /// Blocks, with a runtime of its own: not to be called by asynchronous code.
    pub fn start(dir: &Path, cleanup: &Cleanup) -> Result<Self> {
        Self::start_serving(Serves::Leases, dir, cleanup)
    }

    /// The same, with another choice of what is served.
    pub fn start_serving(serves: Serves, dir: &Path, cleanup: &Cleanup) -> Result<Self> {
        let programs = find_programs()?;
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("resolve {}", dir.display()))?;
        let server_port = Port::reserve()?;
        let server = ApiServer {
            serves,
            programs,
            credentials: Credentials::make(&dir, server_port.number())?,
            server_port,
            client_port: Port::reserve()?,
            peer_port: Port::reserve()?,
            server: Process::new("kube-apiserver", dir.join("kube-apiserver.log"), cleanup),
            store: Process::new("etcd", dir.join("etcd.log"), cleanup),
            dir,
        };
        server.store.start(&mut server.etcd())?;
        // kube-apiserver itself waits for etcd.
        server.restart_server()?;
        Ok(server)
    }

    /// Where the kubeconfig file of an administrator is.
    pub fn kubeconfig(&self) -> &Path {
        &self.credentials.kubeconfig
    }

    /// Where the kubeconfig file of a user is who may do only what [`allow`](Self::allow) allows.
    pub fn user_kubeconfig(&self) -> &Path {
        &self.credentials.user_kubeconfig
    }

    /// A client of an administrator. Its requests have no bound of their own beyond that of connecting.
    pub async fn client(&self) -> Result<Client> {
        Client::try_from(self.config().await?).context("make a client")
    }

    /// A client of an administrator who acts as `user`, about whom the server is told these facts besides the name.
    pub async fn client_as(&self, user: &str, facts: &[(&str, &str)]) -> Result<Client> {
        let mut config = self.config().await?;
        let fact = |(name, value): &(&str, &str)| ((*name).to_owned(), vec![(*value).to_owned()]);
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_user_extra = Some(facts.iter().map(fact).collect());
        Client::try_from(config).context("make a client")
    }

    /// A client of whoever has this token.
    pub async fn client_of(&self, token: String) -> Result<Client> {
        let mut config = self.config().await?;
        config.auth_info = AuthInfo { token: Some(token.into()), ..AuthInfo::default() };
        Client::try_from(config).context("make a client")
    }

    async fn config(&self) -> Result<Config> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).context("read the kubeconfig file")?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .context("understand the kubeconfig file")?;
        config.connect_timeout = Some(LOOK_BOUND);
        // Loopback, whatever the environment says of proxies.
        config.proxy_url = None;
        Ok(config)
    }

    /// Kills the server: nothing listens at its port any more. What it stored stays.
    pub fn stop_server(&self) -> Result<()> {
        self.server.kill()
    }

    /// Starts the server again, at the same port, and waits until it is ready. It must have been stopped.
    ///
    /// Blocks, like [`start`](Self::start).
    pub fn restart_server(&self) -> Result<()> {
        self.server.start(&mut self.kube_apiserver())?;
        self.wait_ready()
    }

    /// Freezes the server: connections are accepted, and nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.server.freeze()
    }

    /// Lets it run on.
    pub fn resume(&self) -> Result<()> {
        self.server.signal(Signal::SIGCONT)
    }

    /// The process ids of kube-apiserver and etcd.
    pub fn pids(&self) -> Result<[i32; 2]> {
        Ok([self.server.pid()?, self.store.pid()?])
    }

    fn wait_ready(&self) -> Result<()> {
        let runtime = new_runtime()?;
        let client = runtime.block_on(self.client())?;
        wait::until("kube-apiserver is ready", READY_BOUND, || {
            self.store.ensure_running()?;
            self.server.ensure_running()?;
            Ok(runtime.block_on(is_ready(&client))?.then_some(()))
        })
        .with_context(|| format!("kube-apiserver said: {}", self.server.log_end()))
    }

    fn etcd(&self) -> Command {
        let url = |port: &Port| format!("http://127.0.0.1:{}", port.number());
        let (clients, peers) = (url(&self.client_port), url(&self.peer_port));
        let mut command = Command::new(self.programs.join("etcd"));
        command
            .arg("--name=test")
            .arg(format!("--data-dir={}", self.dir.join("etcd").display()))
            .arg(format!("--listen-client-urls={clients}"))
            .arg(format!("--advertise-client-urls={clients}"))
            .arg(format!("--listen-peer-urls={peers}"))
            .arg(format!("--initial-advertise-peer-urls={peers}"))
            .arg(format!("--initial-cluster=test={peers}"))
            .arg("--socket-reuse-port")
            // No test cuts the power of this machine.
            .arg("--unsafe-no-fsync")
            .arg("--log-level=warn");
        command
    }

    fn kube_apiserver(&self) -> Command {
        let files = &self.credentials;
        let mut command = Command::new(self.programs.join("kube-apiserver"));
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.client_port.number()))
            .arg("--bind-address=127.0.0.1")
            .arg(format!("--secure-port={}", self.server_port.number()))
            .arg("--permit-port-sharing")
            .arg(format!("--advertise-address={ADVERTISED_ADDRESS}"))
            .arg("--endpoint-reconciler-type=none")
            .arg("--service-cluster-ip-range=198.51.100.0/24")
            .arg("--authorization-mode=RBAC")
            .arg("--anonymous-auth=false")
            .arg("--service-account-issuer=https://lockstep.test")
            .arg("--profiling=false");
        match self.serves {
            Serves::Leases => command
                .arg(format!("--runtime-config={APIS}"))
                .arg(format!("--disable-admission-plugins={ADMISSION_PLUGINS_OFF}"))
                .arg("--enable-priority-and-fairness=false"),
            // The plugin would wait for accounts that a controller makes.
            Serves::Everything => {
                command.arg("--disable-admission-plugins=ServiceAccount").arg("--allow-privileged=true")
            }
        };
        for (flag, path) in [
            ("--client-ca-file", &files.authority),
            ("--tls-cert-file", &files.server_certificate),
            ("--tls-private-key-file", &files.server_key),
            ("--service-account-key-file", &files.account_public_key),
            ("--service-account-signing-key-file", &files.account_key),
        ] {
            command.arg(format!("{flag}={}", path.display()));
        }
        command
    }
}

fn new_runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("make a runtime to wait in")
}

/// Not yet where the server does not answer in time, or answers that it is not.
async fn is_ready(client: &Client) -> Result<bool> {
    let request = http::Request::get("/readyz").body(Vec::new()).context("make a request")?;
    let answer = tokio::time::timeout(LOOK_BOUND, client.request_text(request)).await;
    Ok(matches!(answer, Ok(Ok(_))))
}

/// The directory of both programs.
fn find_programs() -> Result<PathBuf> {
    let dir = match std::env::var_os(PROGRAMS_VARIABLE) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/kube-programs");
            PathBuf::from(run_ok(&mut program(script, ["where"]))?.trim_end())
        }
    };
    for name in ["etcd", "kube-apiserver"] {
        if !dir.join(name).is_file() {
            bail!("no {name} in {}: run scripts/kube-programs, or set {PROGRAMS_VARIABLE}", dir.display());
        }
    }
    Ok(dir)
}
