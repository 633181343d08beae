//! Pods of lost nodes are moved: taint, delete, tell. The data plane has fenced the node, or will before anybody else writes.
//!
//! Whatever step a leader dies at, the next one finds the node still silent, and does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Preconditions};
use lockstep_api::{FailOver, MirrorReplica, MirrorVolume, names};
use serde_json::json;

use super::Leader;
use super::apply::{ApplyError, apply_status, merge_over, send};
use super::events::{Note, Subject};
use super::volumes::now;
use crate::cluster::{Touched, lock};
use crate::metrics::Counts;
use crate::plan::fail_over::{Bound, Claims, PodPlan, Verdict, plan_pod, plan_verdict, volumes_of};

/// How often the leader looks at what it heard; no request comes of it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often pods of a node that stays lost are looked for again.
const AGAIN_EVERY: Duration = Duration::from_secs(5);
/// Somebody must have been heard so recently, or it is this program that does not hear: two renewals.
const HEARING_WITHIN: Duration = Duration::from_secs(4);
/// A status or node that others write at the same time is written again so often.
const ATTEMPTS: usize = 5;

/// What a leader remembers of lost nodes, on its own clock.
#[derive(Debug, Default)]
pub(super) struct Watchfulness {
    /// When a node's pods were last looked for.
    looked: BTreeMap<String, Instant>,
    /// Since when a node says that its engine is down.
    engine_down: BTreeMap<String, Instant>,
    /// Nodes that were lost with the last look.
    lost: BTreeSet<String>,
    /// Too many are silent: said once.
    held: bool,
}

/// What became of a pod that is to be moved.
enum Moved {
    Gone,
    /// It is there still, and is asked to go with a later look.
    Refused {
        reason: String,
    },
}

/// Why something was not done; it is tried again with the next look.
type Outcome = Result<(), ApplyError>;

