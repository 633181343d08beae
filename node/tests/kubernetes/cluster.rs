//! A real API server with several nodes, and the test in the place of the controller.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lockstep_api::{
    Access, Ack, Arbiter, Definition, FirstMember, Member, MirrorPool, MirrorReplica, MirrorReplicaSpec,
    MirrorReplicaStatus, MirrorVolume, OnQuorumLoss, Phase, Placement, ReplicaRole, condition, is_true, names,
};
use lockstep_apiserver::ApiServer;
use lockstep_processes::cleanup::Cleanup;
use lockstep_processes::wait;
use lockstep_proto::csi::v1 as csi;
use lockstep_proto::node::v1 as proto;
use lockstep_proto::node::v1::engine_client::EngineClient;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::node::{BOUND, TestNode};

pub const NAMESPACE: &str = "lockstep-system";
const NODE_NAMESPACE: &str = "lockstep-system-nodes";

/// For one call of CSI.
const CALL_BOUND: Duration = Duration::from_secs(90);

/// The cluster. Nodes are dropped before what they speak with.
pub struct TestCluster {
    pub nodes: Vec<TestNode>,
    pub server: ApiServer,
    runtime: Runtime,
    client: Client,
    network: String,
    cleanup: Cleanup,
    home: tempfile::TempDir,
}

impl TestCluster {
    /// Starts the API server and nodes with these names, and waits until they are ready.
    pub fn start(names: &[&str]) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("lockstep-k8s-").tempdir()?;
        let cleanup = Cleanup::new();
        let server = ApiServer::start(&home.path().join("server"), &cleanup)?;
        server.make_namespace(NAMESPACE)?;
        server.make_namespace(NODE_NAMESPACE)?;
        server.define(&lockstep_api::definitions())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = runtime.block_on(server.client())?;
        let bytes: [u8; 2] = lockstep_node::agent::random_bytes()?;
        // Of the loopback network: nobody else's as long as few tests run.
        let network = format!("127.{}.{}", 100 + bytes[0] % 100, bytes[1]);
        let mut cluster = Self { nodes: Vec::new(), server, runtime, client, network, cleanup, home };
        for name in names {
            cluster.add_node(name)?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Starts one more node, with a pool.
    pub fn add_node(&mut self, name: &str) -> Result<()> {
        let address = format!("{}.{}", self.network, self.nodes.len() + 1);
        let node = TestNode::new(self.home.path(), name, address, self.server.kubeconfig(), &self.cleanup)?;
        node.start()?;
        self.nodes.push(node);
        let pool: MirrorPool = serde_json::from_value(json!({
            "apiVersion": "lockstep.storage/v1alpha1",
            "kind": "MirrorPool",
            "metadata": { "name": name },
            "spec": { "nodeName": name, "storage": { "directory": self.node(name)?.pool() } },
        }))?;
        let pools: Api<MirrorPool> = Api::all(self.client.clone());
        self.runtime.block_on(pools.create(&PostParams::default(), &pool)).context("make a MirrorPool")?;
        Ok(())
    }

    /// Every node says that its pool is open and that its engine answers.
    pub fn wait_ready(&self) -> Result<()> {
        for node in &self.nodes {
            wait::until_true(&format!("node {} is ready", node.name), BOUND, || {
                let status = self.pool(&node.name)?.status.unwrap_or_default();
                Ok(is_true(&status.conditions, "Ready") && is_true(&status.conditions, "EngineReady"))
            })
            .with_context(|| node.said())?;
        }
        Ok(())
    }

    pub fn node(&self, name: &str) -> Result<&TestNode> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node {name}"))
    }

    pub fn pool(&self, name: &str) -> Result<MirrorPool> {
        let api: Api<MirrorPool> = Api::all(self.client.clone());
        self.runtime.block_on(api.get(name)).context("get a MirrorPool")
    }

