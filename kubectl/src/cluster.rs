//! The cluster's objects, read with the caller's rights.

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use lockstep_api::{MirrorPool, MirrorReplica, MirrorVolume, names};

use crate::args::Arguments;

/// A connection to the API server.
pub(crate) struct Cluster {
    pub client: Client,
    /// Where Lockstep is installed.
    pub namespace: String,
    /// The context for `kubectl`, if not the current one.
    pub context: Option<String>,
}

impl Cluster {
    pub(crate) async fn connect(arguments: &Arguments) -> Result<Self> {
        let config = match &arguments.context {
            None => Config::infer().await.context("no cluster: set KUBECONFIG, or run where kubectl works")?,
            Some(context) => {
                let options = KubeConfigOptions { context: Some(context.clone()), ..Default::default() };
                let file = Kubeconfig::read().context("read the kubeconfig")?;
                Config::from_custom_kubeconfig(file, &options).await.with_context(|| format!("context {context:?}"))?
            }
        };
        let client = Client::try_from(config).context("connect to the cluster")?;
        Ok(Self { client, namespace: arguments.namespace.clone(), context: arguments.context.clone() })
    }

    pub(crate) fn pools(&self) -> Api<MirrorPool> {
        Api::all(self.client.clone())
    }

    pub(crate) async fn pool(&self, node: &str) -> Result<MirrorPool> {
        self.pools().get_opt(node).await?.with_context(|| format!("there is no MirrorPool of a node {node:?}"))
    }

    pub(crate) async fn all_pools(&self) -> Result<Vec<MirrorPool>> {
        Ok(self.pools().list(&ListParams::default()).await.context("list MirrorPools: is Lockstep installed?")?.items)
    }

    pub(crate) async fn all_volumes(&self) -> Result<Vec<MirrorVolume>> {
        let volumes: Api<MirrorVolume> = Api::all(self.client.clone());
        Ok(volumes.list(&ListParams::default()).await.context("list MirrorVolumes: is Lockstep installed?")?.items)
    }

    pub(crate) async fn volume(&self, name: &str) -> Result<MirrorVolume> {
        let volumes: Api<MirrorVolume> = Api::all(self.client.clone());
        volumes.get_opt(name).await?.with_context(|| format!("there is no volume {name:?}"))
    }

    /// All replicas, or those of one volume.
    pub(crate) async fn replicas(&self, volume: Option<&str>) -> Result<Vec<MirrorReplica>> {
        let replicas: Api<MirrorReplica> = Api::all(self.client.clone());
        let list = match volume {
            None => ListParams::default(),
            Some(volume) => ListParams::default().labels(&format!("{}={volume}", names::LABEL_VOLUME)),
        };
        Ok(replicas.list(&list).await.context("list MirrorReplicas")?.items)
    }

    /// Leases by which nodes say that they live, wherever they are.
    pub(crate) async fn node_leases(&self) -> Result<Vec<Lease>> {
        let leases: Api<Lease> = Api::all(self.client.clone());
        let all = leases.list(&ListParams::default()).await.context("list Leases")?.items;
        let is_ours = |lease: &Lease| {
            lease.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(names::ANNOTATION_ENGINE))
        };
        Ok(all.into_iter().filter(is_ours).collect())
    }

    /// The volume of this name, or that of a claim.
    pub(crate) async fn find_volume(&self, name: &str, claim_namespace: Option<&str>) -> Result<String> {
        let Some(namespace) = claim_namespace else { return Ok(name.to_owned()) };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let claim = claims.get_opt(name).await?.with_context(|| format!("there is no claim {namespace}/{name}"))?;
        let Some(volume) = claim.spec.and_then(|spec| spec.volume_name) else {
            bail!("claim {namespace}/{name} is not bound to a volume yet");
        };
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let csi = volumes.get(&volume).await?.spec.and_then(|spec| spec.csi);
        match csi.filter(|csi| csi.driver == names::DRIVER) {
            Some(csi) => Ok(csi.volume_handle),
            None => bail!("claim {namespace}/{name} has a volume of another kind"),
        }
    }

    /// The pod of a node's agent.
    pub(crate) async fn agent_pod(&self, node: &str) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params =
            ListParams::default().labels("app.kubernetes.io/component=node").fields(&format!("spec.nodeName={node}"));
        let mut found = pods.list(&params).await.context("list the agents' pods")?.items;
        found.retain(|pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running")));
        let first = found.into_iter().next().and_then(|pod| pod.metadata.name);
        first.with_context(|| format!("no agent runs on node {node:?} (namespace {})", self.namespace))
    }
}
