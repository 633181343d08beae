//! How a volume is to be used, from the wire.

use lockstep_proto::csi::v1 as proto;
use proto::volume_capability::AccessType;
use proto::volume_capability::access_mode::Mode;

use super::Refusal;
use super::field::{MAP_BYTES_MAX, check_length, check_text};
use crate::capability::{Access, AccessMode, Capability, Filesystem, Mount, MountFlags, MultiNodeFilesystem};

/// A way to use a volume that is well formed and that no volume of ours can be used in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOffered {
    #[error(transparent)]
    MultiNodeFilesystem(#[from] MultiNodeFilesystem),
    #[error("file system {name:?} is not offered; ext4 and xfs are")]
    Filesystem { name: String },
}

/// A parsed capability, or why it is well formed and still not possible.
type Parsed = Result<Capability, NotOffered>;

/// Parses one that is required.
///
/// # Errors
/// It is not well formed. That it is not offered is no error here.
pub(super) fn parse(field: &'static str, wire: Option<proto::VolumeCapability>) -> Result<Parsed, Refusal> {
    let Some(wire) = wire else { return Err(Refusal::Missing { field }) };
    let mode = parse_mode(wire.access_mode)?;
    let access = match wire.access_type {
        None => return Err(Refusal::Missing { field: "volume_capability.access_type" }),
        Some(AccessType::Block(_)) => Access::Block,
        Some(AccessType::Mount(mount)) => match parse_mount(mount)? {
            Ok(mount) => Access::Mount(mount),
            Err(not_offered) => return Ok(Err(not_offered)),
        },
    };
    Ok(Capability::new(access, mode).map_err(NotOffered::from))
}

/// Parses a list, of which there has to be one.
///
/// # Errors
/// As for [`parse`].
pub(super) fn parse_all(wire: Vec<proto::VolumeCapability>) -> Result<Result<Vec<Capability>, NotOffered>, Refusal> {
    const FIELD: &str = "volume_capabilities";
    if wire.is_empty() {
        return Err(Refusal::Missing { field: FIELD });
    }
    // All have to be well formed before one that is not offered is spoken of.
    let parsed: Vec<Parsed> = wire.into_iter().map(|one| parse(FIELD, Some(one))).collect::<Result<_, _>>()?;
    Ok(parsed.into_iter().collect::<Result<Vec<_>, _>>().and_then(check_together))
}

/// A volume is shared by nodes, or it carries a file system; what is asked for both is asked for one volume.
fn check_together(capabilities: Vec<Capability>) -> Result<Vec<Capability>, NotOffered> {
    let shared = capabilities.iter().map(Capability::mode).find(|mode| mode.is_multi_node());
    match shared {
        Some(mode) if capabilities.iter().any(|it| it.mount().is_some()) => Err(MultiNodeFilesystem { mode }.into()),
        Some(_) | None => Ok(capabilities),
    }
}

/// What is not offered, as a refusal of a request that would make or use a volume so.
///
/// # Errors
/// It is not offered. A file system on several nodes is a wrong request wherever it stands; an unknown file system is one too, unless
/// the volume exists already (`exists`): then the request exceeds what that volume can do.
pub(crate) fn offered<T>(exists: bool, parsed: Result<T, NotOffered>) -> Result<T, Refusal> {
    parsed.map_err(|not_offered| {
        let reason = not_offered.to_string();
        match not_offered {
            NotOffered::Filesystem { .. } if exists => Refusal::Unsupported { reason },
            NotOffered::Filesystem { .. } | NotOffered::MultiNodeFilesystem(_) => Refusal::NotOffered { reason },
        }
    })
}

fn parse_mode(wire: Option<proto::volume_capability::AccessMode>) -> Result<AccessMode, Refusal> {
    const FIELD: &str = "volume_capability.access_mode";
    let Some(wire) = wire else { return Err(Refusal::Missing { field: FIELD }) };
    let unknown = || Refusal::Wrong { field: FIELD, reason: format!("is of an unknown mode ({})", wire.mode) };
    match Mode::try_from(wire.mode).map_err(|_| unknown())? {
        Mode::Unknown => Err(unknown()),
        Mode::SingleNodeWriter => Ok(AccessMode::SingleNodeWriter),
        Mode::SingleNodeReaderOnly => Ok(AccessMode::SingleNodeReaderOnly),
        Mode::MultiNodeReaderOnly => Ok(AccessMode::MultiNodeReaderOnly),
        Mode::MultiNodeSingleWriter => Ok(AccessMode::MultiNodeSingleWriter),
        Mode::MultiNodeMultiWriter => Ok(AccessMode::MultiNodeMultiWriter),
        Mode::SingleNodeSingleWriter => Ok(AccessMode::SingleNodeSingleWriter),
        Mode::SingleNodeMultiWriter => Ok(AccessMode::SingleNodeMultiWriter),
    }
}

fn parse_mount(wire: proto::volume_capability::MountVolume) -> Result<Result<Mount, NotOffered>, Refusal> {
    check_text("volume_capability.mount.fs_type", &wire.fs_type)?;
    let flags_bytes = wire.mount_flags.iter().map(String::len).sum();
    check_length("volume_capability.mount.mount_flags", flags_bytes, MAP_BYTES_MAX)?;
    if !wire.volume_mount_group.is_empty() {
        // It would have to be applied, and is sent only to plugins that say they do.
        let reason = "is not offered: this plugin does not have VOLUME_MOUNT_GROUP".to_owned();
        return Err(Refusal::Wrong { field: "volume_capability.mount.volume_mount_group", reason });
    }
    Ok(match Filesystem::parse(&wire.fs_type) {
        Some(filesystem) => Ok(Mount { filesystem, flags: MountFlags::new(wire.mount_flags) }),
        None => Err(NotOffered::Filesystem { name: wire.fs_type }),
    })
}

#[cfg(test)]
mod tests;
