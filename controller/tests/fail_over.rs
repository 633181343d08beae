//! A node falls silent: its pods are moved where that is safe, by whatever replica of the controller leads, and the node is welcome back.

mod setup;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use lockstep_api::names;
use serde_json::{Value, json};
use setup::{Setup, attached, request};

const GIB: i64 = 1 << 30;
/// No program is that fast: what has not happened by then is not going to by haste.
const CALM: Duration = Duration::from_secs(9);

impl Setup {
    fn make<K>(&self, namespace: Option<&str>, object: Value) -> Result<()>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
        K: Placed,
    {
        let api = K::api(self.client.clone(), namespace.unwrap_or("default"));
        let object: K = serde_json::from_value(object)?;
        self.run(api.create(&PostParams::default(), &object)).context("make an object")?;
        Ok(())
    }

    /// A claim that is bound to a volume, of ours or of another driver.
    fn bind(&self, claim: &str, volume: &str, driver: &str) -> Result<()> {
        let modes = json!(["ReadWriteOnce"]);
        self.make::<PersistentVolume>(
            None,
            json!({
                "metadata": { "name": format!("pv-{claim}") },
                "spec": {
                    "accessModes": modes, "capacity": { "storage": "1Gi" },
                    "claimRef": { "namespace": "default", "name": claim },
                    "csi": { "driver": driver, "volumeHandle": volume },
                },
            }),
        )?;
        self.make::<PersistentVolumeClaim>(
            Some("default"),
            json!({
                "metadata": { "name": claim },
                "spec": {
                    "accessModes": modes, "resources": { "requests": { "storage": "1Gi" } },
                    "volumeName": format!("pv-{claim}"),
                },
            }),
        )
    }

    /// A pod that runs on a node with these claims.
    fn pod(&self, name: &str, node: &str, claims: &[&str], owned: bool) -> Result<()> {
        let volumes: Vec<Value> =
            claims.iter().map(|it| json!({ "name": it, "persistentVolumeClaim": { "claimName": it } })).collect();
        let owners = match owned {
            true => {
                json!([{ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "1", "controller": true }])
            }
            false => json!([]),
        };
        self.make::<Pod>(
            Some("default"),
            json!({
                "metadata": { "name": name, "ownerReferences": owners },
                "spec": { "nodeName": node, "volumes": volumes, "containers": [{ "name": "c", "image": "i" }] },
            }),
        )
    }

    fn pods(&self) -> Result<BTreeSet<String>> {
        let pods = self.run(Api::<Pod>::namespaced(self.client.clone(), "default").list(&ListParams::default()))?;
        Ok(pods.items.iter().map(ResourceExt::name_any).collect())
    }

    fn tainted(&self, node: &str) -> Result<bool> {
        let node = self.run(Api::<Node>::all(self.client.clone()).get(node))?;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        Ok(taints.iter().any(|taint| taint.key == names::TAINT_FENCED && taint.effect == "NoSchedule"))
    }

    fn events(&self, reason: &str) -> Result<Vec<String>> {
        let events = self.run(Api::<Event>::all(self.client.clone()).list(&ListParams::default()))?;
        let of = events.items.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
        Ok(of.filter_map(|event| event.regarding?.name).collect())
    }

    /// What every member of a volume says that `writer` writes; those in `lost_by` do not hear it.
    fn write_from(&self, volume: &str, writer: &str, epoch: u64, lost_by: &[&str]) -> Result<()> {
        for part in self.parts(volume)? {
            let mut said = attached(&part, writer, epoch);
            if lost_by.contains(&&*part.spec.node_name) {
                said.unreachable = vec![writer.to_owned()];
            }
            self.nodes.say(&part.spec.node_name, volume, said);
        }
        Ok(())
    }
}

/// Where objects of a kind are.
trait Placed: Sized {
    fn api(client: kube::Client, namespace: &str) -> Api<Self>;
}

impl Placed for PersistentVolume {
    fn api(client: kube::Client, _: &str) -> Api<Self> {
        Api::all(client)
    }
}

