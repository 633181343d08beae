//! This node among the others: cluster file and engine follow the MirrorPools, and this node's own says how it is.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use lockstep_proto::node::v1 as proto;
use tokio::time::Instant;

use super::cluster_agent::{ClusterAgent, pool_place, write_cluster};
use super::nodes::{NodePlan, plan_nodes};
use super::pool_status::{Facts, is_worth_sending, pool_status};
use crate::agent::describe_address;
use crate::cluster::{Cluster, Node};
use crate::rpc;
use crate::state_dir::StateDir;

/// How often it is looked whether the engine runs as it did, and how full the pool is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the engine is asked again to forget a node that a volume still has as a member.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Kernels before this version lose FUSE requests of an engine that ends.
const RESENDING_KERNEL: (u32, u32) = (6, 9);

/// What the engine was told.
#[derive(Debug, Default)]
struct Told {
    incarnation: u64,
    nodes: Vec<Node>,
    /// When it was asked last to forget a node.
    forgotten: BTreeMap<u32, Instant>,
    failing: bool,
}

impl ClusterAgent {
    /// Until it is dropped.
    pub(super) async fn keep_pool(&self) {
        let mut told = Told::default();
        let mut changes = self.objects.pools.changes();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Ok(()) = changes.changed() => {}
            }
            // While the API server is away, what was known stays.
            let plan = match self.objects.pools.is_listed() {
                true => self.follow_nodes(),
                false => NodePlan { tell: others(&self.agent.cluster(), self.agent.me().id), ..NodePlan::default() },
            };
            self.tell_nodes(&plan, &mut told).await;
            self.report_pool(&plan);
        }
    }

    /// The cluster file and the agent follow the MirrorPools.
    fn follow_nodes(&self) -> NodePlan {
        let known = self.agent.cluster();
        let plan = plan_nodes(&known.nodes, self.agent.me(), &self.objects.pools.all());
        let mut cluster = Cluster { nodes: plan.file.clone(), ..Cluster::clone(&known) };
        if let Some(own) = self.objects.pools.get(&self.objects.me) {
            cluster.this.pool = pool_place(&own);
        }
        if cluster.nodes == known.nodes && cluster.this == known.this {
            return plan;
        }
        match write_cluster(&self.agent.state().cluster_file(), &cluster) {
            Ok(()) => {
                tracing::info!(nodes = cluster.nodes.len(), "nodes_followed");
                self.agent.set_cluster(cluster);
            }
            Err(error) => tracing::error!(%error, "cluster_file_not_written"),
        }
        plan
    }

    async fn tell_nodes(&self, plan: &NodePlan, told: &mut Told) {
        let incarnation = self.engine.incarnation();
        if incarnation == 0 {
            return;
        }
        if (told.incarnation, &told.nodes) != (incarnation, &plan.tell) {
            let nodes = plan.tell.iter().map(describe_address).collect();
            match self.learn(proto::LearnNodesRequest { nodes, forget_node_ids: Vec::new() }).await {
                Ok(()) => {
                    tracing::info!(nodes = plan.tell.len(), incarnation, "engine_told_of_nodes");
                    (told.incarnation, told.nodes, told.failing) = (incarnation, plan.tell.clone(), false);
                }
                Err(reason) => {
                    if !told.failing {
                        tracing::warn!(reason, "engine_does_not_learn_nodes");
                    }
                    told.failing = true;
                    return;
                }
            }
        }
        for id in &plan.forget {
            if told.forgotten.get(id).is_some_and(|asked| asked.elapsed() < FORGET_EVERY) {
                continue;
            }
            told.forgotten.insert(*id, Instant::now());
            match self.learn(proto::LearnNodesRequest { nodes: Vec::new(), forget_node_ids: vec![*id] }).await {
                Ok(()) => self.forget_node(*id),
                Err(reason) => tracing::info!(node = id, reason, "node_not_forgotten_yet"),
            }
        }
    }

    async fn learn(&self, request: proto::LearnNodesRequest) -> Result<(), String> {
        let mut engine = self.agent.engine();
        let call = engine.learn_nodes(request);
        let learned = rpc::answer(&self.agent.engine_name(), rpc::ANSWER_WITHIN, call).await;
        learned.map(drop).map_err(|failure| failure.message)
    }

    fn forget_node(&self, id: u32) {
        let mut cluster = Cluster::clone(&self.agent.cluster());
        cluster.nodes.retain(|node| node.id != id);
        if let Err(error) = write_cluster(&self.agent.state().cluster_file(), &cluster) {
            tracing::error!(%error, "cluster_file_not_written");
            return;
        }
        tracing::info!(node = id, "node_forgotten");
        self.agent.set_cluster(cluster);
    }

    fn report_pool(&self, plan: &NodePlan) {
        let Some(object) = self.objects.pools.get(&self.objects.me) else { return };
        let restart_visible = explain_restarts(self.agent.state());
        let unwanted = self.unwanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let facts = Facts {
            me: self.agent.me(),
            dedicated: self.agent.own_dedicated(),
            pool: self.agent.describe_pool(),
            engine: self.engine.identity(),
            restart_visible: &restart_visible,
            doubled: &plan.doubled,
            unwanted: &unwanted,
        };
        let status = pool_status(&object, &facts, &Time(Timestamp::now()));
        let old = object.status.clone().unwrap_or_default();
        if is_worth_sending(&old, &status) {
            self.pool_reports.put(&*object, &status);
        } else {
            self.pool_reports.take_back(&self.objects.me);
        }
    }
}

fn others(cluster: &Cluster, me: u32) -> Vec<Node> {
    cluster.nodes.iter().filter(|node| node.id != me).cloned().collect()
}

/// Why applications here see a restart of the engine; empty: they do not.
fn explain_restarts(state: &StateDir) -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < RESENDING_KERNEL {
        let (major, minor) = RESENDING_KERNEL;
        return format!(
            "kernel {} is older than {major}.{minor}: it does not send unanswered requests again",
            release.trim()
        );
    }
    if !state.path().join("holder.sock").exists() {
        return "no holder keeps the devices while the engine restarts".to_owned();
    }
    String::new()
}
