//! NodeStage: the attach, and the file system.

use std::path::Path;
use std::time::Duration;

use lockstep_csi::capability::{Access, Capability, Mount};
use lockstep_csi::node_port::{StageError, StageVolume};
use lockstep_csi::volume::VolumeId;
use tokio::time::Instant;

use super::CsiNode;
use super::attach_port::{Attach, DetachError, Ending, Mode};
use super::record::Record;
use super::stale::{Held, host};
use super::step::Step;
use super::unmounting::top_mount;
use super::{VOLUMES_MAX, record};
use crate::host::block_device;
use crate::host::block_probe::{self, Content};
use crate::host::device_node;
use crate::host::filesystem::{self, GrowError, PrepareError};

/// Reading both ends of a device, and what `blkid` reads of it.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// How long undoing an attach that led to nothing may take.
const UNDO_WITHIN: Duration = Duration::from_secs(30);

/// How often it is looked whether a mount that was under way is there.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What an earlier call left of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It is mounted at the staging path.
    Mounted,
    /// Nobody has it for itself.
    Free,
}

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
        let held = self.ensure_attached(&request.id, mode_of(&request.capability), &dead, deadline).await?;
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

    async fn ensure_mounted(
        &self,
        request: &StageVolume,
        mount: &Mount,
        held: &Held,
        deadline: Instant,
    ) -> Result<(), StageError> {
        let path = &request.staging_path;
        let size = block_device::observe_size(held.device.number.major, held.device.number.minor)
            .map_err(|error| host("look at the device", error))?;
        let readonly = request.capability.mode().is_read_only();
        if self.wait_mounted_or_free(path, held, deadline).await? == Found::Mounted {
            self.steps.done(Step::StageMounted);
            if !readonly {
                self.grow_mounted(request, mount, held).await?;
            }
            self.steps.done(Step::StageGrown);
            return Ok(());
        }
        let smaller = self.prepare(mount, held, size, readonly).await?;
        self.mount(request, mount, held).await?;
        self.steps.done(Step::StageMounted);
        if smaller && !readonly {
            self.grow_staged(request, mount, held, deadline).await?;
        }
        self.steps.done(Step::StageGrown);
        Ok(())
    }

    /// Waits for what an earlier call of ours began (mkfs, fsck, mount): it may run on although that process was killed.
    async fn wait_mounted_or_free(&self, path: &Path, held: &Held, deadline: Instant) -> Result<Found, StageError> {
        loop {
            let top = top_mount(path).map_err(|error| host("list the mounts", error))?;
            if top.is_some_and(|top| top.device == held.number()) {
                return Ok(Found::Mounted);
            }
            // A mount has the device for itself before it is seen, so that none can come unseen once the device is free.
            let look_again = (Instant::now() + LOOK_AGAIN_AFTER).min(deadline);
            let free = block_device::wait_unclaimed(&held.node, look_again).await;
            if free.map_err(|error| host("open the device", error))? {
                return Ok(Found::Free);
            }
            if Instant::now() >= deadline {
                let state = "a program of an earlier call still works on the device".to_owned();
                return Err(StageError::StillWorking { state });
            }
        }
    }

    /// Grows a file system that was found mounted: the call that mounted it may have been killed before it came to this.
    async fn grow_mounted(&self, request: &StageVolume, mount: &Mount, held: &Held) -> Result<(), StageError> {
        match filesystem::grow(mount.filesystem, &held.node, &request.staging_path).await {
            Ok(()) => Ok(()),
            Err(error @ GrowError::Denied) => {
                tracing::warn!(volume = %request.id, %error, "file system does not grow");
                Ok(())
            }
            Err(error) => Err(host("grow the file system to its device", error)),
        }
    }

    async fn mount(&self, request: &StageVolume, mount: &Mount, held: &Held) -> Result<(), StageError> {
        let (path, flags) = (&request.staging_path, mount.flags.as_slice());
        let readonly = request.capability.mode().is_read_only();
        let done = filesystem::mount(mount.filesystem, &held.node, path, flags, readonly).await;
        done.map_err(|error| explain_prepare(error, &request.id, &held.node))?;
        tracing::info!(volume = %request.id, %path, filesystem = %mount.filesystem, "mounted");
        Ok(())
    }

    /// Grows a file system that has just been mounted and that nobody uses yet.
    async fn grow_staged(
        &self,
        request: &StageVolume,
        mount: &Mount,
        held: &Held,
        deadline: Instant,
    ) -> Result<(), StageError> {
        let path = &request.staging_path;
        let Err(error) = filesystem::grow(mount.filesystem, &held.node, path).await else { return Ok(()) };
        self.unmount(&request.id, path, deadline).await.map_err(|error| host("unmount again", error))?;
        match error {
            GrowError::Denied => {
                let grown = filesystem::grow_unmounted_ext4(&held.node).await;
                grown.map_err(|error| explain_prepare(error, &request.id, &held.node))?;
                self.mount(request, mount, held).await
            }
            GrowError::Tool(error) => Err(host("grow the file system to its device", error)),
        }
    }

    /// Makes the file system, or makes the one that is there ready. Says whether it is smaller than its device.
    async fn prepare(&self, mount: &Mount, held: &Held, size: u64, readonly: bool) -> Result<bool, StageError> {
        let wanted = mount.filesystem;
        let content = block_probe::observe_content(&held.node, size, LOOK_WITHIN).await;
        let content = content.map_err(|error| host("look what is on the device", error))?;
        let smaller = match content {
            Content::Blank | Content::Unfinished if readonly => {
                let reason =
                    "nothing is on it, and it is to be read only: it has to be used for writing first".to_owned();
                return Err(StageError::Forbidden { reason });
            }
            Content::Blank | Content::Unfinished => {
                let again = content == Content::Unfinished;
                let made = filesystem::make(wanted, &held.node, again).await;
                made.map_err(|error| host("make the file system", error))?;
                tracing::info!(device = %held.node.display(), filesystem = %wanted, "file system made");
                false
            }
            Content::Filesystem { kind, size_bytes } if kind == wanted.as_str() => {
                size_bytes.is_none_or(|recorded| recorded < size)
            }
            Content::Filesystem { kind, .. } => {
                let reason =
                    format!("it has a file system of type {kind}, not {wanted}: ask for that, or use another volume");
                return Err(StageError::Forbidden { reason });
            }
            Content::Foreign { text } => {
                let reason = format!(
                    "it has {text}, over which no {wanted} is made: use it as a block device, or wipe it there"
                );
                return Err(StageError::Forbidden { reason });
            }
        };
        self.steps.done(Step::StageMade);
        let checked = filesystem::check(wanted, &held.node).await;
        checked.map_err(|error| explain_prepare(error, &self.place.node, &held.node))?;
        self.steps.done(Step::StageChecked);
        Ok(smaller)
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

fn explain_prepare(error: PrepareError, volume: impl std::fmt::Display, device: &Path) -> StageError {
    match error {
        PrepareError::Damaged { filesystem, message } => {
            let device = device.display();
            let repair = match filesystem {
                lockstep_csi::capability::Filesystem::Ext4 => "e2fsck -f",
                lockstep_csi::capability::Filesystem::Xfs => "xfs_repair",
            };
            tracing::error!(%volume, %device, message, "file system is damaged");
            let how = format!(
                "use it as a block device (volumeMode: Block) in a pod and run `{repair}` on that, or restore it"
            );
            StageError::Forbidden { reason: format!("its {filesystem} is damaged ({message}); {how}") }
        }
        PrepareError::Tool(error) => host("prepare the file system", error),
    }
}