impl Placed for PersistentVolumeClaim {
    fn api(client: kube::Client, namespace: &str) -> Api<Self> {
        Api::namespaced(client, namespace)
    }
}

impl Placed for PodDisruptionBudget {
    fn api(client: kube::Client, namespace: &str) -> Api<Self> {
        Api::namespaced(client, namespace)
    }
}

impl Placed for Pod {
    fn api(client: kube::Client, namespace: &str) -> Api<Self> {
        Api::namespaced(client, namespace)
    }
}

#[test]
fn pods_of_a_dead_node_are_moved_where_nothing_can_be_written_twice() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c"])?;
    let one = setup.controller_with_pools("one")?;
    setup.wait_pools(3)?;
    let csi = one.csi();
    setup.run(csi.create_in_the_end(request("pvc-1", GIB, Some("a"), &[])))?;
    setup.bind("data", "pvc-1", names::DRIVER)?;
    setup.bind("other", "x", "csi.example.com")?;
    setup.pod("moves", "a", &["data"], true)?;
    setup.pod("alone", "a", &["data"], false)?;
    setup.pod("mixed", "a", &["data", "other"], true)?;
    setup.pod("theirs", "a", &["other"], true)?;
    setup.pod("elsewhere", "b", &["data"], true)?;
    let all = setup.pods()?;
    setup.write_from("pvc-1", "a", 2, &[])?;

    // Silent, and still heard by its peers: nothing happens.
    setup.nodes.set_away("a", true);
    let calm = Instant::now();
    setup.until("nothing happens while its peers hear it", || {
        ensure!(setup.pods()? == all && !setup.tainted("a")?, "after {:?}", calm.elapsed());
        Ok((calm.elapsed() > CALM).then_some(()))
    })?;
    // One of them has lost it, then both.
    let peers: Vec<&str> = vec!["b", "c"];
    setup.write_from("pvc-1", "a", 2, &peers)?;
    let lost = Instant::now();
    setup.until("its pod is gone", || Ok((!setup.pods()?.contains("moves")).then_some(())))?;
    println!("decided after {:?}", lost.elapsed());
    ensure!(setup.tainted("a")?, "tainted before a pod is deleted");
    setup.until("the fail-over is written down", || {
        let status = setup.volume("pvc-1")?.context("the volume")?.status.unwrap_or_default();
        Ok(status.last_fail_over.filter(|it| it.from == "a").map(|_| ()))
    })?;
    let left: BTreeSet<String> = ["alone", "mixed", "theirs", "elsewhere"].map(str::to_owned).into();
    ensure!(setup.pods()? == left, "{:?}", setup.pods()?);
    setup.until("events tell of it", || {
        let kept: BTreeSet<String> = setup.events("KeptOnFence")?.into_iter().collect();
        let told = setup.events("Fenced")? == ["a"] && setup.events("FailedOver")?.iter().any(|it| it == "moves");
        Ok((told && kept == BTreeSet::from(["alone".to_owned(), "mixed".to_owned()])).then_some(()))
    })?;

    // It comes back.
    setup.write_from("pvc-1", "b", 3, &[])?;
    setup.nodes.set_away("a", false);
    setup.until("the taint is gone", || Ok((!setup.tainted("a")?).then_some(())))?;
    ensure!(setup.pods()? == left);
    Ok(())
}

#[test]
fn nothing_is_done_when_most_nodes_fall_silent_at_once() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c"])?;
    let one = setup.controller_with_pools("one")?;
    setup.wait_pools(3)?;
    setup.run(one.csi().create_in_the_end(request("pvc-1", GIB, Some("a"), &[])))?;
    setup.bind("data", "pvc-1", names::DRIVER)?;
    setup.pod("stays", "a", &["data"], true)?;
    setup.write_from("pvc-1", "a", 2, &["b", "c"])?;
    setup.until("the parts say so", || {
        let parts = setup.parts("pvc-1")?;
        let said = parts.iter().filter(|part| part.status.as_ref().is_some_and(|it| !it.unreachable.is_empty()));
        Ok((said.count() == parts.len() - 1).then_some(()))
    })?;
    for node in ["a", "b"] {
        setup.nodes.set_away(node, true);
    }
    setup.until("it is told", || Ok((!setup.events("FailOverHeld")?.is_empty()).then_some(())))?;
    let calm = Instant::now();
    setup.until("nothing else happens", || {
        ensure!(setup.pods()?.contains("stays") && !setup.tainted("a")?, "after {:?}", calm.elapsed());
        Ok((calm.elapsed() > CALM).then_some(()))
    })?;
    // One of them is back: the other is really lost.
    setup.nodes.set_away("b", false);
    setup.until("its pod is moved", || Ok((!setup.pods()?.contains("stays")).then_some(())))
}

