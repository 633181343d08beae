//! A node's pool is emptied, and gets another disk.
//!
//! The controller moves replicas; here it is only asked to, and watched. What is left to decide is whether a pool is empty.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::ResourceExt;
use lockstep_api::{DiskState, MirrorReplica, MirrorVolume, PoolStorage, ReplicaRole};
use serde::Serialize;
use serde_json::{Value, json};

use crate::actions::patch_pool;
use crate::args::{Output, PoolDrain, PoolReplace};
use crate::cluster::Cluster;

/// How often it is looked how far a drain is: nodes tell progress every 10 s.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// So often in a row the API server may not answer: a minute. The eviction goes on without whoever watches.
const MISSES_MAX: u32 = 30;

/// Volumes that one line names.
const NAMED_MAX: usize = 5;

/// What a pool still holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Progress {
    pub node: String,
    /// Whether its replicas are being moved elsewhere.
    pub evicting: bool,
    pub left: Vec<Left>,
    /// Volumes of which the node votes, without data in its pool.
    pub votes: Vec<String>,
}

/// A replica that is still there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Left {
    pub volume: String,
    /// What is done about it.
    pub step: Step,
    /// The node that gets a replica instead, once one was chosen.
    pub to: Option<String>,
    /// How much of that is there.
    pub percent: Option<i64>,
}

/// How far one replica is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Step {
    /// No other node was chosen.
    Waiting,
    /// Another one is filled.
    Filling,
    /// The volume has what it wants elsewhere: this one is taken out.
    Leaving,
}

/// How far the pool of `node` is from being empty.
fn plan_progress(node: &str, evicting: bool, volumes: &[MirrorVolume], replicas: &[MirrorReplica]) -> Progress {
    let mut here: Vec<&MirrorReplica> = replicas.iter().filter(|part| part.spec.node_name == node).collect();
    here.sort_by(|a, b| a.spec.volume.cmp(&b.spec.volume));
    let holding = here.iter().filter(|part| holds_data(part)).map(|part| left(part, volumes, replicas)).collect();
    let votes = here.iter().filter(|part| part.spec.role == ReplicaRole::TieBreaker && !holds_data(part));
    let votes = votes.map(|part| part.spec.volume.clone()).collect();
    Progress { node: node.to_owned(), evicting, left: holding, votes }
}

/// Whether a part is in its node's pool. A vote is kept beside it; one that was a replica's moves there, and says so until it has.
fn holds_data(part: &MirrorReplica) -> bool {
    let status = part.status.clone().unwrap_or_default();
    match part.spec.role {
        ReplicaRole::Replica => true,
        ReplicaRole::TieBreaker => {
            !matches!(status.disk, None | Some(DiskState::Diskless)) || !status.message.is_empty()
        }
        ReplicaRole::Attachment => false,
    }
}

fn left(part: &MirrorReplica, volumes: &[MirrorVolume], replicas: &[MirrorReplica]) -> Left {
    let volume = part.spec.volume.clone();
    let wanted = volumes.iter().find(|it| it.name_any() == volume).map_or(usize::MAX, |it| it.spec.replicas.into());
    let others: Vec<&MirrorReplica> = replicas
        .iter()
        .filter(|other| other.spec.volume == volume && other.spec.node_name != part.spec.node_name)
        .filter(|other| other.spec.role == ReplicaRole::Replica && other.metadata.deletion_timestamp.is_none())
        .collect();
    let disk = |other: &MirrorReplica| other.status.as_ref().and_then(|status| status.disk);
    let good = others.iter().filter(|other| disk(other) == Some(DiskState::UpToDate)).count();
    let goes = part.metadata.deletion_timestamp.is_some() || part.spec.role != ReplicaRole::Replica || good >= wanted;
    let is_filled = |other: &&&MirrorReplica| !matches!(disk(other), Some(DiskState::UpToDate | DiskState::Failed));
    match others.iter().find(is_filled) {
        _ if goes => Left { volume, step: Step::Leaving, to: None, percent: None },
        None => Left { volume, step: Step::Waiting, to: None, percent: None },
        Some(other) => {
            let percent = other.status.as_ref().and_then(|status| status.resync.as_ref()?.percent());
            Left { volume, step: Step::Filling, to: Some(other.spec.node_name.clone()), percent }
        }
    }
}

/// One line for people.
pub(crate) fn line(progress: &Progress) -> String {
    let (node, left) = (&progress.node, &progress.left);
    if left.is_empty() {
        let votes = match progress.votes.len() {
            0 => String::new(),
            count => format!("; {count} votes stay, which are not in the pool"),
        };
        return format!("node {node}: no replica is left{votes}");
    }
    let named: Vec<String> = left.iter().take(NAMED_MAX).map(show_left).collect();
    let more = match left.len() - named.len() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("node {node}: {} left: {}{more}", left.len(), named.join(", "))
}

fn show_left(left: &Left) -> String {
    let to = left.to.as_deref().unwrap_or("?");
    match (left.step, left.percent) {
        (Step::Waiting, _) => format!("{} (no other node yet)", left.volume),
        (Step::Filling, None) => format!("{} (to {to})", left.volume),
        (Step::Filling, Some(percent)) => format!("{} (to {to}, {percent} %)", left.volume),
        (Step::Leaving, _) => format!("{} (in sync elsewhere)", left.volume),
    }
}

