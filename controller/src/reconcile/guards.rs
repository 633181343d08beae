//! Guards of nodes: the pods whose eviction a drain waits for, and the budgets that forbid it.
//!
//! A guard does nothing. It belongs to the controller's Deployment, so that `kubectl drain` evicts it like any pod that somebody looks
//! after, and so that nothing of it is left when Lockstep is uninstalled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};
use lockstep_api::{MirrorVolume, names};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Leader;
use super::apply::{ApplyError, delete_of, send};
use super::events::{Note, Subject};
use crate::cluster::lock;
use crate::plan::guard::{Guard, Seen, plan_guards};

/// How often the leader looks; no request comes of it where nothing changed. `kubectl drain` tries every five seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a request that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// A guard that its node does not take is not made again for so long.
const REMAKE_AFTER: Duration = Duration::from_secs(30);

/// By these a node is known to be emptied: what `kubectl drain` and the common autoscalers put before they evict anything.
const LEAVING_TAINTS: [&str; 3] =
    ["node.kubernetes.io/unschedulable", "ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"];

/// What a leader remembers of guards, on its own clock.
#[derive(Debug, Default)]
struct Memory {
    /// Of nodes that are cordoned: when its budget was opened last, and whether it is open.
    turns: BTreeMap<String, (Instant, bool)>,
    /// When a node's guard was made last.
    made: BTreeMap<String, Instant>,
    owner: Option<OwnerReference>,
}

type Outcome = Result<(), ApplyError>;

