//! The way to the API server: one request at a time, each with a bound, none sent twice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};
use tokio::sync::Mutex;

use crate::names;
use crate::requests::{Kind, Requests, Verb};

/// For one request, connecting included. As long as the core waits for a register before it asks again.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// For a connection that nobody waits for any more.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// In the place of a kubeconfig file: the account of the pod that the program runs in.
pub const IN_CLUSTER: &str = "in-cluster";

/// Where the Leases are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file that names the API server and who this program is there, or [`IN_CLUSTER`].
    pub kubeconfig: PathBuf,
    /// The namespace of all Leases.
    pub namespace: String,
}

/// What became of a request that did not succeed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no such object.
    #[error("there is no Lease {0}")]
    Missing(String),
    /// The object was changed since it was read, or is another one; or there is one of that name already.
    #[error("Lease {0} was changed by somebody else")]
    Conflict(String),
    /// It was refused, or had no answer. What was asked may have happened, or may still happen.
    #[error("{0}")]
    Failed(String),
}

/// One program's access to the Leases of a cluster.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) place: Place,
    pub(crate) requests: Requests,
    /// Made by the first request, and anew when the server did not accept who it said it is.
    client: Mutex<Option<Connected>>,
}

struct Connected(Client);

impl std::fmt::Debug for Connected {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Connected")
    }
}

impl Access {
    pub(crate) fn new(place: Place) -> Access {
        Access { place, requests: Requests::default(), client: Mutex::new(None) }
    }

    /// A Lease's full name, for messages.
    pub(crate) fn full_name(&self, name: &str) -> String {
        format!("{}/{name}", self.place.namespace)
    }

    pub(crate) async fn get(&self, kind: Kind, name: &str) -> Result<Lease, RequestError> {
        self.request(Verb::Get, kind, name, async |leases| leases.get(name).await).await
    }

    pub(crate) async fn create(&self, kind: Kind, name: &str, lease: &Lease) -> Result<Lease, RequestError> {
        let create = async |leases: Api<Lease>| leases.create(&PostParams::default(), lease).await;
        self.request(Verb::Create, kind, name, create).await
    }

    /// Replaces the very object that was read: its uid and version are in `lease`.
    pub(crate) async fn update(&self, kind: Kind, name: &str, lease: &Lease) -> Result<Lease, RequestError> {
        let replace = async |leases: Api<Lease>| leases.replace(name, &PostParams::default(), lease).await;
        self.request(Verb::Update, kind, name, replace).await
    }

    /// Deletes the very object that was read. What is not there is deleted.
    pub(crate) async fn delete(&self, kind: Kind, lease: &Lease) -> Result<(), RequestError> {
        let name = lease.metadata.name.clone().unwrap_or_default();
        let uid = lease.metadata.uid.clone();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        let delete = async |leases: Api<Lease>| leases.delete(&name, &parameters).await.map(drop);
        match self.request(Verb::Delete, kind, &name, delete).await {
            Err(RequestError::Missing(_)) => Ok(()),
            result => result,
        }
    }

    /// All Leases of a volume.
    pub(crate) async fn list(&self, kind: Kind, selector: &str) -> Result<Vec<Lease>, RequestError> {
        let parameters = ListParams::default().labels(selector);
        let list = async |leases: Api<Lease>| leases.list(&parameters).await;
        Ok(self.request(Verb::List, kind, "list", list).await?.items)
    }

    async fn request<T>(
        &self,
        verb: Verb,
        kind: Kind,
        name: &str,
        ask: impl AsyncFnOnce(Api<Lease>) -> kube::Result<T>,
    ) -> Result<T, RequestError> {
        self.requests.count_sent(verb, kind);
        let answered = tokio::time::timeout(REQUEST_LIMIT, async {
            let leases = self.leases().await?;
            Ok(ask(leases).await)
        });
        let what = format!("{} {}", verb.name(), self.full_name(name));
        let error = match answered.await {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(kube::Error::Api(status)))) => self.classify(name, &what, &status).await,
            Ok(Ok(Err(error))) => RequestError::Failed(format!("{what}: {}", chain(&error))),
            Ok(Err(reason)) => RequestError::Failed(reason),
            Err(_) => RequestError::Failed(format!("{what}: the API server did not answer within {REQUEST_LIMIT:?}")),
        };
        if matches!(error, RequestError::Failed(_)) {
            self.requests.count_failed(verb, kind);
        }
        Err(error)
    }

    async fn classify(&self, name: &str, what: &str, status: &Status) -> RequestError {
        match status.code {
            404 => RequestError::Missing(self.full_name(name)),
            409 => RequestError::Conflict(self.full_name(name)),
            code => {
                if code == 401 {
                    // The kubeconfig file may have been renewed since it was read.
                    *self.client.lock().await = None;
                }
                RequestError::Failed(format!("{what}: the API server answers {code}: {}", status.message))
            }
        }
    }

    pub(crate) async fn leases(&self) -> Result<Api<Lease>, String> {
        let mut client = self.client.lock().await;
        if client.is_none() {
            let made = connect(&self.place).await.map_err(|error| chain(&error))?;
            *client = Some(Connected(made));
        }
        let Some(Connected(client)) = &*client else { return Err("no client".to_owned()) };
        Ok(Api::namespaced(client.clone(), &self.place.namespace))
    }
}

/// Why a program does not know how to reach the API server.
#[derive(Debug, thiserror::Error)]
#[error("kubeconfig {}", kubeconfig.display())]
pub struct ReadAccess {
    /// The file, or [`IN_CLUSTER`].
    pub kubeconfig: PathBuf,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// How the API server is reached as `kubeconfig` says, or from within the cluster ([`IN_CLUSTER`]): without a proxy, and no request
/// is sent a second time by itself. The caller sets the bounds.
///
/// # Errors
/// The file, or what a pod is given, cannot be read.
pub async fn read_access(kubeconfig: &Path) -> Result<Config, ReadAccess> {
    let read = async || -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
        if kubeconfig == Path::new(IN_CLUSTER) {
            return Ok(Config::incluster()?);
        }
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
    };
    let mut config = read().await.map_err(|source| ReadAccess { kubeconfig: kubeconfig.to_owned(), source })?;
    // A swap is never sent twice: who asked decides, after having read again.
    config.default_retry = false;
    // Nodes reach their API server directly: what the environment says of proxies is for other programs.
    config.proxy_url = None;
    Ok(config)
}

async fn connect(place: &Place) -> Result<Client, ReadAccess> {
    let mut config = read_access(&place.kubeconfig).await?;
    // Who asks has given up long before; this ends what goes on behind its back.
    config.connect_timeout = Some(CONNECT_LIMIT);
    Client::try_from(config)
        .map_err(|source| ReadAccess { kubeconfig: place.kubeconfig.clone(), source: Box::new(source) })
}

/// An error with its causes, each said once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}

/// Selects a volume's Leases.
pub(crate) fn volume_selector(volume: lockstep_core::VolumeId) -> String {
    format!("{}={}", names::VOLUME_LABEL, names::volume_label(volume))
}
