//! Nodes are drained: one that must not leave is held, and of those that share a volume one leaves at a time. What a cluster's own programs
//! do is played: kubelet runs the guards, and the disruption controller counts them.

mod setup;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use lockstep_api::{MirrorReplicaStatus, ReplicaRole, names};
use nix::sys::signal::Signal;
use serde_json::json;
use setup::{Controller, NAMESPACE, POOLS, Setup, attached, request};

const GIB: i64 = 1 << 30;

const GUARD: &str =
    "drainGuard:\n  enabled: true\n  pod: {terminationGracePeriodSeconds: 5, containers: [{name: guard, image: i}]}\n";

impl Setup {
    fn guards(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn budgets(&self) -> Api<PodDisruptionBudget> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// What the guards belong to.
    fn deploy(&self) -> Result<()> {
        let labels = json!({ "app": "c" });
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": { "name": "lockstep-controller" },
            "spec": {
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": { "containers": [{ "name": "c", "image": "i" }] },
                },
            },
        }))?;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        self.run(deployments.create(&PostParams::default(), &deployment))?;
        Ok(())
    }

    /// One turn of kubelets and of the disruption controller.
    fn turn(&self) -> Result<()> {
        let (pods, budgets) = (self.guards(), self.budgets());
        let how = PatchParams::default();
        for pod in self.run(pods.list(&ListParams::default()))? {
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() {
                let _ =
                    self.run(pods.delete(&name, &DeleteParams { grace_period_seconds: Some(0), ..Default::default() }));
                continue;
            }
            if pod.status.and_then(|status| status.phase).as_deref() != Some("Running") {
                let ready = json!({ "type": "Ready", "status": "True" });
                let running = Patch::Merge(json!({ "status": { "phase": "Running", "conditions": [ready] } }));
                self.run(pods.patch_status(&name, &how, &running))?;
            }
        }
        for budget in self.run(budgets.list(&ListParams::default()))? {
            let least = match budget.spec.as_ref().and_then(|spec| spec.min_available.clone()) {
                Some(IntOrString::Int(least)) => least,
                other => anyhow::bail!("{other:?} is no number"),
            };
            let generation = budget.metadata.generation;
            let status = json!({
                "observedGeneration": generation, "currentHealthy": 1, "desiredHealthy": least, "expectedPods": 1,
                "disruptionsAllowed": 1 - least, "disruptedPods": null,
            });
            if budget.status.as_ref().and_then(|status| status.observed_generation) != generation {
                let over = json!({ "resourceVersion": budget.resource_version() });
                let counted = Patch::Merge(json!({ "metadata": over, "status": status }));
                let _ = self.run(budgets.patch_status(&budget.name_any(), &how, &counted));
            }
        }
        Ok(())
    }

    /// What `kubectl drain` asks: whether the node's guard is evicted.
    fn evict(&self, node: &str) -> Result<bool> {
        let guards: Api<Pod> = Api::namespaced(self.plain_client(self.server.kubeconfig())?, NAMESPACE);
        match self.run(guards.evict(&names::guard_name(node), &EvictParams::default())) {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 429 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn cordon(&self, node: &str, cordoned: bool) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": cordoned.then_some(true) } }));
        self.run(self.all::<Node>().patch(node, &PatchParams::default(), &patch))?;
        Ok(())
    }

    /// Why a node may not be drained now; nothing: it may.
    fn held(&self, node: &str) -> Result<String> {
        let budget = self.run(self.budgets().get(&names::guard_name(node)))?;
        budget.annotations().get(names::ANNOTATION_DRAIN).cloned().context("its budget says why")
    }

    fn guarded(&self) -> Result<BTreeSet<String>> {
        let pods = self.run(self.guards().list(&ListParams::default().labels(names::LABEL_GUARD)))?;
        let alive = pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(alive.filter_map(|pod| pod.spec?.node_name).collect())
    }

    fn wait_guarded(&self, what: &str, nodes: &[&str]) -> Result<()> {
        self.until(what, || {
            self.turn()?;
            Ok((self.guarded()?.iter().eq(nodes)).then_some(()))
        })
    }

    fn wait_held(&self, node: &str, why: &str) -> Result<()> {
        self.until(&format!("{node} is held: {why}"), || {
            self.turn()?;
            Ok(self.held(node)?.contains(why).then_some(()))
        })
    }

    fn wait_drained(&self, node: &str) -> Result<()> {
        self.until(&format!("{node} is drained"), || {
            self.turn()?;
            Ok(self.evict(node)?.then_some(()))
        })
    }

    /// Makes a volume, and gives the nodes of its replicas.
    fn make_volume(&self, one: &Controller) -> Result<Vec<String>> {
        self.run(one.csi().create_in_the_end(request("pvc-1", GIB, Some("a"), &[])))?;
        let replicas = self.parts("pvc-1")?.into_iter().filter(|part| part.spec.role == ReplicaRole::Replica);
        Ok(replicas.map(|part| part.spec.node_name).collect())
    }

    /// All members say that `writer` writes, and that these replicas are in sync.
    fn write_in_sync(&self, volume: &str, writer: &str, in_sync: &[String], epoch: u64) -> Result<()> {
        for part in self.parts(volume)? {
            let mut said: MirrorReplicaStatus = attached(&part, writer, epoch);
            said.seen.in_sync = in_sync.to_vec();
            self.nodes.say(&part.spec.node_name, volume, said);
        }
        Ok(())
    }
}

