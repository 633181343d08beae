//! Results, as they are printed as JSON and put into tables.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use kube::ResourceExt as _;
use lockstep_api::{DiskState, MirrorPool, MirrorReplica, MirrorVolume, ReplicaRole, VolumeState, is_true};
use serde::Serialize;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::live;

/// The cluster at a glance.
#[derive(Debug, Serialize)]
pub(crate) struct Overview {
    pub nodes: Vec<Node>,
    pub volumes_by_state: BTreeMap<String, usize>,
    /// Those that are not as they should be.
    pub troubled: Vec<Volume>,
}

/// A node, as its pool and its Lease show it.
#[derive(Debug, Serialize)]
pub(crate) struct Node {
    pub node: String,
    pub ready: bool,
    pub engine_ready: bool,
    pub cordoned: bool,
    pub evicting: bool,
    pub capacity_bytes: i64,
    pub free_bytes: i64,
    pub address: String,
    pub dedicated_address: Option<String>,
    pub replicas: usize,
    pub attached: usize,
    /// When its agent was heard last, as the API server has it.
    pub heard: Option<String>,
    /// What is wrong, in words.
    pub trouble: Vec<String>,
}

/// A volume in a list.
#[derive(Debug, Serialize)]
pub(crate) struct Volume {
    pub volume: String,
    pub claim: Option<String>,
    pub state: String,
    pub in_sync: String,
    pub size_bytes: i64,
    pub writers: Vec<String>,
    pub resync: Option<String>,
    pub trouble: Vec<String>,
}

/// Everything about a volume.
#[derive(Debug, Serialize)]
pub(crate) struct VolumeDetails {
    #[serde(flatten)]
    pub volume: Volume,
    pub id: Option<String>,
    pub arbiter: Option<String>,
    pub policing: String,
    pub epoch: u64,
    pub parts: Vec<Part>,
    pub last_fail_over: Option<Value>,
    /// What a node that has it attached, or else holds it, says now.
    pub live: Option<Value>,
    /// Why there are no live figures.
    pub live_trouble: Option<String>,
}

/// One node's part of a volume.
#[derive(Debug, Serialize)]
pub(crate) struct Part {
    pub volume: String,
    pub node: String,
    pub role: String,
    pub phase: String,
    pub disk: Option<String>,
    pub in_sync: bool,
    pub attached: Option<String>,
    pub message: String,
}

/// Everything about a node.
#[derive(Debug, Serialize)]
pub(crate) struct NodeDetails {
    #[serde(flatten)]
    pub node: Node,
    pub parts: Vec<Part>,
    pub live: Option<Value>,
    pub live_trouble: Option<String>,
}

/// Conditions that say, when they do not hold, that something is wrong; and those that say it when they hold.
const GOOD: [&str; 5] = ["Ready", "EngineReady", "Redundant", "Serving", "RestartInvisible"];
const BAD: [&str; 3] = ["RegisterLost", "Diverged", "DeletionBlocked"];

