//! NodeStage: the attach, and the file system.

use std::path::Path;
use std::time::Duration;

use lockstep_csi::capability::{Access, AccessMode, Capability};
use lockstep_csi::node_port::{StageError, StageVolume};
use lockstep_csi::volume::VolumeId;
use tokio::time::Instant;

use super::CsiNode;
use super::attach_port::{Attach, DetachError, Ending, Mode, ObserveError};
use super::record::Record;
use super::stale::{Held, host};
use super::step::Step;
use super::unmounting::top_mount;
use super::{VOLUMES_MAX, record};
use crate::host::device_node;

/// How long undoing an attach that led to nothing may take.
const UNDO_WITHIN: Duration = Duration::from_secs(30);

impl<A: Attach> CsiNode<A> {
    pub(super) async fn stage(&self, request: &StageVolume, within: Duration) -> Result<(), StageError> {
        let deadline = Instant::now() + within;
        let path = &request.staging_path;
        let before = Record::read(path).map_err(|error| host("read the record of what is staged", error))?;
        if let Some(record) = &before {
            self.check_same(record, request).await?;
        } else {
            self.check_room(&request.id)?;
        }
        let known = before.as_ref().filter(|record| record.capability == request.capability);
        if known.is_none() {
            // From here on a call that unstages knows that there may be something to detach.
            let intended = Record {
                volume: request.id.clone(),
                capability: request.capability.clone(),
                device: None,
                publications: Vec::new(),
            };
            intended.write(path).map_err(|error| host("write down what is to be staged", error))?;
        }
        self.steps.done(Step::StageIntended);
        let done = self.attach_and_mount(request, known, deadline).await;
        match done {
            Ok(()) => Ok(()),
            // Perhaps it is attached, and certainly it is written down: whoever unstages will find it.
            Err(error @ (StageError::StillWorking { .. } | StageError::NotReachable { .. })) => Err(error),
            Err(error) => self.undo(&request.id, path).await.and(Err(error)),
        }
    }

    /// What is staged at the path is this volume in this way, or nothing.
    async fn check_same(&self, record: &Record, request: &StageVolume) -> Result<(), StageError> {
        let path = &request.staging_path;
        let mounted = top_mount(path).map_err(|error| host("list the mounts", error))?;
        let exists = record.device.as_ref().is_some_and(record::Device::exists);
        let staged = exists && (record.capability.mount().is_none() || mounted.is_some());
        if record.volume != request.id {
            let volume = &record.volume;
            let reason = format!("volume {volume} is staged at {path}: unstage that first");
            return if staged { Err(StageError::Forbidden { reason }) } else { Ok(()) };
        }
        match difference(&record.capability, &request.capability) {
            Some(difference) if staged => Err(StageError::OtherCapability { difference: difference.to_owned() }),
            // It was about to be attached otherwise, and that call never ended.
            Some(_) => self.detach_to_attach_anew(&request.id).await,
            None => Ok(()),
        }
    }

    async fn detach_to_attach_anew(&self, volume: &VolumeId) -> Result<(), StageError> {
        match self.attach.detach(volume, Ending::InOrder, UNDO_WITHIN).await {
            Ok(()) | Err(DetachError::UnknownVolume) => Ok(()),
            Err(DetachError::NotReachable { whom, source }) => Err(StageError::NotReachable { whom, source }),
            Err(error) => Err(host("detach the volume", error)),
        }
    }

    fn check_room(&self, volume: &VolumeId) -> Result<(), StageError> {
        let Ok(names) = std::fs::read_dir(&self.place.device_dir) else { return Ok(()) };
        let others = names.flatten().filter(|name| name.file_name() != volume.as_str()).count();
        match others < usize::try_from(VOLUMES_MAX).expect("a small number") {
            true => Ok(()),
            false => Err(StageError::TooMany { limit: VOLUMES_MAX }),
        }
    }