/// Three nodes with guards, and who made them.
fn start() -> Result<(Setup, Controller)> {
    let setup = Setup::start(&["a", "b", "c"])?;
    setup.deploy()?;
    let one = setup.controller("one", &format!("{POOLS}{GUARD}"))?;
    setup.wait_pools(3)?;
    setup.wait_guarded("every node has a guard", &["a", "b", "c"])?;
    Ok((setup, one))
}

#[test]
fn a_drain_waits_where_storage_would_be_lost() -> Result<()> {
    let (setup, one) = start()?;
    let owners = setup.run(setup.guards().get("lockstep-guard-a"))?.metadata.owner_references.unwrap_or_default();
    let owner = owners.first().context("it belongs to somebody")?;
    ensure!(owner.kind == "Deployment" && owner.controller == Some(true), "drains leave others alone: {owner:?}");

    let replicas = setup.make_volume(&one)?;
    let [first, second] = replicas.as_slice() else { anyhow::bail!("{replicas:?}") };
    ensure!(setup.held(first)?.is_empty(), "nobody uses it");
    setup.write_in_sync("pvc-1", first, &replicas, 2)?;
    for node in ["a", "b", "c"] {
        setup.wait_held(node, "not cordoned")?;
    }
    ensure!(!setup.evict(first)?, "nobody asked for the node");

    // One leaves, then the other is to.
    setup.cordon(second, true)?;
    setup.wait_drained(second)?;
    setup.cordon(first, true)?;
    setup.wait_held(first, &format!("{second} is away"))?;
    ensure!(!setup.evict(first)?);
    setup.until("events tell of it", || {
        let events = setup.run(Api::<Event>::all(setup.client.clone()).list(&ListParams::default()))?.items;
        let told = |reason: &str, node: &str| {
            events.iter().any(|it| {
                it.reason.as_deref() == Some(reason)
                    && it.regarding.as_ref().and_then(|of| of.name.as_deref()) == Some(node)
            })
        };
        Ok((told("DrainAllowed", second) && told("DrainHeld", first)).then_some(()))
    })?;

    // It is back, and not in sync yet; then it is.
    setup.write_in_sync("pvc-1", first, std::slice::from_ref(first), 3)?;
    setup.cordon(second, false)?;
    setup.wait_guarded("it has a guard again", &["a", "b", "c"])?;
    setup.wait_held(first, "the last replica that is in sync is here")?;
    ensure!(!setup.evict(first)?);
    setup.write_in_sync("pvc-1", first, &replicas, 4)?;
    setup.wait_drained(first)?;
    setup.cordon(second, true)?;
    setup.wait_held(second, &format!("{first} is away"))?;

    // Whoever does not want guards has none, and no budgets that hold up drains for ever.
    one.process.kill()?;
    let _two = setup.controller_with_pools("two")?;
    setup.wait_guarded("guards are gone", &[])?;
    setup.until("budgets are gone", || {
        Ok(setup.run(setup.budgets().list(&ListParams::default()))?.items.is_empty().then_some(()))
    })
}

#[test]
fn a_node_that_is_cordoned_and_stays_gives_its_turn_away() -> Result<()> {
    let (setup, one) = start()?;
    let replicas = setup.make_volume(&one)?;
    setup.write_in_sync("pvc-1", "a", &replicas, 2)?;
    setup.wait_held("c", "not cordoned")?;
    setup.cordon("c", true)?;
    setup.until("c may leave", || Ok(setup.held("c")?.is_empty().then_some(())))?;
    // It stays where it is, and another is to go.
    setup.cordon("a", true)?;
    setup.wait_held("a", "c is away, or may leave")?;
    setup.wait_drained("a")?;
    ensure!(!setup.evict("c")?, "its turn is over");
    setup.wait_held("c", "a is away")
}

#[test]
fn a_leader_that_has_just_begun_takes_nobody_for_alive() -> Result<()> {
    let (setup, one) = start()?;
    let replicas = setup.make_volume(&one)?;
    let [first, second] = replicas.as_slice() else { anyhow::bail!("{replicas:?}") };
    setup.write_in_sync("pvc-1", first, &replicas, 2)?;
    setup.wait_held(first, "not cordoned")?;

    // The other replica's node dies, the leader is evicted, and somebody drains this one.
    one.process.signal(Signal::SIGTERM)?;
    let leases: Api<Lease> = Api::namespaced(setup.client.clone(), NAMESPACE);
    setup.until("nobody leads", || {
        let lease = setup.run(leases.get("lockstep-controller"))?;
        Ok(lease.spec.and_then(|spec| spec.holder_identity).is_none_or(|holder| holder.is_empty()).then_some(()))
    })?;
    setup.nodes.set_away(second, true);
    setup.cordon(first, true)?;
    let _two = setup.controller("two", &format!("{POOLS}{GUARD}"))?;
    setup.until("a new leader holds the drain up", || {
        setup.turn()?;
        ensure!(!setup.evict(first)?, "the new leader let the last living replica go");
        Ok(setup.held(first)?.contains(&format!("{second} is away")).then_some(()))
    })
}