#[test]
fn a_successor_finishes_what_a_killed_leader_began() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c"])?;
    let one = setup.controller_with_pools("one")?;
    setup.wait_pools(3)?;
    let csi = one.csi();
    let volumes: Vec<String> = (0..5).map(|at| format!("pvc-{at}")).collect();
    for volume in &volumes {
        setup.run(csi.create_in_the_end(request(volume, GIB, Some("a"), &[])))?;
        setup.bind(volume, volume, names::DRIVER)?;
        setup.pod(volume, "a", &[volume], true)?;
        setup.write_from(volume, "a", 2, &["b", "c"])?;
    }
    setup.nodes.set_away("a", true);
    setup.until("the node is tainted", || Ok(setup.tainted("a")?.then_some(())))?;
    one.restart()?;
    setup.until("all pods are moved", || Ok(setup.pods()?.is_empty().then_some(())))?;
    // Whose pods the first one moved is not known to the second; of the others it is written down.
    ensure!(setup.tainted("a")?);
    setup.nodes.set_away("a", false);
    for volume in &volumes {
        setup.write_from(volume, "b", 3, &[])?;
    }
    setup.until("the taint is gone", || Ok((!setup.tainted("a")?).then_some(())))
}

#[test]
fn pods_of_an_engine_that_stays_down_are_evicted() -> Result<()> {
    let setup = Setup::start(&["a", "b", "c"])?;
    let config = format!("{}failOver: {{engineDownEvictAfter: 3s}}\n", setup::POOLS);
    let one = setup.controller("one", &config)?;
    setup.wait_pools(3)?;
    setup.run(one.csi().create_in_the_end(request("pvc-1", GIB, Some("a"), &[])))?;
    setup.bind("data", "pvc-1", names::DRIVER)?;
    setup.pod("moves", "a", &["data"], true)?;
    // A budget forbids the eviction of one of them, the first that is looked at.
    setup.pod("kept", "a", &["data"], true)?;
    let pods: Api<Pod> = Api::namespaced(setup.client.clone(), "default");
    let kept = Patch::Merge(json!({ "metadata": { "labels": { "app": "kept" } } }));
    setup.run(pods.patch("kept", &PatchParams::default(), &kept))?;
    let running = Patch::Merge(json!({ "status": { "phase": "Running" } }));
    setup.run(pods.patch_status("kept", &PatchParams::default(), &running))?;
    setup.make::<PodDisruptionBudget>(
        Some("default"),
        json!({
            "metadata": { "name": "kept" },
            "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "kept" } } },
        }),
    )?;
    setup.write_from("pvc-1", "a", 2, &["b", "c"])?;
    setup.nodes.set_engine_down("a", true);
    // No kubelet is there to end it: an eviction leaves the pod with a grace period that runs.
    setup.until("the pod is evicted", || {
        let pod = setup.run(pods.get_opt("moves"))?;
        Ok(pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()).then_some(()))
    })?;
    ensure!(setup.tainted("a")?);
    setup.until("it is told", || {
        Ok((setup.events("EngineDown")? == ["a"] && setup.events("KeptOnFence")? == ["kept"]).then_some(()))
    })?;
    ensure!(setup.run(pods.get("kept"))?.metadata.deletion_timestamp.is_none());
    setup.nodes.set_engine_down("a", false);
    setup.until("the taint is gone", || Ok((!setup.tainted("a")?).then_some(())))?;
    setup.until("that is told, too", || Ok((setup.events("FenceLifted")? == ["a"]).then_some(())))
}