    pub fn lease(&self, node: &str) -> Result<Option<Lease>> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NODE_NAMESPACE);
        self.runtime.block_on(api.get_opt(node)).context("get a Lease")
    }

    pub fn parts(&self) -> Api<MirrorReplica> {
        Api::all(self.client.clone())
    }

    pub fn part(&self, volume: &str, node: &str) -> Result<Option<MirrorReplica>> {
        let name = names::replica_name(volume, node);
        self.runtime.block_on(self.parts().get_opt(&name)).context("get a MirrorReplica")
    }

    pub fn status(&self, volume: &str, node: &str) -> Result<MirrorReplicaStatus> {
        Ok(self.part(volume, node)?.and_then(|part| part.status).unwrap_or_default())
    }

    /// Waits for what a node says of its part.
    pub fn wait_status(
        &self,
        (volume, node): (&str, &str),
        what: &str,
        reached: impl Fn(&MirrorReplicaStatus) -> bool,
    ) -> Result<MirrorReplicaStatus> {
        let mut last = MirrorReplicaStatus::default();
        wait::until(&format!("{volume} at {node}: {what}"), BOUND, || {
            last = self.status(volume, node)?;
            Ok(reached(&last).then(|| last.clone()))
        })
        .with_context(|| format!("last seen: {:?}\n{}", self.status(volume, node), self.all_said()))
    }

    fn all_said(&self) -> String {
        self.nodes.iter().map(TestNode::said).collect::<Vec<_>>().join("\n")
    }

    /// What the controller does for a new volume: the first two nodes hold replicas, the third breaks the tie.
    pub fn create(&self, volume: &str, size_bytes: i64, on: &[&str]) -> Result<()> {
        let api: Api<MirrorVolume> = Api::all(self.client.clone());
        let object: MirrorVolume = serde_json::from_value(json!({
            "apiVersion": "lockstep.storage/v1alpha1",
            "kind": "MirrorVolume",
            "metadata": { "name": volume },
            "spec": { "sizeBytes": size_bytes, "replicas": 2 },
        }))?;
        self.runtime.block_on(api.create(&PostParams::default(), &object)).context("make a MirrorVolume")?;
        let mut placement = Vec::new();
        for (index, node) in on.iter().enumerate() {
            let status = self.pool(node)?.status.context("the node has said nothing")?;
            let role = if index < 2 { ReplicaRole::Replica } else { ReplicaRole::TieBreaker };
            let (node_id, incarnation) = (status.node_id, status.incarnation);
            placement.push(Placement { node: (*node).to_owned(), node_id, incarnation, role });
        }
        let id: [u8; 16] = lockstep_node::agent::random_bytes()?;
        let id = lockstep_node::input::to_hex(&id);
        let status = json!({ "status": { "id": id, "placement": placement } });
        self.runtime.block_on(api.patch_status(volume, &PatchParams::default(), &Patch::Merge(status)))?;
        let first = |role| placement.iter().filter(move |it: &&Placement| it.role == role);
        let definition = Definition {
            id,
            generation: "00000000000000a1".to_owned(),
            size_bytes,
            access: Access::SingleWriter,
            arbiter: Arbiter::Peers,
            policing_shards: 0,
            ack: Ack::Disk,
            on_quorum_loss: OnQuorumLoss::Suspend,
            replicas: first(ReplicaRole::Replica)
                .map(|it| FirstMember { node_id: it.node_id, incarnation: it.incarnation })
                .collect(),
            tie_breaker: first(ReplicaRole::TieBreaker).next().map(|it| it.node_id),
        };
        for it in &placement {
            self.make_part(volume, it, (&definition, false), &members(&placement))?;
        }
        Ok(())
    }

    fn make_part(
        &self,
        volume: &str,
        placed: &Placement,
        (definition, joins): (&Definition, bool),
        members: &[Member],
    ) -> Result<()> {
        let spec = MirrorReplicaSpec {
            volume: volume.to_owned(),
            node_name: placed.node.clone(),
            role: placed.role,
            definition: definition.clone(),
            joins,
            size_bytes: None,
            resync_rate: 0,
            ack: None,
            write_priority: None,
            members: members.to_vec(),
        };
        let mut part = MirrorReplica::new(&names::replica_name(volume, &placed.node), spec);
        part.metadata.labels = Some([(names::LABEL_VOLUME.to_owned(), volume.to_owned())].into());
        part.metadata.finalizers = Some(vec![names::FINALIZER_REPLICA.to_owned()]);
        self.runtime.block_on(self.parts().create(&PostParams::default(), &part)).context("make a part")?;
        Ok(())
    }

    /// What the controller does when the members of a volume that is created change: the placement is written first, then parts are made,
    /// told what they are now, or marked as to be deleted.
    pub fn place(&self, volume: &str, on: &[(&str, ReplicaRole)]) -> Result<()> {
        let mut placement = Vec::new();
        for (node, role) in on {
            let status = self.pool(node)?.status.context("the node has said nothing")?;
            let (node_id, incarnation) = (status.node_id, status.incarnation);
            placement.push(Placement { node: (*node).to_owned(), node_id, incarnation, role: *role });
        }
        let ready = condition("Ready", true, "Created", "", None, Time(Timestamp::now()));
        let status = json!({ "status": { "placement": placement, "conditions": [ready] } });
        let api: Api<MirrorVolume> = Api::all(self.client.clone());
        self.runtime.block_on(api.patch_status(volume, &PatchParams::default(), &Patch::Merge(status)))?;
        let label = format!("{}={volume}", names::LABEL_VOLUME);
        let parts = self.runtime.block_on(self.parts().list(&ListParams::default().labels(&label)))?.items;
        let definition = parts.first().context("no parts")?.spec.definition.clone();
        let members = members(&placement);
        for placed in &placement {
            match parts.iter().find(|part| part.spec.node_name == placed.node) {
                None => self.make_part(volume, placed, (&definition, true), &members)?,
                Some(part) => {
                    let joins = part.spec.joins || part.spec.role != placed.role;
                    let spec = json!({ "role": placed.role, "joins": joins, "members": members });
                    self.patch_part(volume, &placed.node, spec)?;
                }
            }
        }
        for part in parts.iter().filter(|part| !on.iter().any(|(node, _)| *node == part.spec.node_name)) {
            self.delete_part(volume, &part.spec.node_name)?;
        }
        Ok(())
    }

    /// Marks a part as to be deleted.
    pub fn delete_part(&self, volume: &str, node: &str) -> Result<()> {
        let name = names::replica_name(volume, node);
        match self.runtime.block_on(self.parts().delete(&name, &DeleteParams::default())) {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop).context("delete a part"),
        }
    }

    /// Waits until a node's engine says that these replicas are in sync, and no others belong to the volume, and that all of them vote.
    pub fn wait_members(&self, volume: &str, at: &str, replicas: &[&str], tie_breaker: &str) -> Result<()> {
        let seen = || -> Result<proto::VolumeStatus> { self.engine_status(volume, at) };
        let is_so = |status: &proto::VolumeStatus| {
            let mut names: Vec<&str> = status.replicas.iter().map(|replica| replica.node.as_str()).collect();
            names.sort_unstable();
            let mut in_sync: Vec<&str> = status.in_sync.iter().map(String::as_str).collect();
            in_sync.sort_unstable();
            let votes = |node: &&str| status.voters.iter().any(|voter| voter == node);
            let vote = replicas.iter().all(votes) && status.voters.len() == replicas.len() + 1;
            vote && in_sync == replicas && names == replicas && status.tie_breaker == tie_breaker
        };
        wait::until_true(&format!("{volume} is made of {replicas:?} and {tie_breaker:?}"), BOUND, || {
            Ok(seen().is_ok_and(|status| is_so(&status)))
        })
        .with_context(|| format!("last seen: {:?}\n{}", seen(), self.all_said()))
    }

    /// A volume as a node's engine has it.
    pub fn engine_status(&self, volume: &str, node: &str) -> Result<proto::VolumeStatus> {
        let socket = self.node(node)?.state().join("engine.sock");
        let request = proto::GetVolumeRequest { volume: volume.to_owned() };
        self.runtime.block_on(async {
            let mut engine = EngineClient::new(lockstep_node::rpc::unix_channel(socket));
            let asked = tokio::time::timeout(CALL_BOUND, engine.get_status(request)).await?;
            Ok(asked?.into_inner())
        })
    }

    /// All parts are made, and both replicas are in sync.
    pub fn wait_created(&self, volume: &str, on: &[&str]) -> Result<()> {
        for (index, node) in on.iter().enumerate() {
            self.wait_status((volume, node), "made and in sync", |status| {
                status.phase == Phase::Ready
                    && status.seen.in_sync.len() == 2
                    && (index >= 2 || is_true(&status.conditions, "InSync"))
            })?;
        }
        Ok(())
    }

    /// Changes what is wanted of a part.
    pub fn patch_part(&self, volume: &str, node: &str, spec: serde_json::Value) -> Result<()> {
        let name = names::replica_name(volume, node);
        let change = Patch::Merge(json!({ "spec": spec }));
        self.runtime.block_on(self.parts().patch(&name, &PatchParams::default(), &change)).context("patch a part")?;
        Ok(())
    }

    /// Reasons of the events about a volume.
    pub fn events(&self, volume: &str) -> Result<Vec<String>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let events = self.runtime.block_on(api.list(&Default::default())).context("list the events")?;
        let about = |event: &Event| event.regarding.as_ref().is_some_and(|it| it.name.as_deref() == Some(volume));
        Ok(events.items.into_iter().filter(about).filter_map(|event| event.reason).collect())
    }

    /// What the controller does when a volume is deleted.
    pub fn delete(&self, volume: &str) -> Result<()> {
        let api: Api<MirrorVolume> = Api::all(self.client.clone());
        self.runtime.block_on(api.delete(volume, &DeleteParams::default())).context("delete a volume")?;
        self.nodes.iter().try_for_each(|node| self.delete_part(volume, &node.name))
    }

    pub fn wait_gone(&self, volume: &str, node: &str) -> Result<()> {
        wait::until_true(&format!("nothing of {volume} is left at {node}"), BOUND, || {
            Ok(self.part(volume, node)?.is_none())
        })
        .with_context(|| format!("{:?}\n{}", self.part(volume, node), self.all_said()))
    }

    /// Stages as a block device, as kubelet does.
    pub fn stage(&self, volume: &str, node: &str) -> Result<()> {
        let staging = self.staging(volume, node)?;
        self.call(node, async |mut client| {
            let request = csi::NodeStageVolumeRequest {
                volume_id: volume.to_owned(),
                staging_target_path: staging.clone(),
                volume_capability: Some(block()),
                ..Default::default()
            };
            client.node_stage_volume(request).await.map(drop)
        })
        .with_context(|| format!("stage {volume} at {node}: {}", self.all_said()))
    }

    pub fn unstage(&self, volume: &str, node: &str) -> Result<()> {
        let staging = self.staging(volume, node)?;
        self.call(node, async |mut client| {
            let request =
                csi::NodeUnstageVolumeRequest { volume_id: volume.to_owned(), staging_target_path: staging.clone() };
            client.node_unstage_volume(request).await.map(drop)
        })
        .with_context(|| format!("unstage {volume} at {node}: {}", self.all_said()))
    }

    /// Publishes the staged block device for a pod, as kubelet does. Gives the target.
    pub fn publish(&self, volume: &str, node: &str, pod: &Pod) -> Result<PathBuf> {
        let staging = self.staging(volume, node)?;
        let target = self.target(volume, node, pod)?;
        std::fs::create_dir_all(target.parent().context("a target has a parent")?)?;
        let context = [
            ("csi.storage.k8s.io/pod.name", pod.metadata.name.clone()),
            ("csi.storage.k8s.io/pod.namespace", pod.metadata.namespace.clone()),
            ("csi.storage.k8s.io/pod.uid", pod.metadata.uid.clone()),
        ];
        let context = context.map(|(key, value)| (key.to_owned(), value.unwrap_or_default()));
        self.call(node, async |mut client| {
            let request = csi::NodePublishVolumeRequest {
                volume_id: volume.to_owned(),
                staging_target_path: staging.clone(),
                target_path: target.display().to_string(),
                volume_capability: Some(block()),
                volume_context: context.clone().into(),
                ..Default::default()
            };
            client.node_publish_volume(request).await.map(drop)
        })
        .with_context(|| format!("publish {volume} at {node}: {}", self.all_said()))?;
        Ok(target)
    }

    pub fn unpublish(&self, volume: &str, node: &str, pod: &Pod) -> Result<()> {
        let target_path = self.target(volume, node, pod)?.display().to_string();
        self.call(node, async |mut client| {
            let request =
                csi::NodeUnpublishVolumeRequest { volume_id: volume.to_owned(), target_path: target_path.clone() };
            client.node_unpublish_volume(request).await.map(drop)
        })
        .with_context(|| format!("unpublish {volume} at {node}: {}", self.all_said()))
    }

    fn target(&self, volume: &str, node: &str, pod: &Pod) -> Result<PathBuf> {
        let uid = pod.metadata.uid.as_deref().context("a pod has a uid")?;
        Ok(self.node(node)?.dir.join("kubelet/pods").join(uid).join(volume))
    }

    /// Makes a pod on a node, that has one second to end.
    pub fn make_pod(&self, name: &str, node: &str) -> Result<Pod> {
        let pod = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": {
                "nodeName": node,
                "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": "c", "image": "none" }],
            },
        }))?;
        self.runtime.block_on(self.pods().create(&PostParams::default(), &pod)).context("make a pod")
    }

    /// Tells it to end. It stays, for nobody is there who ends it.
    pub fn delete_pod(&self, name: &str) -> Result<()> {
        self.runtime.block_on(self.pods().delete(name, &DeleteParams::default())).map(drop).context("delete a pod")
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn staging(&self, volume: &str, node: &str) -> Result<String> {
        let path = self.node(node)?.dir.join("kubelet/staging").join(volume);
        std::fs::create_dir_all(&path)?;
        Ok(path.display().to_string())
    }

    /// Calls again while nobody listens, as kubelet does.
    fn call(
        &self,
        node: &str,
        ask: impl AsyncFn(csi::node_client::NodeClient<tonic::transport::Channel>) -> Result<(), tonic::Status>,
    ) -> Result<()> {
        let socket = self.node(node)?.csi_socket();
        wait::until(&format!("the CSI services of node {node} answer"), BOUND, || {
            self.runtime.block_on(async {
                let client = csi::node_client::NodeClient::new(lockstep_node::rpc::unix_channel(socket.clone()));
                match tokio::time::timeout(CALL_BOUND, ask(client)).await {
                    Ok(Ok(())) => Ok(Some(())),
                    Ok(Err(status)) if status.code() == tonic::Code::Unavailable => Ok(None),
                    Ok(Err(status)) => bail!("{:?}: {}", status.code(), status.message()),
                    Err(_) => bail!("no answer within {CALL_BOUND:?}"),
                }
            })
        })
    }

    /// GET of a health path: the status code.
    pub fn health(&self, node: &str, path: &str) -> Result<u16> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.node(node)?.health())?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let code = answer.split(' ').nth(1).context("no answer")?;
        ensure!(answer.starts_with("HTTP/1.1 "), "{answer}");
        Ok(code.parse()?)
    }
}

