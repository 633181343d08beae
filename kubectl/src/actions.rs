//! What is done by hand.

use anyhow::{Context as _, Result, bail};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::args::{Drain, Evict, Force};
use crate::cluster::Cluster;
use crate::{live, view};

pub(crate) async fn patch_pool(cluster: &Cluster, node: &str, spec: serde_json::Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": spec }));
    match cluster.pools().patch(node, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => bail!("there is no MirrorPool of a node {node:?}"),
        Err(error) => Err(error).with_context(|| format!("change the MirrorPool of node {node:?}")),
    }
}

pub(crate) async fn drain(cluster: &Cluster, drain: &Drain) -> Result<()> {
    let node = &drain.name;
    if !drain.dry_run {
        patch_pool(cluster, node, json!({"cordoned": true})).await?;
        println!("node {node}: no new replicas are placed there");
    }
    let last = view::last_copies(cluster, node).await?;
    if !last.is_empty() {
        bail!(
            "node {node} holds the last up-to-date copy of {}: wait until their resync has ended (kubectl lockstep volume NAME)",
            last.join(", ")
        );
    }
    println!("node {node}: every volume there has an up-to-date copy elsewhere");
    Ok(())
}

pub(crate) async fn undrain(cluster: &Cluster, node: &str) -> Result<()> {
    patch_pool(cluster, node, json!({"cordoned": false, "evict": false})).await?;
    println!("node {node}: new replicas may be placed there");
    Ok(())
}

pub(crate) async fn evict(cluster: &Cluster, evict: &Evict) -> Result<()> {
    let node = &evict.name;
    patch_pool(cluster, node, json!({"evict": !evict.undo})).await?;
    match evict.undo {
        true => println!("node {node}: its replicas stay"),
        false => {
            println!(
                "node {node}: its replicas are moved elsewhere (kubectl lockstep pool drain {node} shows how far it is)"
            )
        }
    }
    Ok(())
}

pub(crate) async fn force(cluster: &Cluster, force: &Force) -> Result<()> {
    let (volume, node) = (force.volume.as_str(), force.on.as_str());
    cluster.volume(volume).await?;
    live::lockstep(cluster, node, &["volume", "force", volume, "--i-accept-data-loss"]).await?;
    println!("volume {volume}: goes on with the replica of node {node} alone");
    Ok(())
}
