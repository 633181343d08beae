//! The plugin is killed while kubelet, or a sidecar, waits for its answer: they ask again, and in the end everything is done, once.

use anyhow::{Context as _, Result, ensure};

use super::Stage;
use super::basics::{RUNS_WITHIN, ask_for_size, wait_expanded};
use super::control_plane::check_undisturbed_since;
use super::deletions::wait_nothing_left;
use super::fail_over::PROVISIONER;
use super::features::{class, drop_class};
use crate::cluster::has_condition;
use crate::nodes;
use crate::plugin::{Plugin, Traces};
use crate::wait::{until, until_true, watch};
use crate::workload::{Claim, Pod};

const WRITER: &str = "replays";

/// What a step of the node's plugin leaves before it ends. All of it stays, so that it is seen however late it is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// NodeStage: it is written down what is to be attached.
    Recorded,
    /// NodeStage: it is attached, and its file system is not mounted.
    Attached,
    /// NodePublish: it is written down where to.
    Publishing,
    /// NodePublish: it is bound there.
    Bound,
    /// NodeExpand: the file system's tool runs.
    Growing,
    /// NodeExpand: the file system is larger.
    Grown,
    /// NodeUnpublish: nothing is bound any more.
    Unbound,
    /// NodeUnpublish: nor is there a directory for it.
    Untargeted,
    /// NodeUnstage: the file system is not mounted.
    Unstaged,
    /// NodeUnstage: it is detached, and its device has no name.
    Unnamed,
}

impl Mark {
    fn is_in(self, plugin: &Plugin, before: &Traces, now: &Traces) -> bool {
        match self {
            Self::Recorded => now.recorded,
            Self::Attached => now.attached,
            Self::Publishing => now.publishing,
            Self::Bound => now.bound,
            Self::Growing => plugin.runs("xfs_growfs") || now.staged > before.staged,
            Self::Grown => now.staged > before.staged,
            Self::Unbound => !now.bound,
            Self::Untargeted => !now.target,
            Self::Unstaged => now.staged.is_none(),
            Self::Unnamed => !now.named,
        }
    }
}

/// Where the plugin is killed while a pod starts, while its claim grows, and while it ends. Once in each: the two steps of a start, and of an
/// end, follow each other faster than kubelet starts the plugin again. When the first pod starts, the file system is made.
const LIVES: [(Mark, Option<Mark>, Mark); 4] = [
    (Mark::Attached, Some(Mark::Growing), Mark::Unbound),
    (Mark::Publishing, Some(Mark::Grown), Mark::Unstaged),
    (Mark::Recorded, None, Mark::Untargeted),
    (Mark::Bound, None, Mark::Unnamed),
];

/// What the sidecars ask for, around what kubelet does.
pub(super) fn plugin_killed_at_each_csi_step(stage: &Stage) -> Result<()> {
    let cluster = &stage.cluster;
    let class = class(stage, |class| {
        class["volumeBindingMode"] = "Immediate".into();
        // It grows while it is mounted: `expansion_online` says why ext4 does not.
        class["parameters"]["csi.storage.k8s.io/fstype"] = "xfs".into();
    })?;
    let claim = Claim::new("data").class(&class);
    let volume = create_under_kill(stage, &claim, "mirrorvolume")?;
    let replicas = cluster.replica_nodes(&volume)?;
    let without = cluster.workers()?.into_iter().find(|node| !replicas.contains(node));
    let without = without.context("a node without a replica")?;
    for (life, marks) in LIVES.into_iter().enumerate() {
        let node = if life % 2 == 0 { &replicas[0] } else { &without };
        live_under_kills(stage, &claim, (&volume, node), life, marks)
            .with_context(|| format!("pod {life}, on {node}, killed at {marks:?}"))?;
    }
    delete_under_kill(stage, &volume, "it is being deleted", || {
        let volume = cluster.get("mirrorvolume", "", &volume)?;
        Ok(volume.is_some_and(|volume| volume["metadata"]["deletionTimestamp"].is_string()))
    })?;
    let volume = create_under_kill(stage, &claim, "mirrorreplica")?;
    delete_under_kill(stage, &volume, "one replica is deleted", || Ok(cluster.replica_nodes(&volume)?.len() == 1))?;
    drop_class(stage)
}

/// A writer starts, perhaps grows, and ends.
fn live_under_kills(
    stage: &Stage,
    claim: &Claim,
    (volume, node): (&str, &str),
    life: usize,
    (start, grow, end): (Mark, Option<Mark>, Mark),
) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let pod = Pod::recorder(WRITER, claim, &stage.collector).on(node).object(cluster, namespace);
    kill_plugin(stage, (volume, node), start, || cluster.apply(&[pod]))?;
    cluster.wait_running(namespace, WRITER, RUNS_WITHIN)?;
    stage.collector.wait_writing(WRITER, life, RUNS_WITHIN)?;
    stage.collector.check_nothing_lost(WRITER)?;
    if let Some(mark) = grow {
        let gib = life as u64 + 2;
        let size = format!("{gib}Gi");
        kill_plugin(stage, (volume, node), mark, || grow_at_once(stage, &size))?;
        wait_expanded(stage, WRITER, &size, gib * (900 << 10))?;
    }
    check_undisturbed_since(stage, WRITER, life)?;
    let plugin = kill_plugin(stage, (volume, node), end, || {
        cluster.kubectl(&["delete", "pod", "-n", namespace, WRITER, "--wait=false"]).map(|_| ())
    })?;
    cluster.wait_gone("pod", namespace, WRITER, RUNS_WITHIN)?;
    let mut last = Traces::default();
    until_true(RUNS_WITHIN, "the node has nothing of the volume that kubelet asked for", || {
        last = plugin.look()?;
        Ok(last == Traces::default())
    })
    .with_context(|| format!("{last:?}"))
}