impl Leader {
    /// Watches over all nodes, for ever.
    pub(super) async fn watch_over_nodes(&self) {
        let mut memory = Watchfulness::default();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let lost = self.cluster.lost_nodes();
            for node in lost.symmetric_difference(&memory.lost) {
                // What is shown of its volumes depends on it.
                self.cluster.touch(Touched::Node(node.clone()));
            }
            memory.lost = lost;
            if self.config.fail_over.enabled {
                self.look_at_nodes(&mut memory).await;
            }
        }
    }

    async fn look_at_nodes(&self, memory: &mut Watchfulness) {
        let now = Instant::now();
        let after = self.config.fail_over.node_lease_stale_after;
        let (silent, unheard, all, hearing) = {
            let beats = lock(&self.cluster.beats);
            (beats.stale(after, now), beats.unheard(), beats.count(), beats.heard_within(HEARING_WITHIN, now))
        };
        let mass = silent.len() * 2 > all || (hearing == 0 && !silent.is_empty());
        if mass != memory.held {
            memory.held = mass;
            if mass {
                tracing::warn!(silent = silent.len(), all, "fail_over_held");
                let message = format!("{} of {all} nodes are silent: nothing is done about any of them", silent.len());
                self.note(Note::warning("FailOverHeld", "FailOver", message), &Subject::Installation).await;
            }
        }
        if mass {
            return;
        }
        for node in &silent {
            if let Err(error) = self.look_at_silent(memory, node, &silent).await {
                tracing::warn!(node, %error, "fail_over_not_finished");
            }
        }
        for lease in self.cluster.node_leases.state() {
            let node = lease.name_any();
            // One that an earlier leader fenced is not back because this one has just begun.
            if silent.contains(&node) || unheard.contains(&node) {
                continue;
            }
            let down =
                lease.annotations().get(names::ANNOTATION_ENGINE).map(String::as_str) == Some(names::ENGINE_DOWN);
            if !down {
                memory.looked.remove(&node);
            }
            if let Err(error) = self.look_at_living(memory, &node, down).await {
                tracing::warn!(node, %error, "node_not_looked_after");
            }
        }
    }

    /// A node that is not heard: its pods are moved if it is dead.
    async fn look_at_silent(&self, memory: &mut Watchfulness, node: &str, silent: &BTreeSet<String>) -> Outcome {
        if memory.looked.get(node).is_some_and(|at| at.elapsed() < AGAIN_EVERY) {
            return Ok(());
        }
        let parts = self.cluster.replicas.state();
        let parts: Vec<&MirrorReplica> = parts.iter().map(|part| &**part).collect();
        let volumes = match plan_verdict(node, &parts, silent) {
            Verdict::Dead { volumes } => volumes,
            Verdict::Doubted { reason } => {
                tracing::debug!(node, reason, "node_silent");
                return Ok(());
            }
            Verdict::Alive | Verdict::Unconcerned => return Ok(()),
        };
        let first = !memory.looked.contains_key(node);
        if first {
            tracing::warn!(node, volumes = volumes.join(","), "node_dead");
            Counts::rise(&self.counts.dead_nodes);
        }
        self.set_taint(node, true).await?;
        let reason = "its Lease is not renewed, and no member hears its engine";
        if first {
            self.note(
                Note::warning("Fenced", "Fence", format!("storage of {node} is fenced: {reason}")),
                &Subject::Node(node.to_owned()),
            )
            .await;
        }
        let moved = self.move_pods(node, true).await?;
        for volume in &moved {
            self.write_fail_over(volume, node, reason).await?;
        }
        memory.looked.insert(node.to_owned(), Instant::now());
        Ok(())
    }

    /// A node that is heard: what a sick engine cannot serve is evicted, and the taint goes when it is well.
    async fn look_at_living(&self, memory: &mut Watchfulness, node: &str, down: bool) -> Outcome {
        if !down {
            memory.engine_down.remove(node);
            if self.is_tainted(node) {
                self.set_taint(node, false).await?;
                let message = format!("{node} is back, and its engine answers");
                self.note(Note::normal("FenceLifted", "Fence", message), &Subject::Node(node.to_owned())).await;
            }
            return Ok(());
        }
        let since = *memory.engine_down.entry(node.to_owned()).or_insert_with(Instant::now);
        let recently = memory.looked.get(node).is_some_and(|at| at.elapsed() < AGAIN_EVERY);
        if since.elapsed() < self.config.fail_over.engine_down_evict_after || recently {
            return Ok(());
        }
        self.set_taint(node, true).await?;
        if !memory.looked.contains_key(node) {
            let message = format!("the engine of {node} does not answer: pods that use its volumes are evicted");
            self.note(Note::warning("EngineDown", "FailOver", message), &Subject::Node(node.to_owned())).await;
        }
        let moved = self.move_pods(node, false).await?;
        for volume in &moved {
            self.write_fail_over(volume, node, "its engine is down").await?;
        }
        memory.looked.insert(node.to_owned(), Instant::now());
        Ok(())
    }

    fn is_tainted(&self, node: &str) -> bool {
        let node = self.cluster.node(node);
        let taints = node.and_then(|node| node.spec.as_ref().and_then(|spec| spec.taints.clone())).unwrap_or_default();
        taints.iter().any(|taint| taint.key == names::TAINT_FENCED)
    }

    /// Puts our taint, or takes it away; the others stay. A node that does not exist any more needs none.
    async fn set_taint(&self, name: &str, wanted: bool) -> Outcome {
        let nodes: Api<Node> = Api::all(self.cluster.client.clone());
        for _ in 0..ATTEMPTS {
            let Some(node) = send(nodes.get_opt(name)).await? else { return Ok(()) };
            let mut taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
            if taints.iter().any(|taint| taint.key == names::TAINT_FENCED) == wanted {
                return Ok(());
            }
            taints.retain(|taint| taint.key != names::TAINT_FENCED);
            if wanted {
                let (key, effect) = (names::TAINT_FENCED.to_owned(), "NoSchedule".to_owned());
                taints.push(Taint { key, effect, ..Taint::default() });
            }
            match merge_over(&self.cluster.client, &node, &json!({ "spec": { "taints": taints } })).await {
                Err(ApplyError::Conflict) => {}
                result => {
                    tracing::info!(node = name, wanted, "taint_set");
                    return result.map(drop);
                }
            }
        }
        Err(ApplyError::Conflict)
    }

    /// Moves the pods of a node that use our volumes: deletes them without grace where the node is dead, else by eviction. Says of which
    /// volumes.
    async fn move_pods(&self, node: &str, dead: bool) -> Result<BTreeSet<String>, ApplyError> {
        let claims = self.claims().await?;
        let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = send(Api::<Pod>::all(self.cluster.client.clone()).list(&here)).await?.items;
        let mut moved = BTreeSet::new();
        for pod in &pods {
            let subject = Subject::Pod(Box::new(pod.clone()));
            match plan_pod(pod, &claims) {
                PodPlan::NotOurs => {}
                PodPlan::Keep { reason } => {
                    let message = format!("{node} is fenced, and the pod is left alone: {reason}");
                    self.note(Note::warning("KeptOnFence", "FailOver", message), &subject).await;
                }
                // Its kubelet is ending it.
                PodPlan::Move if !dead && pod.metadata.deletion_timestamp.is_some() => {}
                PodPlan::Move => {
                    if let Moved::Refused { reason } = self.move_pod(pod, dead).await? {
                        let message = format!("the engine of {node} is down, and the pod is not evicted: {reason}");
                        self.note(Note::warning("KeptOnFence", "FailOver", message), &subject).await;
                        continue;
                    }
                    Counts::rise(&self.counts.moved_pods);
                    tracing::info!(pod = pod.name_any(), namespace = pod.namespace(), node, dead, "pod_moved");
                    let why = if dead { "which is lost" } else { "whose engine is down" };
                    self.note(
                        Note::warning("FailedOver", "FailOver", format!("moved away from {node}, {why}")),
                        &subject,
                    )
                    .await;
                    moved.extend(volumes_of(pod, &claims));
                }
            }
        }
        Ok(moved)
    }

    async fn move_pod(&self, pod: &Pod, dead: bool) -> Result<Moved, ApplyError> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &pod.namespace().unwrap_or_default());
        let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
        let mut how = DeleteParams { preconditions, ..DeleteParams::default() };
        let name = pod.name_any();
        let outcome = if dead {
            how.grace_period_seconds = Some(0);
            send(pods.delete(&name, &how)).await.map(drop)
        } else {
            let how = EvictParams { delete_options: Some(how), ..EvictParams::default() };
            send(pods.evict(&name, &how)).await.map(drop)
        };
        match outcome {
            // Gone already, or another of this name by now.
            Ok(()) | Err(ApplyError::Missing | ApplyError::Conflict) => Ok(Moved::Gone),
            // A budget forbids it for now.
            Err(ApplyError::Refused { code: 429, message }) => Ok(Moved::Refused { reason: message }),
            Err(error) => Err(error),
        }
    }

    /// What every claim is bound to.
    async fn claims(&self) -> Result<Claims, ApplyError> {
        let volumes =
            send(Api::<PersistentVolume>::all(self.cluster.client.clone()).list(&ListParams::default())).await?;
        let bound = volumes.items.into_iter().filter_map(|volume| {
            let spec = volume.spec?;
            let claim = spec.claim_ref?;
            let ours = spec.csi.filter(|csi| csi.driver == names::DRIVER);
            let modes = spec.access_modes.unwrap_or_default();
            let read_only = !modes.is_empty() && modes.iter().all(|mode| mode == "ReadOnlyMany");
            let bound = ours.map_or(Bound::Other { read_only }, |csi| Bound::Ours(csi.volume_handle));
            Some(((claim.namespace?, claim.name?), bound))
        });
        Ok(bound.collect())
    }

    async fn write_fail_over(&self, volume: &str, node: &str, reason: &str) -> Outcome {
        let volumes: Api<MirrorVolume> = Api::all(self.cluster.client.clone());
        for _ in 0..ATTEMPTS {
            let Some(found) = send(volumes.get_opt(volume)).await? else { return Ok(()) };
            let mut status = found.status.clone().unwrap_or_default();
            let at: Time = now();
            status.last_fail_over = Some(FailOver { at, from: node.to_owned(), reason: reason.to_owned() });
            match apply_status(&self.cluster.client, &found, &status).await {
                Err(ApplyError::Conflict) => {}
                result => {
                    result?;
                    let message = format!("its pods are moved away from {node}: {reason}");
                    self.note(Note::warning("FailedOver", "FailOver", message), &Subject::Volume(Box::new(found)))
                        .await;
                    return Ok(());
                }
            }
        }
        Err(ApplyError::Conflict)
    }
}
