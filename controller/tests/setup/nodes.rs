//! Nodes as the controller sees them: what an agent and its engine would write. A part is made as soon as it is seen, unless the
//! node is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use lockstep_api::{
    MirrorPool, MirrorPoolStatus, MirrorReplica, MirrorReplicaStatus, Phase, ReplicaRole, Seen, condition, names,
};
use serde_json::json;
use tokio::runtime::Runtime;

use super::NODE_NAMESPACE;

/// How often a node looks around.
const TURN: Duration = Duration::from_millis(200);
/// Bytes of each pool.
pub const POOL_BYTES: i64 = 100 << 30;

#[derive(Default)]
struct State {
    away: BTreeSet<String>,
    engine_down: BTreeSet<String>,
    /// What a node says of its part of a volume beside what follows from its spec.
    said: BTreeMap<(String, String), MirrorReplicaStatus>,
}

#[derive(Clone)]
pub struct Nodes {
    state: Arc<Mutex<State>>,
    client: Client,
}

impl Nodes {
    pub fn play(runtime: &Runtime, client: &Client, names: &[&str]) -> Self {
        let nodes = Self { state: Arc::default(), client: client.clone() };
        for (at, name) in names.iter().enumerate() {
            let (nodes, name) = (nodes.clone(), (*name).to_owned());
            let number = u32::try_from(at).unwrap_or(0) + 1;
            runtime.spawn(async move {
                let mut turns = tokio::time::interval(TURN);
                let mut turn = 0_u32;
                loop {
                    turns.tick().await;
                    turn = turn.wrapping_add(1);
                    if let Err(error) = nodes.turn(&name, number, turn.is_multiple_of(5)).await {
                        eprintln!("node {name}: {error:#}");
                    }
                }
            });
        }
        nodes
    }

    /// The node does nothing any more, or works again.
    pub fn set_away(&self, name: &str, away: bool) {
        let mut state = self.lock();
        if away {
            state.away.insert(name.to_owned())
        } else {
            state.away.remove(name)
        };
    }

    pub fn set_engine_down(&self, name: &str, down: bool) {
        let mut state = self.lock();
        if down {
            state.engine_down.insert(name.to_owned())
        } else {
            state.engine_down.remove(name)
        };
    }

    /// What the node says of its part from now on.
    pub fn say(&self, node: &str, volume: &str, said: MirrorReplicaStatus) {
        self.lock().said.insert((node.to_owned(), volume.to_owned()), said);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self, name: &str, number: u32, beat: bool) -> Result<()> {
        if self.lock().away.contains(name) {
            return Ok(());
        }
        let down = self.lock().engine_down.contains(name);
        if beat {
            self.beat(name, down).await.context("the node's Lease")?;
        }
        self.pool(name, number, down).await.context("the pool")?;
        if down {
            return Ok(());
        }
        let parts: Api<MirrorReplica> = Api::all(self.client.clone());
        let mine = ListParams::default().fields(&format!("spec.nodeName={name}"));
        for part in parts.list(&mine).await?.items {
            self.part(&parts, &part).await.context("a part")?;
        }
        Ok(())
    }

    async fn beat(&self, name: &str, down: bool) -> Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NODE_NAMESPACE);
        let engine = if down { names::ENGINE_DOWN.to_owned() } else { "7".to_owned() };
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": name, "annotations": { names::ANNOTATION_ENGINE: engine } },
            "spec": { "holderIdentity": name, "leaseDurationSeconds": 6, "renewTime": MicroTime(Timestamp::now()) },
        });
        leases.patch(name, &PatchParams::apply("node").force(), &Patch::Apply(&lease)).await?;
        Ok(())
    }

    async fn pool(&self, name: &str, number: u32, down: bool) -> Result<()> {
        let pools: Api<MirrorPool> = Api::all(self.client.clone());
        let Some(pool) = pools.get_opt(name).await? else { return Ok(()) };
        let now = Time(Timestamp::now());
        let ready = condition("Ready", true, "Open", "", None, now.clone());
        let engine = condition("EngineReady", !down, "Asked", "", None, now);
        let status = MirrorPoolStatus {
            node_id: number,
            incarnation: 1000 + u64::from(number),
            address: Some("192.0.2.1".to_owned()),
            port: 7501,
            capacity_bytes: POOL_BYTES,
            free_bytes: POOL_BYTES,
            conditions: vec![ready, engine],
            ..MirrorPoolStatus::default()
        };
        let same = pool
            .status
            .as_ref()
            .is_some_and(|old| old.node_id == number && lockstep_api::is_true(&old.conditions, "EngineReady") != down);
        if !same {
            let patch = json!({ "status": status });
            pools.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        }
        Ok(())
    }

    async fn part(&self, parts: &Api<MirrorReplica>, part: &MirrorReplica) -> Result<()> {
        let name = part.name_any();
        if part.metadata.deletion_timestamp.is_some() {
            let none = json!({ "metadata": { "finalizers": null } });
            parts.patch(&name, &PatchParams::default(), &Patch::Merge(&none)).await?;
            return Ok(());
        }
        let key = (part.spec.node_name.clone(), part.spec.volume.clone());
        let said = self.lock().said.get(&key).cloned();
        let status = said.unwrap_or_else(|| self.usual(part));
        if part.status.as_ref() != Some(&status) {
            let patch = json!({ "status": status });
            parts.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        }
        Ok(())
    }

    /// All is well.
    fn usual(&self, part: &MirrorReplica) -> MirrorReplicaStatus {
        MirrorReplicaStatus { phase: Phase::Ready, seen: seen(part, 1), ..MirrorReplicaStatus::default() }
    }
}

/// The configuration with this epoch in which all first replicas are in sync, as numbers of nodes name them.
pub fn seen(part: &MirrorReplica, epoch: u64) -> Seen {
    let node_name = |id: u32| char::from_u32('a' as u32 + id - 1).map(String::from).unwrap_or_default();
    let definition = &part.spec.definition;
    Seen {
        generation: definition.generation.clone(),
        epoch,
        size_bytes: part.spec.size_bytes.unwrap_or(definition.size_bytes),
        in_sync: definition.replicas.iter().map(|member| node_name(member.node_id)).collect(),
        joining: Vec::new(),
        writers: Vec::new(),
    }
}

/// A part that is attached for writing on `writer`.
pub fn attached(part: &MirrorReplica, writer: &str, epoch: u64) -> MirrorReplicaStatus {
    let here = part.spec.node_name == writer && part.spec.role != ReplicaRole::TieBreaker;
    let mut status =
        MirrorReplicaStatus { phase: Phase::Ready, seen: seen(part, epoch), ..MirrorReplicaStatus::default() };
    status.seen.writers = vec![writer.to_owned()];
    status.attached = here.then_some(lockstep_api::Attached::ReadWrite);
    status
}