fn members(placement: &[Placement]) -> Vec<Member> {
    placement.iter().map(|placed| Member { node_id: placed.node_id, role: placed.role }).collect()
}

fn block() -> csi::VolumeCapability {
    use csi::volume_capability::access_mode::Mode;
    use csi::volume_capability::{AccessMode, AccessType, BlockVolume};
    csi::VolumeCapability {
        access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        access_type: Some(AccessType::Block(BlockVolume {})),
    }
}

/// Writes a pattern of `seed` through the device and makes it durable.
pub fn write_device(device: &Path, seed: u8) -> Result<()> {
    use std::io::Write as _;
    let mut file =
        std::fs::OpenOptions::new().write(true).open(device).with_context(|| device.display().to_string())?;
    file.write_all(&pattern(seed))?;
    file.sync_all().context("flush the device")
}

/// Whether the device holds the pattern.
pub fn check_device(device: &Path, seed: u8) -> Result<()> {
    use std::io::Read as _;
    let mut read = vec![0; pattern(seed).len()];
    std::fs::File::open(device).with_context(|| device.display().to_string())?.read_exact(&mut read)?;
    ensure!(read == pattern(seed), "{} does not hold what was written", device.display());
    Ok(())
}

fn pattern(seed: u8) -> Vec<u8> {
    (0..1 << 20).map(|at: u32| (at >> 12) as u8 ^ seed).collect()
}
