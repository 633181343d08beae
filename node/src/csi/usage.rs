//! NodeGetVolumeStats: how full a volume is, and what is at a path.

use std::path::Path;

use lockstep_csi::node_port::{Counts, Usage, UsageError, VolumeAt};
use lockstep_csi::path::AbsolutePath;
use lockstep_csi::volume::VolumeId;
use nix::sys::statvfs::{Statvfs, statvfs};

use super::CsiNode;
use super::attach_port::{Attach, DeviceNumber};
use super::publishing::is_device_or_loop;
use super::record::Record;
use super::unmounting::top_mount;
use crate::host::block_device;

/// What a volume is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Its file system, of this type, is mounted there.
    Filesystem { kind: String },
    /// It is staged or published there as a block device.
    Block,
}

/// Why a volume is not seen at a path.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeeError {
    #[error("there is no such volume on this node")]
    UnknownVolume,
    #[error("the volume is not there")]
    NotThere,
    #[error("the host cannot be read")]
    Host(#[source] std::io::Error),
}

impl<A: Attach> CsiNode<A> {
    /// What the volume is at the path, and its device. Everything is looked up on the host: nothing here waits for a device or an engine.
    pub(super) fn see(&self, volume: &VolumeId, path: &AbsolutePath) -> Result<(Seen, DeviceNumber), SeeError> {
        let node = self.device_path(volume);
        let named = block_device::observe_number(&node).map_err(SeeError::Host)?;
        let (major, minor) = named.ok_or(SeeError::UnknownVolume)?;
        let device = DeviceNumber { major, minor };
        if let Some(mount) = top_mount(path).map_err(SeeError::Host)? {
            if mount.device == device.to_string() {
                return Ok((Seen::Filesystem { kind: mount.kind }, device));
            }
            if is_device_or_loop(path, device, &node) {
                return Ok((Seen::Block, device));
            }
        }
        let record = Record::read(path).map_err(SeeError::Host)?;
        let staged = record.filter(|record| record.volume == *volume && record.capability.mount().is_none());
        let present = staged.and_then(|record| record.device).is_some_and(|staged| staged.number == device);
        if present { Ok((Seen::Block, device)) } else { Err(SeeError::NotThere) }
    }

    pub(super) async fn observe_usage(&self, at: &VolumeAt) -> Result<Usage, UsageError> {
        let host =
            |doing: &str, source: std::io::Error| UsageError::Host { doing: doing.to_owned(), source: source.into() };
        let (seen, device) = self.see(&at.id, &at.volume_path).map_err(|error| match error {
            SeeError::UnknownVolume => UsageError::UnknownVolume,
            SeeError::NotThere => UsageError::NotThere { path: at.volume_path.clone() },
            SeeError::Host(error) => host("look at the path", error),
        })?;
        match seen {
            Seen::Block => {
                let size = block_device::observe_size(device.major, device.minor);
                size.map(|total_bytes| Usage::Block { total_bytes }).map_err(|error| host("look at the device", error))
            }
            Seen::Filesystem { .. } => {
                let path = at.volume_path.to_path_buf();
                // May wait for the device: on a thread of its own, and the caller asks again only once it has ended.
                let asked = tokio::task::spawn_blocking(move || statvfs::<Path>(&path)).await;
                match asked.map_err(|error| host("ask the file system", std::io::Error::other(error)))? {
                    Ok(found) => Ok(count(&found)),
                    Err(nix::Error::ENOENT) => Err(UsageError::NotThere { path: at.volume_path.clone() }),
                    Err(error) => Err(UsageError::DeviceFails { reason: error.to_string() }),
                }
            }
        }
    }
}

fn count(found: &Statvfs) -> Usage {
    let unit = found.fragment_size();
    let bytes = |blocks: u64| blocks.saturating_mul(unit);
    Usage::Filesystem {
        bytes: Counts {
            total: bytes(found.blocks()),
            used: bytes(found.blocks().saturating_sub(found.blocks_free())),
            available: bytes(found.blocks_available()),
        },
        inodes: Counts {
            total: found.files(),
            used: found.files().saturating_sub(found.files_free()),
            available: found.files_available(),
        },
    }
}