impl Leader {
    /// Watches over guards, for ever.
    pub(super) async fn watch_over_drains(&self) {
        let mut memory = Memory::default();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(error) = self.look_at_guards(&mut memory).await {
                tracing::warn!(%error, "guards_not_looked_after");
                looks.reset_after(AFTER_FAILURE);
            }
        }
    }

    async fn look_at_guards(&self, memory: &mut Memory) -> Outcome {
        let nodes = self.guarded_nodes();
        self.delete_surplus_guards(&nodes).await?;
        let Some(template) = self.config.drain_guard.pod.as_ref().filter(|_| !nodes.is_empty()) else { return Ok(()) };
        let digest = format!("{:016x}", names::fnv1a(serde_json::to_string(template).unwrap_or_default().as_bytes()));
        let owner = self.guards_owner(memory).await?;
        memory.turns.retain(|node, _| nodes.contains(node));
        memory.made.retain(|node, _| nodes.contains(node));
        let seen: BTreeMap<String, Seen> =
            nodes.iter().map(|node| (node.clone(), self.see_guard(node, memory))).collect();
        let volumes = self.cluster.volumes.state();
        let volumes: Vec<&MirrorVolume> = volumes.iter().map(|volume| &**volume).collect();
        let mut lost = self.cluster.lost_nodes();
        lost.extend(lock(&self.cluster.beats).unheard());
        for (node, guard) in plan_guards(&seen, &volumes, &lost) {
            let Some(seen) = seen.get(&node) else { continue };
            self.ensure_budget(&node, *seen, &guard, &owner).await?;
            // Made behind its budget, and never on a node that is to be empty.
            if !seen.wanted {
                self.ensure_guard(&node, (template, &digest), &owner, memory).await?;
            }
        }
        Ok(())
    }

    /// Nodes that have a guard: those whose agent runs, or ran.
    fn guarded_nodes(&self) -> BTreeSet<String> {
        if !self.config.drain_guard.enabled {
            return BTreeSet::new();
        }
        let pools = self.cluster.pools.state();
        let ours = pools.iter().filter(|pool| pool.status.is_some()).map(|pool| pool.spec.node_name.clone());
        ours.filter(|node| self.cluster.node(node).is_some_and(|it| it.metadata.deletion_timestamp.is_none())).collect()
    }

    fn see_guard(&self, node: &str, memory: &mut Memory) -> Seen {
        let (pod, budget) = (self.guard(node), self.budget(node));
        let name = names::guard_name(node);
        // An eviction is granted in the budget first.
        let evicted = budget
            .as_ref()
            .and_then(|budget| budget.status.as_ref()?.disrupted_pods.as_ref())
            .is_some_and(|pods| pods.contains_key(&name));
        let guarded = pod.as_ref().is_some_and(|pod| is_alive(pod) && !evicted);
        let open = budget.as_ref().is_none_or(|budget| is_open(budget));
        let wanted = self.cluster.node(node).is_some_and(|node| is_leaving(&node));
        let now = Instant::now();
        if !wanted {
            memory.turns.remove(node);
        } else if open {
            let turn = memory.turns.entry(node.to_owned()).or_insert((now, true));
            *turn = (if turn.1 { turn.0 } else { now }, true);
        } else if let Some(turn) = memory.turns.get_mut(node) {
            turn.1 = false;
        }
        let turn = memory.turns.get(node).map(|(at, _)| now.saturating_duration_since(*at));
        Seen { wanted, guarded, open, turn }
    }

    fn guard(&self, node: &str) -> Option<Arc<Pod>> {
        self.cluster.guards.get(&ObjectRef::new(&names::guard_name(node)).within(&self.cluster.namespace))
    }

    fn budget(&self, node: &str) -> Option<Arc<PodDisruptionBudget>> {
        self.cluster.budgets.get(&ObjectRef::new(&names::guard_name(node)).within(&self.cluster.namespace))
    }

    /// The Deployment that guards go with.
    async fn guards_owner(&self, memory: &mut Memory) -> Result<OwnerReference, ApplyError> {
        if let Some(owner) = &memory.owner {
            return Ok(owner.clone());
        }
        let deployment = send(self.installed::<Deployment>().get(&self.config.drain_guard.deployment)).await?;
        let owner = OwnerReference {
            api_version: Deployment::api_version(&()).into_owned(),
            kind: Deployment::kind(&()).into_owned(),
            name: deployment.name_any(),
            uid: deployment.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        Ok(memory.owner.insert(owner).clone())
    }

    /// Opens or closes a node's budget, and says why.
    async fn ensure_budget(&self, node: &str, seen: Seen, guard: &Guard, owner: &OwnerReference) -> Outcome {
        let (pods_min, reason) = match guard {
            Guard::Open => (0, ""),
            Guard::Closed { reason } => (1, reason.as_str()),
        };
        if let Guard::Closed { reason } = guard
            && seen.wanted
        {
            let message = format!("the node cannot be drained now: {reason}");
            self.note(Note::warning("DrainHeld", "Drain", message), &Subject::Node(node.to_owned())).await;
        }
        let found = self.budget(node);
        let same = found.as_ref().is_some_and(|budget| {
            is_open(budget) == (*guard == Guard::Open)
                && budget.annotations().get(names::ANNOTATION_DRAIN).map(String::as_str) == Some(reason)
        });
        if same {
            return Ok(());
        }
        let (name, label) = (names::guard_name(node), json!({ names::LABEL_GUARD: names::guard_label(node) }));
        let mut budget = json!({
            "apiVersion": PodDisruptionBudget::api_version(&()),
            "kind": PodDisruptionBudget::kind(&()),
            "metadata": {
                "name": name,
                "labels": label,
                "annotations": { names::ANNOTATION_DRAIN: reason },
                "ownerReferences": [owner],
            },
            "spec": {
                // A number, and of pods that are there: of an owner that scales nothing, nothing else is understood.
                "minAvailable": pods_min,
                "selector": { "matchLabels": label },
                // A guard that does not run guards nothing, and holds up nobody.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        });
        if let Some(found) = &found {
            // What was seen is what is changed: an eviction in between is seen first.
            budget["metadata"]["resourceVersion"] = json!(found.resource_version());
        }
        let parameters = PatchParams::apply(names::MANAGER_CONTROLLER).force();
        match send(self.installed::<PodDisruptionBudget>().patch(&name, &parameters, &Patch::Apply(&budget))).await {
            Ok(_) => {}
            result => return settled(result),
        }
        tracing::info!(node, open = *guard == Guard::Open, wanted = seen.wanted, reason, "drain_guard_set");
        if *guard == Guard::Open && seen.waits() {
            let message = "the node may be drained: nothing in use depends on it alone".to_owned();
            self.note(Note::normal("DrainAllowed", "Drain", message), &Subject::Node(node.to_owned())).await;
        }
        Ok(())
    }

    /// Makes a node's guard, unless it has one that is as it should be.
    async fn ensure_guard(
        &self,
        node: &str,
        (template, digest): (&PodSpec, &str),
        owner: &OwnerReference,
        memory: &mut Memory,
    ) -> Outcome {
        if let Some(pod) = self.guard(node) {
            let is_current = pod.annotations().get(names::ANNOTATION_TEMPLATE).is_some_and(|it| it == digest);
            if pod.metadata.deletion_timestamp.is_some() || (is_alive(&pod) && is_current) {
                return Ok(());
            }
            return self.delete_guard(&*pod).await;
        }
        if memory.made.get(node).is_some_and(|at| at.elapsed() < REMAKE_AFTER) || self.budget(node).is_none() {
            return Ok(());
        }
        let labels = [
            (names::LABEL_GUARD, names::guard_label(node)),
            ("app.kubernetes.io/name", "lockstep".to_owned()),
            ("app.kubernetes.io/component", "guard".to_owned()),
        ];
        let annotations = [
            (names::ANNOTATION_TEMPLATE, digest.to_owned()),
            // Its owner is of a kind that the autoscaler does not know; whether it may go is what the budget says.
            ("cluster-autoscaler.kubernetes.io/safe-to-evict", "true".to_owned()),
        ];
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some(names::guard_name(node)),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
                annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value)).into()),
                owner_references: Some(vec![owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec { node_name: Some(node.to_owned()), ..template.clone() }),
            status: None,
        };
        memory.made.insert(node.to_owned(), Instant::now());
        settled(send(self.installed::<Pod>().create(&PostParams::default(), &pod)).await)
    }

    /// Takes away what guards no node, or none any more.
    async fn delete_surplus_guards(&self, nodes: &BTreeSet<String>) -> Outcome {
        let kept: BTreeSet<String> = nodes.iter().map(|node| names::guard_name(node)).collect();
        let surplus = |name: &str, ending: bool| !kept.contains(name) && !ending;
        for budget in self.cluster.budgets.state() {
            if surplus(&budget.name_any(), budget.metadata.deletion_timestamp.is_some()) {
                self.delete_guard(&*budget).await?;
            }
        }
        for pod in self.cluster.guards.state() {
            if surplus(&pod.name_any(), pod.metadata.deletion_timestamp.is_some()) {
                self.delete_guard(&*pod).await?;
            }
        }
        Ok(())
    }

    async fn delete_guard<K>(&self, object: &K) -> Outcome
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        settled(delete_of(&self.installed::<K>(), object).await)
    }

    fn installed<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace)
    }
}

/// Whether a guard's end was neither asked for nor has come.
fn is_alive(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

fn is_open(budget: &PodDisruptionBudget) -> bool {
    let least = budget.spec.as_ref().and_then(|spec| spec.min_available.as_ref());
    !matches!(least, Some(IntOrString::Int(1..)))
}

fn is_leaving(node: &Node) -> bool {
    let Some(spec) = &node.spec else { return false };
    let mut taints = spec.taints.iter().flatten();
    spec.unschedulable == Some(true) || taints.any(|taint| LEAVING_TAINTS.contains(&taint.key.as_str()))
}

/// Somebody changed it meanwhile, or it is there or gone already: the next look sees how it is.
fn settled<T>(result: Result<T, ApplyError>) -> Outcome {
    match result {
        Ok(_) | Err(ApplyError::Conflict | ApplyError::Missing) => Ok(()),
        Err(error) => Err(error),
    }
}
