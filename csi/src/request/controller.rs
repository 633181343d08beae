//! Requests of the Controller service.

use lockstep_proto::csi::v1 as proto;

use super::capability::{self, offered};
use super::field::{check_text, known_id, parse_id_text, parse_map, parse_topology};
use super::{Refusal, token};
use crate::capacity::{self, CapacityRange};
use crate::controller_port::{CapacityQuery, Claim, Confirm, CreateVolume, Page, Parameters};
use crate::topology::Accessibility;
use crate::volume::{NameError, VolumeId, VolumeName};

/// Begins the names of parameters of a StorageClass that speak to the provisioner, or that it adds for people. It takes the former
/// away when it asks for a volume, and leaves them when it asks for capacity.
const OF_PROVISIONER: &str = "csi.storage.k8s.io/";
const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";
const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";

pub(crate) fn parse_create(wire: proto::CreateVolumeRequest) -> Result<CreateVolume, Refusal> {
    let name = VolumeName::parse(&wire.name).map_err(|error| match error {
        NameError::Empty => Refusal::Missing { field: "name" },
        NameError::TooLong { .. } | NameError::ControlCharacter => {
            Refusal::Wrong { field: "name", reason: error.to_string() }
        }
    })?;
    let capabilities = capability::parse_all(wire.volume_capabilities)?;
    let mut parameters = parse_map("parameters", wire.parameters)?;
    let mutable_parameters = parse_map("mutable_parameters", wire.mutable_parameters)?;
    let accessibility = wire.accessibility_requirements.map(parse_accessibility).transpose()?;
    let range = parse_range(wire.capacity_range)?;
    if wire.volume_content_source.is_some() {
        let reason = "volume_content_source: clones and snapshots are not offered by this version".to_owned();
        return Err(Refusal::NotOffered { reason });
    }
    let capabilities = offered(false, capabilities)?;
    let claim = take_claim(&mut parameters);
    Ok(CreateVolume {
        id: VolumeId::of_name(&name),
        name,
        size_bytes: capacity::new_size(range, &capabilities)?,
        range,
        capabilities,
        parameters,
        mutable_parameters,
        accessibility,
        claim,
    })
}

/// `None`: a volume that cannot be ours, which is as good as deleted.
pub(crate) fn parse_delete(wire: &proto::DeleteVolumeRequest) -> Result<Option<VolumeId>, Refusal> {
    if wire.volume_id.is_empty() {
        return Err(Refusal::Missing { field: "volume_id" });
    }
    Ok(VolumeId::parse(&wire.volume_id))
}

/// A request to grow.
pub(crate) struct Expand {
    pub id: VolumeId,
    pub range: CapacityRange,
    /// A file system has to grow afterwards, or may have to: the caller does not say how the volume is used.
    pub node_expansion_required: bool,
}

pub(crate) fn parse_expand(wire: proto::ControllerExpandVolumeRequest) -> Result<Expand, Refusal> {
    let id = parse_id_text(&wire.volume_id)?;
    let range = parse_range(wire.capacity_range)?.ok_or(Refusal::Missing { field: "capacity_range" })?;
    let capability = wire
        .volume_capability
        .map(|one| capability::parse("volume_capability", Some(one)).and_then(|parsed| offered(true, parsed)))
        .transpose()?;
    Ok(Expand {
        id: known_id(id)?,
        range,
        node_expansion_required: capability.is_none_or(|capability| capability.mount().is_some()),
    })
}

pub(crate) fn parse_modify(wire: proto::ControllerModifyVolumeRequest) -> Result<(VolumeId, Parameters), Refusal> {
    let id = parse_id_text(&wire.volume_id)?;
    let mutable_parameters = parse_map("mutable_parameters", wire.mutable_parameters)?;
    Ok((known_id(id)?, mutable_parameters))
}

pub(crate) fn parse_capacity(wire: proto::GetCapacityRequest) -> Result<CapacityQuery, Refusal> {
    let mut parameters = parse_map("parameters", wire.parameters)?;
    take_claim(&mut parameters);
    let topology = wire.accessible_topology.map(|one| parse_topology("accessible_topology", one)).transpose()?;
    let capabilities = if wire.volume_capabilities.is_empty() {
        Vec::new()
    } else {
        offered(false, capability::parse_all(wire.volume_capabilities)?)?
    };
    Ok(CapacityQuery { parameters, capabilities, topology })
}

pub(crate) fn parse_volume_id(text: &str) -> Result<VolumeId, Refusal> {
    parse_id_text(text).and_then(known_id)
}

pub(crate) fn parse_page(entries_max: i32, starting_token: &str) -> Result<Page, Refusal> {
    check_text("starting_token", starting_token)?;
    token::parse_page(entries_max, starting_token)
}

/// A question whether a volume can be used so, and why not where no volume of ours could: the specification wants that said after
/// it is known that the volume exists, and not as an error.
pub(crate) enum Question {
    Ask(Confirm),
    NotOffered { id: VolumeId, reason: String },
}

pub(crate) fn parse_confirm(wire: &proto::ValidateVolumeCapabilitiesRequest) -> Result<Question, Refusal> {
    let id = parse_id_text(&wire.volume_id)?;
    let capabilities = capability::parse_all(wire.volume_capabilities.clone())?;
    let context = parse_map("volume_context", wire.volume_context.clone())?;
    let mut parameters = parse_map("parameters", wire.parameters.clone())?;
    let mutable_parameters = parse_map("mutable_parameters", wire.mutable_parameters.clone())?;
    let id = known_id(id)?;
    take_claim(&mut parameters);
    Ok(match capabilities {
        Ok(capabilities) => Question::Ask(Confirm { id, capabilities, context, parameters, mutable_parameters }),
        Err(not_offered) => Question::NotOffered { id, reason: not_offered.to_string() },
    })
}

fn parse_range(wire: Option<proto::CapacityRange>) -> Result<Option<CapacityRange>, Refusal> {
    let Some(wire) = wire else { return Ok(None) };
    CapacityRange::parse(wire.required_bytes, wire.limit_bytes)
        .map_err(|error| Refusal::NotOffered { reason: error.to_string() })
}

fn parse_accessibility(wire: proto::TopologyRequirement) -> Result<Accessibility, Refusal> {
    let parse = |topologies: Vec<proto::Topology>| {
        topologies
            .into_iter()
            .map(|one| parse_topology("accessibility_requirements", one))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Accessibility { requisite: parse(wire.requisite)?, preferred: parse(wire.preferred)? })
}

fn take_claim(parameters: &mut Parameters) -> Option<Claim> {
    let name = parameters.remove(CLAIM_NAME);
    let namespace = parameters.remove(CLAIM_NAMESPACE);
    parameters.retain(|name, _| !name.starts_with(OF_PROVISIONER));
    Some(Claim { name: name?, namespace: namespace? })
}