fn trouble(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> Vec<String> {
    let is_bad = |kind: &str, status: &str| match status {
        "False" => GOOD.contains(&kind),
        "True" => BAD.contains(&kind),
        _ => false,
    };
    let wrong = conditions.iter().filter(|condition| is_bad(&condition.type_, &condition.status));
    wrong.map(|condition| format!("{}: {}", condition.reason, condition.message)).collect()
}

fn shown<T: Serialize>(value: T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

fn part(replica: &MirrorReplica) -> Part {
    let status = replica.status.clone().unwrap_or_default();
    Part {
        volume: replica.spec.volume.clone(),
        node: replica.spec.node_name.clone(),
        role: shown(replica.spec.role),
        phase: shown(status.phase),
        disk: status.disk.map(shown),
        in_sync: status.seen.in_sync.contains(&replica.spec.node_name) && status.disk == Some(DiskState::UpToDate),
        attached: status.attached.map(shown),
        message: status.message,
    }
}

fn volume(object: &MirrorVolume) -> Volume {
    let status = object.status.clone().unwrap_or_default();
    let claim = object.spec.claim.as_ref();
    Volume {
        volume: object.name_any(),
        claim: claim.map(|claim| format!("{}/{}", claim.namespace, claim.name)),
        state: shown(status.state),
        in_sync: status.ready.unwrap_or_else(|| format!("0/{}", object.spec.replicas)),
        size_bytes: object.spec.size_bytes,
        writers: status.writers,
        resync: status.resync,
        trouble: trouble(&status.conditions),
    }
}

/// All volumes, by name.
pub(crate) async fn volumes(cluster: &Cluster) -> Result<Vec<Volume>> {
    let mut all: Vec<Volume> = cluster.all_volumes().await?.iter().map(volume).collect();
    all.sort_by(|a, b| a.volume.cmp(&b.volume));
    Ok(all)
}

fn node(pool: &MirrorPool, replicas: &[MirrorReplica], heard: Option<String>) -> Node {
    let status = pool.status.clone().unwrap_or_default();
    let name = pool.spec.node_name.clone();
    let here = || replicas.iter().filter(|replica| replica.spec.node_name == name);
    Node {
        ready: is_true(&status.conditions, "Ready"),
        engine_ready: is_true(&status.conditions, "EngineReady"),
        cordoned: pool.spec.cordoned || pool.spec.evict,
        evicting: pool.spec.evict,
        capacity_bytes: status.capacity_bytes,
        free_bytes: status.free_bytes,
        address: status.address.unwrap_or_default(),
        dedicated_address: status.dedicated_address,
        replicas: here().filter(|replica| replica.spec.role == ReplicaRole::Replica).count(),
        attached: here().filter(|one| one.status.as_ref().is_some_and(|status| status.attached.is_some())).count(),
        heard,
        trouble: trouble(&status.conditions),
        node: name,
    }
}

/// All nodes, by name.
pub(crate) async fn nodes(cluster: &Cluster) -> Result<Vec<Node>> {
    nodes_with(cluster, &cluster.replicas(None).await?).await
}

async fn nodes_with(cluster: &Cluster, replicas: &[MirrorReplica]) -> Result<Vec<Node>> {
    let pools = cluster.all_pools().await?;
    let heard: BTreeMap<String, String> = cluster
        .node_leases()
        .await?
        .into_iter()
        .filter_map(|lease| {
            let renewed = lease.spec.as_ref()?.renew_time.as_ref()?;
            Some((lease.metadata.name.clone()?, shown(renewed)))
        })
        .collect();
    let mut all: Vec<Node> =
        pools.iter().map(|pool| node(pool, replicas, heard.get(&pool.spec.node_name).cloned())).collect();
    all.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(all)
}

impl Overview {
    pub(crate) async fn read(cluster: &Cluster) -> Result<Self> {
        let mut volumes_by_state = BTreeMap::new();
        let mut troubled = Vec::new();
        for volume in volumes(cluster).await? {
            *volumes_by_state.entry(volume.state.clone()).or_insert(0) += 1;
            if volume.state != shown(VolumeState::UpToDate) || !volume.trouble.is_empty() {
                troubled.push(volume);
            }
        }
        Ok(Self { nodes: nodes(cluster).await?, volumes_by_state, troubled })
    }
}

impl VolumeDetails {
    pub(crate) async fn read(cluster: &Cluster, name: &str) -> Result<Self> {
        let object = cluster.volume(name).await?;
        let status = object.status.clone().unwrap_or_default();
        let parts: Vec<Part> = cluster.replicas(Some(name)).await?.iter().map(part).collect();
        // Who has it attached knows most; else whoever is in sync.
        let rank = |part: &&Part| (part.attached.is_some(), part.in_sync);
        let (live, live_trouble) = match parts.iter().max_by_key(rank) {
            None => (None, Some("no node has a part of it".to_owned())),
            Some(best) => match live::lockstep(cluster, &best.node, &["volume", "status", name]).await {
                Ok(value) => (Some(value), None),
                Err(error) => (None, Some(format!("{error:#}"))),
            },
        };
        Ok(Self {
            volume: volume(&object),
            id: status.id,
            arbiter: status.arbiter.map(shown),
            policing: shown(object.spec.policing),
            epoch: status.epoch,
            parts,
            last_fail_over: status.last_fail_over.map(serde_json::to_value).transpose()?,
            live,
            live_trouble,
        })
    }
}

impl NodeDetails {
    pub(crate) async fn read(cluster: &Cluster, name: &str) -> Result<Self> {
        let replicas = cluster.replicas(None).await?;
        let node = nodes_with(cluster, &replicas).await?.into_iter().find(|node| node.node == name);
        let node = node.with_context(|| format!("there is no MirrorPool of a node {name:?}"))?;
        let here = replicas.iter().filter(|replica| replica.spec.node_name == name);
        let (live, live_trouble) = match live::lockstep(cluster, name, &["node"]).await {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        Ok(Self { node, parts: here.map(part).collect(), live, live_trouble })
    }
}

/// Volumes of which this node holds the last up-to-date copy that can be reached.
pub(crate) async fn last_copies(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let mut last = Vec::new();
    let replicas = cluster.replicas(None).await?;
    let alive: Vec<String> = nodes_with(cluster, &replicas)
        .await?
        .into_iter()
        .filter(|node| node.engine_ready)
        .map(|node| node.node)
        .collect();
    let in_sync = |volume: &str| -> Vec<&str> {
        let of_volume = replicas.iter().filter(|replica| replica.spec.volume == volume);
        let good = of_volume.filter(|replica| part(replica).in_sync && alive.contains(&replica.spec.node_name));
        good.map(|replica| replica.spec.node_name.as_str()).collect()
    };
    for replica in replicas.iter().filter(|replica| replica.spec.node_name == node) {
        if in_sync(&replica.spec.volume) == [node] {
            last.push(replica.spec.volume.clone());
        }
    }
    last.sort();
    last.dedup();
    Ok(last)
}