    async fn attach_and_mount(
        &self,
        request: &StageVolume,
        before: Option<&Record>,
        deadline: Instant,
    ) -> Result<(), StageError> {
        let path = &request.staging_path;
        let dead = [path.to_path_buf()];
        self.check_writers(request).await?;
        let held = self.ensure_attached(&request.id, mode_of(&request.capability), &dead, deadline).await?;
        // A node that has only now become a member of the volume did not know it before.
        self.check_writers(request).await?;
        self.clear_path(request, before, &held).await?;
        let same = before.filter(|record| record.device.as_ref() == Some(&held.device));
        if same.is_none() {
            let record = Record {
                volume: request.id.clone(),
                capability: request.capability.clone(),
                device: Some(held.device.clone()),
                publications: Vec::new(),
            };
            record.write(path).map_err(|error| host("write down what is staged", error))?;
        }
        self.steps.done(Step::StageRecorded);
        match request.capability.access() {
            Access::Block => Ok(()),
            Access::Mount(mount) => self.ensure_mounted(request, mount, &held, deadline).await,
        }
    }

    /// A volume that was made for one writer is not for several, whatever is asked for. One that is not known here is not judged.
    async fn check_writers(&self, request: &StageVolume) -> Result<(), StageError> {
        if request.capability.mode() != AccessMode::MultiNodeMultiWriter {
            return Ok(());
        }
        match self.attach.observe(&request.id).await {
            Ok(here) if !here.several_writers => {
                let mode = request.capability.mode();
                let reason = format!("it was made for one writer, and {mode} asks for several");
                Err(StageError::Unsupported { reason })
            }
            Ok(_) | Err(ObserveError::UnknownVolume) => Ok(()),
            Err(ObserveError::NotReachable { whom, source }) => Err(StageError::NotReachable { whom, source }),
        }
    }

    /// Takes away what is mounted at the staging path of another, dead device of the volume.
    async fn clear_path(&self, request: &StageVolume, before: Option<&Record>, held: &Held) -> Result<(), StageError> {
        let path = &request.staging_path;
        let Some(mount) = top_mount(path).map_err(|error| host("list the mounts", error))? else { return Ok(()) };
        let recorded = before.and_then(|record| record.device.as_ref()).map(|device| device.number.to_string());
        if mount.device == held.number() && request.capability.mount().is_some() {
            return Ok(());
        }
        if recorded.as_ref() != Some(&mount.device) {
            let found = format!("{} ({}) is mounted there, which is not of this volume", mount.source, mount.kind);
            return Err(host("use the staging path", found));
        }
        tracing::warn!(volume = %request.id, %path, device = mount.device, "stale mount is taken away");
        // Only this mount: the device that the volume has now is another, and lives.
        while top_mount(path)
            .map_err(|error| host("list the mounts", error))?
            .is_some_and(|top| top.device == mount.device)
        {
            crate::host::mounts::unmount_lazily(path).map_err(|error| host("take the stale mount away", error))?;
        }
        Ok(())
    }

    /// The volume is not staged after all: nothing of it stays.
    async fn undo(&self, volume: &VolumeId, staging_path: &Path) -> Result<(), StageError> {
        let unclear = |whom: String, source| StageError::NotReachable { whom, source };
        match self.attach.detach(volume, Ending::InOrder, UNDO_WITHIN).await {
            Ok(()) | Err(DetachError::UnknownVolume) => {}
            Err(DetachError::NotReachable { whom, source }) => return Err(unclear(whom, source)),
            Err(error) => return Err(unclear("the engine, asked to detach again,".to_owned(), error.into())),
        }
        let forgotten = device_node::remove_node(&self.device_path(volume))
            .map_err(|error| host("remove the device's name", error));
        forgotten.and_then(|()| Record::remove(staging_path).map_err(|error| host("remove the record", error)))
    }
}

/// What a volume has to be attached for. A file system is always attached for writing, also one that is to be read only: its journal may
/// have to be replayed, and nobody else has it. A block device that is only read is attached for reading: so may others.
pub(super) fn mode_of(capability: &Capability) -> Mode {
    match capability.access() {
        Access::Block if capability.mode().is_read_only() => Mode::ReadOnly,
        Access::Block | Access::Mount(_) => Mode::ReadWrite,
    }
}

/// In what the two differ.
pub(super) fn difference(there: &Capability, wanted: &Capability) -> Option<&'static str> {
    match (there.access(), wanted.access()) {
        _ if there == wanted => None,
        (Access::Block, Access::Mount(_)) | (Access::Mount(_), Access::Block) => {
            Some("kind of access (block or mount)")
        }
        (Access::Mount(there), Access::Mount(wanted)) if there.filesystem != wanted.filesystem => Some("file system"),
        (Access::Mount(there), Access::Mount(wanted)) if there.flags != wanted.flags => Some("mount options"),
        _ => Some("access mode"),
    }
}
