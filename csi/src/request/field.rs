//! Single fields of any request.

use std::collections::BTreeMap;

use super::Refusal;
use crate::path::AbsolutePath;
use crate::topology::Topology;
use crate::volume::VolumeId;
use lockstep_proto::csi::v1 as proto;

/// Longest string that is not a path, in bytes (general size limit of the specification).
const STRING_BYTES_MAX: usize = 128;

/// Largest map, keys and values together, in bytes (general size limit of the specification). A list of mount flags is held to it too.
pub(crate) const MAP_BYTES_MAX: usize = 4096;

/// Bytes of a map as the specification counts them.
pub(crate) fn map_bytes(map: &BTreeMap<String, String>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.len()).sum()
}

pub(super) fn check_length(field: &'static str, bytes: usize, bytes_max: usize) -> Result<(), Refusal> {
    if bytes > bytes_max { Err(Refusal::TooLong { field, bytes, bytes_max }) } else { Ok(()) }
}

pub(super) fn check_text(field: &'static str, text: &str) -> Result<(), Refusal> {
    check_length(field, text.len(), STRING_BYTES_MAX)
}

/// A map within its limit. An empty one is an absent one.
pub(super) fn parse_map(
    field: &'static str,
    map: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    check_length(field, map_bytes(&map), MAP_BYTES_MAX)?;
    Ok(map)
}

/// The text of a volume's id, present and within its limit. Whether it is an id of ours is asked last: [`known_id`].
pub(super) fn parse_id_text(text: &str) -> Result<&str, Refusal> {
    if text.is_empty() {
        return Err(Refusal::Missing { field: "volume_id" });
    }
    check_text("volume_id", text)?;
    Ok(text)
}

/// The id. One that cannot be ours is of a volume that does not exist.
pub(super) fn known_id(text: &str) -> Result<VolumeId, Refusal> {
    VolumeId::parse(text).ok_or(Refusal::UnknownVolume)
}

pub(super) fn parse_path(field: &'static str, text: &str) -> Result<AbsolutePath, Refusal> {
    if text.is_empty() {
        return Err(Refusal::Missing { field });
    }
    AbsolutePath::parse(text).map_err(|error| Refusal::Wrong { field, reason: error.to_string() })
}

pub(super) fn parse_optional_path(field: &'static str, text: &str) -> Result<Option<AbsolutePath>, Refusal> {
    if text.is_empty() { Ok(None) } else { parse_path(field, text).map(Some) }
}

pub(super) fn parse_topology(field: &'static str, topology: proto::Topology) -> Result<Topology, Refusal> {
    let segments = parse_map(field, topology.segments)?;
    if segments.is_empty() {
        return Err(Refusal::Wrong { field, reason: "holds a topology without segments".to_owned() });
    }
    Ok(Topology { segments })
}