/// Kubelet looks at the claims of a pod that was changed, else once a minute.
fn grow_at_once(stage: &Stage, size: &str) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    ask_for_size(stage, size)?;
    until_true(RUNS_WITHIN, &format!("the volume has {size}, and its file system has not"), || {
        let claim = cluster.get("pvc", namespace, "data")?.context("the claim")?;
        Ok(has_condition(&claim, "FileSystemResizePending", "True") || claim["status"]["capacity"]["storage"] == size)
    })?;
    cluster.kubectl(&["annotate", "pod", "-n", namespace, WRITER, "--overwrite", &format!("size={size}")]).map(|_| ())
}

/// Has kubelet ask a node's plugin for something, and kills it at this mark.
fn kill_plugin(
    stage: &Stage,
    (volume, node): (&str, &str),
    mark: Mark,
    ask: impl FnOnce() -> Result<()> + Send,
) -> Result<Plugin> {
    // A container that ended once is started again at once, one that ends again and again later and later; that of another pod is new.
    stage.cluster.delete_pod_of("node", node)?;
    let plugin = until(RUNS_WITHIN, &format!("the plugin runs on {node}"), || Plugin::find(node, volume).map(Some))?;
    let before = plugin.look()?;
    let mut now = before.clone();
    std::thread::scope(|scope| {
        let asked = scope.spawn(ask);
        let seen = watch(RUNS_WITHIN, &format!("mark {mark:?} of a step on {node}"), || {
            now = plugin.look()?;
            Ok(mark.is_in(&plugin, &before, &now).then_some(()))
        });
        let killed = seen.and_then(|()| plugin.kill());
        asked.join().expect("does not panic")?;
        killed
    })
    .with_context(|| format!("seen at first: {before:?}, at last: {now:?}"))?;
    println!("    killed at {mark:?}: {now:?}");
    Ok(plugin)
}

/// Makes a claim, and kills the controller's plugin when there is an object of this kind, which the nodes have yet to see.
fn create_under_kill(stage: &Stage, claim: &Claim, kind: &str) -> Result<String> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let ask = || cluster.apply(&[claim.object(namespace)]);
    kill_controller(stage, &cluster.workers()?, &format!("a {kind} is made"), ask, || {
        Ok(!cluster.list(kind, "")?.is_empty())
    })?;
    let volume = cluster.wait_bound(namespace, &claim.name, RUNS_WITHIN)?;
    let made = cluster.list("mirrorvolume", "")?.len();
    ensure!(made == 1, "{made} volumes were made for one claim");
    Ok(volume)
}

/// Deletes the claim, and kills the controller's plugin at a mark that comes before all replicas are deleted.
fn delete_under_kill(stage: &Stage, volume: &str, what: &str, mark: impl FnMut() -> Result<bool>) -> Result<()> {
    let (cluster, namespace) = (&stage.cluster, stage.namespace.as_str());
    let workers = cluster.workers()?;
    let held = cluster.replica_nodes(volume)?.split_off(1);
    let ask = || cluster.kubectl(&["delete", "pvc", "-n", namespace, "data", "--wait=false"]).map(|_| ());
    kill_controller(stage, &held, what, ask, mark)?;
    cluster.wait_gone("pvc", namespace, "data", RUNS_WITHIN)?;
    cluster.wait_gone("pv", "", volume, RUNS_WITHIN)?;
    let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
    wait_nothing_left(stage, volume, &workers)
}

/// Has the provisioner ask the controller's plugin for something, and kills that at this mark. The agents of the nodes in `held` stand still
/// until then: the step cannot end before.
fn kill_controller(
    stage: &Stage,
    held: &[String],
    what: &str,
    ask: impl FnOnce() -> Result<()>,
    mark: impl FnMut() -> Result<bool>,
) -> Result<()> {
    // One that is killed for the second time is started again later: the provisioner of the other pod takes over meanwhile.
    let leader = until(RUNS_WITHIN, "a provisioner leads", || stage.cluster.leader_node(PROVISIONER).map(Some))?;
    let plugin = until(RUNS_WITHIN, &format!("the controller runs on {leader}"), || {
        nodes::process_of(&leader, "lockstep-controller", "run").map(Some)
    })?;
    let stopped = held.iter().map(|node| nodes::stop_program(node, "lockstep-node")).collect::<Result<Vec<_>>>()?;
    ask()?;
    until_true(RUNS_WITHIN, what, mark)?;
    nodes::kill_process(plugin)?;
    drop(stopped);
    println!("    the controller on {leader} killed when {what}");
    Ok(())
}
