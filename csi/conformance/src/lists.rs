//! Lists, in pages.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use lockstep_proto::csi::v1 as proto;
use tonic::Code;

use crate::Target;
use crate::expect::{done, refused};
use crate::request::ext4;

/// A token of somebody else makes the caller begin anew; a negative number is simply wrong.
pub async fn t16_tokens_of_others_are_aborted(target: &Target) -> Result<()> {
    let mut controller = target.controller();
    for (max_entries, token, code) in
        [(0, "invalid-token", Code::Aborted), (1, "../..", Code::Aborted), (-1, "", Code::InvalidArgument)]
    {
        let starting_token = token.to_owned();
        let page = proto::ListVolumesRequest { max_entries, starting_token: starting_token.clone() };
        refused(token, code, controller.list_volumes(page).await)?;
        let page = proto::ControllerListVolumeHealthRequest { max_entries, starting_token, ..Default::default() };
        refused(token, code, controller.controller_list_volume_health(page).await)?;
    }
    Ok(())
}

/// Every volume is listed once, though the last one of each page is deleted before the next is asked for.
pub async fn t16_a_page_goes_on_after_its_last_volume_was_deleted(target: &Target) -> Result<()> {
    let mut left = BTreeSet::new();
    for _ in 0..5 {
        left.insert(target.make("t16", &ext4()).await?.id);
    }
    ensure!(left.is_subset(&target.ids().await?.into_iter().collect()), "a new volume is listed");
    let mut token = String::new();
    let mut seen = Vec::new();
    loop {
        let page = proto::ListVolumesRequest { max_entries: 2, starting_token: token };
        let listed = done("list", target.controller().list_volumes(page).await)?;
        ensure!(listed.entries.len() <= 2, "{} volumes on a page of two", listed.entries.len());
        let ids: Vec<String> = listed
            .entries
            .into_iter()
            .map(|entry| Ok(entry.volume.context("a volume in each entry")?.volume_id))
            .collect::<Result<_>>()?;
        if let Some(last) = ids.last().filter(|last| left.remove(*last)) {
            done("delete", target.controller().delete_volume(crate::request::delete(last)).await)?;
        }
        seen.extend(ids);
        token = listed.next_token;
        if token.is_empty() {
            break;
        }
    }
    let distinct: BTreeSet<&String> = seen.iter().collect();
    ensure!(distinct.len() == seen.len(), "each volume is listed once: {seen:?}");
    ensure!(left.iter().all(|id| distinct.contains(id)), "no volume is missing: {seen:?}");
    for id in left {
        done("delete", target.controller().delete_volume(crate::request::delete(&id)).await)?;
    }
    Ok(())
}

/// Of every volume it can be asked, by the controller and by the node that tries to use it; and what is listed has something wrong.
pub async fn t20_health_is_known_of_every_volume(target: &Target) -> Result<()> {
    let made = target.make("t20", &ext4()).await?;
    let query = proto::ControllerGetVolumeHealthRequest { volume_id: made.id.clone(), ..Default::default() };
    let found = done("health", target.controller().controller_get_volume_health(query).await)?;
    ensure!(found.volume_health.context("health")?.volume_id == made.id, "it is of this volume");
    target.stage(&made).await?;
    let query = proto::NodeGetVolumeHealthRequest {
        volume_id: made.id.clone(),
        staging_target_path: crate::request::text(&made.staging_path(target)),
        ..Default::default()
    };
    let found = done("health", target.node().node_get_volume_health(query).await)?;
    ensure!(found.volume_health.context("health")?.volume_id == made.id, "it is of this volume");
    let page = proto::ControllerListVolumeHealthRequest::default();
    let listed = done("health", target.controller().controller_list_volume_health(page).await)?;
    ensure!(listed.entries.iter().all(|entry| !entry.health_statuses.is_empty()), "only what is wrong is listed");
    done("storage", target.node().node_get_storage_health(proto::NodeGetStorageHealthRequest::default()).await)?;
    target.finish(&made).await
}
