//! Who the plugin is, and what it says that it can do.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use lockstep_proto::csi::v1 as proto;
use proto::controller_service_capability::rpc::Type as ControllerRpc;
use proto::node_service_capability::rpc::Type as NodeRpc;
use proto::plugin_capability::service::Type as Service;

use crate::Target;
use crate::expect::done;

/// The same whenever it is asked.
pub async fn t31_the_node_says_where_it_is(target: &Target) -> Result<()> {
    let ask = || async { done("info", target.node().node_get_info(proto::NodeGetInfoRequest::default()).await) };
    let found = ask().await?;
    ensure!((1..=192).contains(&found.node_id.len()), "an id of {} bytes", found.node_id.len());
    ensure!(found.max_volumes_per_node >= 0, "{}", found.max_volumes_per_node);
    let topology = found.accessible_topology.clone().context("a node has a place")?;
    ensure!(!topology.segments.is_empty(), "which is named");
    ensure!(found == ask().await?, "the answer does not change");
    Ok(())
}

/// And what it is: name and version.
pub async fn t32_a_plugin_that_is_ready_says_so(target: &Target) -> Result<()> {
    for mut identity in target.identities() {
        let found = done("probe", identity.probe(proto::ProbeRequest {}).await)?;
        ensure!(found.ready == Some(true), "{found:?}");
        let found = done("info", identity.get_plugin_info(proto::GetPluginInfoRequest {}).await)?;
        ensure!(found.name == target.driver && !found.vendor_version.is_empty(), "{found:?}");
    }
    Ok(())
}

/// The lists, to the letter: Kubernetes relies on each entry, and on the absence of the others.
pub async fn t33_only_what_works_is_advertised(target: &Target) -> Result<()> {
    for mut identity in target.identities() {
        let found = done("plugin", identity.get_plugin_capabilities(proto::GetPluginCapabilitiesRequest {}).await)?;
        let mut services = BTreeSet::new();
        let mut expansions = Vec::new();
        for capability in found.capabilities {
            match capability.r#type.context("a capability is of a kind")? {
                proto::plugin_capability::Type::Service(service) => services.insert(service.r#type()),
                proto::plugin_capability::Type::VolumeExpansion(expansion) => {
                    expansions.push(expansion.r#type());
                    true
                }
            };
        }
        let wanted = BTreeSet::from([Service::ControllerService, Service::VolumeAccessibilityConstraints]);
        ensure!(services == wanted, "{services:?}");
        ensure!(expansions == [proto::plugin_capability::volume_expansion::Type::Online], "{expansions:?}");
    }
    let request = proto::ControllerGetCapabilitiesRequest {};
    let found = done("controller", target.controller().controller_get_capabilities(request).await)?;
    let found: BTreeSet<ControllerRpc> = found
        .capabilities
        .into_iter()
        .map(|it| match it.r#type {
            Some(proto::controller_service_capability::Type::Rpc(rpc)) => rpc.r#type(),
            None => ControllerRpc::Unknown,
        })
        .collect();
    let wanted = BTreeSet::from([
        ControllerRpc::CreateDeleteVolume,
        ControllerRpc::ListVolumes,
        ControllerRpc::GetCapacity,
        ControllerRpc::ExpandVolume,
        ControllerRpc::GetVolume,
        ControllerRpc::ModifyVolume,
        ControllerRpc::SingleNodeMultiWriter,
        ControllerRpc::GetVolumeHealth,
        ControllerRpc::ListVolumeHealth,
    ]);
    ensure!(found == wanted, "{found:?}");
    let request = proto::NodeGetCapabilitiesRequest {};
    let found = done("node", target.node().node_get_capabilities(request).await)?;
    let found: BTreeSet<NodeRpc> = found
        .capabilities
        .into_iter()
        .map(|it| match it.r#type {
            Some(proto::node_service_capability::Type::Rpc(rpc)) => rpc.r#type(),
            None => NodeRpc::Unknown,
        })
        .collect();
    let wanted = BTreeSet::from([
        NodeRpc::StageUnstageVolume,
        NodeRpc::GetVolumeStats,
        NodeRpc::ExpandVolume,
        NodeRpc::SingleNodeMultiWriter,
        NodeRpc::GetVolumeHealth,
        NodeRpc::GetStorageHealth,
    ]);
    ensure!(found == wanted, "{found:?}");
    Ok(())
}
