//! The objects that controller and nodes meet in, as this node reads and writes them: each request with a bound.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};
use lockstep_api::{MirrorPool, MirrorReplica, MirrorVolume, names};
use serde_json::json;

use super::options::KubernetesOptions;
use super::watched::Watched;

/// For a connection to the API server.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// For one request, connecting included. What waits for an answer is tried again, with what is the newest then.
pub(super) const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// What became of a request that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// There is no such object (any more).
    #[error("there is no such object")]
    Missing,
    /// It was changed since it was read, it is another one of that name, or there is one already.
    #[error("the object was changed by somebody else")]
    Conflict,
    /// The server refuses it: asking again does not help.
    #[error("the API server refuses: {0}")]
    Refused(String),
    /// No answer, or none that says more than "later".
    #[error("the API server does not answer: {0}")]
    NotReachable(String),
}

/// Everything of the cluster that this node knows and asks for.
pub(crate) struct Objects {
    /// This node's name.
    pub(crate) me: String,
    /// All nodes' pools.
    pub(crate) pools: Arc<Watched<MirrorPool>>,
    /// This node's parts.
    pub(crate) parts: Arc<Watched<MirrorReplica>>,
    /// Volumes as they were asked for last, for when the API server is away.
    pub(crate) volumes: Watched<MirrorVolume>,
    pub(super) client: Client,
}

/// A client whose connections are made within a bound, and whose answers come within another, if there is one.
pub(super) async fn connect(options: &KubernetesOptions, read_within: Option<Duration>) -> anyhow::Result<Client> {
    let mut config = lockstep_leases::read_access(&options.access()).await?;
    config.connect_timeout = Some(CONNECT_WITHIN);
    config.read_timeout = read_within;
    config.reset_reader_on_write = read_within.is_some();
    Client::try_from(config).context("make a client of the API server")
}

impl Objects {
    pub(super) fn new(me: String, client: Client) -> Self {
        Self { me, pools: Arc::default(), parts: Arc::default(), volumes: Watched::default(), client }
    }

    pub(super) fn pools_api(&self) -> Api<MirrorPool> {
        Api::all(self.client.clone())
    }

    pub(super) fn parts_api(&self) -> Api<MirrorReplica> {
        Api::all(self.client.clone())
    }

    /// Watches until it is dropped.
    pub(super) async fn watch(&self) {
        let mine = format!("spec.nodeName={}", self.me);
        tokio::join!(self.pools.watch(self.pools_api(), None), self.parts.watch(self.parts_api(), Some(&mine)));
    }

    /// This node's part of a volume, as it was seen last.
    pub(crate) fn part(&self, volume: &str) -> Option<Arc<MirrorReplica>> {
        self.parts.get(&names::replica_name(volume, &self.me))
    }

    /// Asks for a volume. `None`: there is none.
    pub(crate) async fn volume(&self, name: &str) -> Result<Option<MirrorVolume>, RequestError> {
        let api: Api<MirrorVolume> = Api::all(self.client.clone());
        match request(api.get(name)).await {
            Ok(volume) => {
                self.volumes.put(volume.clone());
                Ok(Some(volume))
            }
            Err(RequestError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All nodes' parts of a volume.
    pub(crate) async fn parts_of(&self, volume: &str) -> Result<Vec<MirrorReplica>, RequestError> {
        let selected = ListParams::default().labels(&format!("{}={volume}", names::LABEL_VOLUME));
        let api = self.parts_api();
        Ok(request(api.list(&selected)).await?.items)
    }

    /// A part of this node as it is now, if it is the same one.
    pub(crate) async fn fresh_part(&self, part: &MirrorReplica) -> Result<Option<MirrorReplica>, RequestError> {
        let name = part.metadata.name.clone().unwrap_or_default();
        let api = self.parts_api();
        match request(api.get(&name)).await {
            Ok(found) => Ok(Some(found).filter(|found| found.metadata.uid == part.metadata.uid)),
            Err(RequestError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a part of this node.
    pub(crate) async fn create_part(&self, part: &MirrorReplica) -> Result<(), RequestError> {
        let api = self.parts_api();
        self.parts.put(request(api.create(&PostParams::default(), part)).await?);
        Ok(())
    }

    /// Marks a part as to be deleted. One that is gone was.
    pub(crate) async fn delete_part(&self, part: &MirrorReplica) -> Result<(), RequestError> {
        let name = part.metadata.name.clone().unwrap_or_default();
        let preconditions = Some(Preconditions { uid: part.metadata.uid.clone(), resource_version: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
        let api = self.parts_api();
        match request(api.delete(&name, &parameters)).await {
            // Gone, or another one of that name. That it is marked is seen by the watch.
            Ok(_) | Err(RequestError::Missing | RequestError::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Nothing of a part is left here: the object may go.
    pub(crate) async fn release_part(&self, part: &MirrorReplica) -> Result<(), RequestError> {
        let kept: Vec<&String> =
            part.metadata.finalizers.iter().flatten().filter(|it| *it != names::FINALIZER_REPLICA).collect();
        let change = json!({ "metadata": {
            "uid": part.metadata.uid,
            "resourceVersion": part.metadata.resource_version,
            "finalizers": kept,
        }});
        let name = part.metadata.name.clone().unwrap_or_default();
        let api = self.parts_api();
        match request(api.patch(&name, &PatchParams::default(), &Patch::Merge(change))).await {
            Ok(changed) => self.parts.put(changed),
            Err(RequestError::Missing) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Applies the status of an object that this node alone reports.
pub(super) async fn apply_status<K>(
    api: &Api<K>,
    (name, uid): (&str, &str),
    status: &serde_json::Value,
) -> Result<K, RequestError>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let change = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        // One of the same name that was made meanwhile is not meant.
        "metadata": { "name": name, "uid": uid },
        "status": status,
    });
    let parameters = PatchParams::apply(names::MANAGER_NODE).force();
    request(api.patch_status(name, &parameters, &Patch::Apply(change))).await
}

/// Waits for an answer, within the bound.
pub(super) async fn request<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
    match tokio::time::timeout(REQUEST_WITHIN, asked).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 => RequestError::Missing,
            409 => RequestError::Conflict,
            400 | 403 | 405 | 413 | 415 | 422 => RequestError::Refused(status.message.clone()),
            code => RequestError::NotReachable(format!("it answers {code}: {}", status.message)),
        }),
        Ok(Err(error)) => Err(RequestError::NotReachable(crate::failure::chain(&error))),
        Err(_) => Err(RequestError::NotReachable(format!("no answer within {} s", REQUEST_WITHIN.as_secs()))),
    }
}