/// Empties a pool, and shows how far that is.
pub(crate) async fn drain(cluster: &Cluster, drain: &PoolDrain, output: Output) -> Result<()> {
    let node = drain.name.as_str();
    patch_pool(cluster, node, json!({"evict": true})).await?;
    let mut progress = look(cluster, node).await?;
    if drain.no_wait || progress.left.is_empty() {
        return print_end(output, &progress);
    }
    eprintln!("node {node}: its replicas are moved elsewhere. Ctrl-C ends only the watching");
    eprintln!("to stop it: kubectl lockstep evict {node} --undo");
    let mut said = String::new();
    let mut misses = 0;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    while !progress.left.is_empty() {
        let text = line(&progress);
        if text != said {
            match output {
                Output::Table => println!("{text}"),
                // Standard output is for the one JSON value.
                Output::Json => eprintln!("{text}"),
            }
            said = text;
        }
        tick.tick().await;
        match look(cluster, node).await {
            Ok(seen) if !seen.evicting => bail!("node {node}: somebody undid the eviction; {}", line(&seen)),
            Ok(seen) => (progress, misses) = (seen, 0),
            Err(error) if misses >= MISSES_MAX => return Err(error.context("the eviction goes on, unwatched")),
            Err(_) => misses += 1,
        }
    }
    print_end(output, &progress)
}

fn print_end(output: Output, progress: &Progress) -> Result<()> {
    output.print(progress, |progress| {
        let (line, node) = (line(progress), &progress.node);
        match progress.left.is_empty() {
            true => format!(
                "{line}\nanother disk: kubectl lockstep pool replace {node} --device DEVICE
the same again: kubectl lockstep evict {node} --undo"
            ),
            false => line,
        }
    })
}

async fn look(cluster: &Cluster, node: &str) -> Result<Progress> {
    let pool = cluster.pool(node).await?;
    Ok(plan_progress(node, pool.spec.evict, &cluster.all_volumes().await?, &cluster.replicas(None).await?))
}

/// What a pool still has, and whose: why its storage is not changed now.
fn plan_refusal(node: &str, volumes: &[MirrorVolume], replicas: &[MirrorReplica]) -> Option<String> {
    let parts = replicas.iter().filter(|part| part.spec.node_name == node && holds_data(part));
    // A placement is written down before the part is made.
    let placed = volumes.iter().filter(|volume| {
        let mut placement = volume.status.iter().flat_map(|status| &status.placement);
        placement.any(|placed| placed.node == node && placed.role == ReplicaRole::Replica)
    });
    let parts = parts.map(|part| part.spec.volume.clone());
    let held: BTreeSet<String> = parts.chain(placed.map(ResourceExt::name_any)).collect();
    if held.is_empty() {
        return None;
    }
    let names = Vec::from_iter(held).join(", ");
    Some(format!(
        "the pool of node {node} holds replicas of {names}: empty it first (kubectl lockstep pool drain {node})"
    ))
}

async fn refusal(cluster: &Cluster, node: &str) -> Result<Option<String>> {
    Ok(plan_refusal(node, &cluster.all_volumes().await?, &cluster.replicas(None).await?))
}

/// A pool that was given other storage.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Replaced {
    node: String,
    storage: PoolStorage,
    /// What it was before.
    before: Option<PoolStorage>,
}

/// Gives an empty pool another disk or directory, and lets replicas come again.
pub(crate) async fn replace(cluster: &Cluster, replace: &PoolReplace, output: Output) -> Result<()> {
    let node = replace.name.as_str();
    let storage = parse_storage(replace.storage.directory.as_deref(), replace.storage.device.as_deref())?;
    let pool = cluster.pool(node).await?;
    if let Some(refused) = refusal(cluster, node).await? {
        bail!(refused);
    }
    if !pool.spec.evict {
        // From now on none is placed there; what was placed before is seen by the second look.
        patch_pool(cluster, node, json!({"evict": true})).await?;
        if let Some(refused) = refusal(cluster, node).await? {
            patch_pool(cluster, node, json!({"evict": false})).await?;
            bail!(refused);
        }
    }
    patch_pool(cluster, node, change(&storage)).await?;
    let replaced = Replaced { node: node.to_owned(), storage, before: pool.spec.storage };
    output.print(&replaced, show_replaced)
}

/// The storage that was asked for: one of both, and absolute.
fn parse_storage(directory: Option<&str>, device: Option<&str>) -> Result<PoolStorage> {
    let path = directory.or(device).context("either --directory or --device")?;
    if !path.starts_with('/') {
        bail!("{path:?} is not an absolute path on the node");
    }
    Ok(PoolStorage { directory: directory.map(str::to_owned), device: device.map(str::to_owned) })
}

/// What is changed of a MirrorPool. What the storage is not has to be taken away: a merge keeps it.
fn change(storage: &PoolStorage) -> Value {
    json!({ "evict": false, "storage": { "directory": storage.directory, "device": storage.device } })
}

fn show_replaced(replaced: &Replaced) -> String {
    let (node, storage) = (&replaced.node, &replaced.storage);
    let (kind, path) = match (&storage.device, &storage.directory) {
        (Some(device), _) => ("device", device.as_str()),
        (None, directory) => ("directory", directory.as_deref().unwrap_or_default()),
    };
    let unseen = match kind {
        "directory" => "\nPods see only directories that the values name: pools, or extraPoolDirectories.",
        _ => "",
    };
    format!(
        "node {node}: its pool is {kind} {path}, and takes replicas as soon as it is ready (kubectl lockstep node {node})
The chart's values change no MirrorPool that exists, so this stays. So that one made anew is the same, set in the values:
  pools: {{nodes: {{{node}: {{{kind}: {path}}}}}}}{unseen}"
    )
}

#[cfg(test)]
mod tests;
