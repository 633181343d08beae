//! NodePublish: the staged volume bound to a pod's path.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_csi::capability::Access;
use lockstep_csi::node_port::{PublishError, PublishVolume, StageError, StageVolume};
use lockstep_csi::publications::{self, Decision, Publication};
use tokio::time::Instant;

use super::CsiNode;
use super::attach_port::{Attach, ObserveError};
use super::record::Record;
use super::staging::difference;
use super::step::Step;
use super::unmounting::{PROBE_WITHIN, top_mount};
use crate::host::bounded_tool::{RunBoundedError, Tool};
use crate::host::loops::Loop;
use crate::host::mounts::{self, Mount};
use crate::host::tool::RunToolError;
use crate::host::{block_device, device_node, filesystem, loops};

const LOSETUP: Tool = Tool { name: "losetup", package: "mount" };

/// Binding a loop device waits for nothing but the kernel.
const LOSETUP_WITHIN: Duration = Duration::from_secs(30);

/// Somebody else may take the free loop device that the kernel named.
const LOOP_TRIES_MAX: usize = 16;

/// Options that a mount has for itself, as mountinfo writes them. Others belong to the file system, and were given when it was staged.
const MOUNT_OPTIONS: [&str; 8] =
    ["nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow"];

fn host(doing: &str, source: impl Into<lockstep_csi::node_port::Cause>) -> PublishError {
    PublishError::Host { doing: doing.to_owned(), source: source.into() }
}

impl<A: Attach> CsiNode<A> {
    pub(super) async fn publish(&self, request: &PublishVolume, within: Duration) -> Result<(), PublishError> {
        let deadline = Instant::now() + within;
        let mut record = self.ensure_staged_alive(request, deadline).await?;
        let wanted = Publication {
            target_path: request.target_path.clone(),
            capability: request.capability.clone(),
            readonly: request.readonly,
        };
        let existing = self.observe_published(&record).map_err(|error| host("list the mounts", error))?;
        let decision = publications::decide(&existing, &wanted)?;
        if decision == Decision::New {
            self.clear_target(request, deadline).await?;
            record.publications = existing;
            record.publications.push(wanted);
            record.write(&request.staging_path).map_err(|error| host("write down what is published", error))?;
        }
        if let (Some(users), Some(pod)) = (&self.users, &request.pod) {
            let noted = users.note(&request.id, &request.target_path, pod);
            noted.map_err(|error| host("write down for whom it is published", error))?;
        }
        self.steps.done(Step::PublishRecorded);
        let done = match request.capability.access() {
            Access::Mount(mount) => self.bind_directory(request, mount.flags.as_slice()).await,
            Access::Block => self.bind_device(request).await,
        };
        if done.is_err() {
            // The host is to be as it was. What cannot be taken away is found by the next call, which looks.
            if let Err(error) = self.remove_target(&request.id, &request.target_path).await {
                tracing::warn!(volume = %request.id, %error, "target of a publication that failed stays");
            }
            return done;
        }
        if let Some(pod) = &request.pod {
            tracing::info!(volume = %request.id, namespace = pod.namespace, pod = pod.name, "published");
        }
        Ok(())
    }

    /// The record of the staged volume, whose device is the volume's present one and answers; staged anew if it was dead.
    async fn ensure_staged_alive(&self, request: &PublishVolume, deadline: Instant) -> Result<Record, PublishError> {
        let path = &request.staging_path;
        let not_staged = || PublishError::NotStaged { staging_path: path.clone() };
        let read = || Record::read(path).map_err(|error| host("read the record of what is staged", error));
        let record = read()?.filter(|record| record.volume == request.id);
        let Some(record) = record else {
            return match self.attach.observe(&request.id).await {
                Err(ObserveError::UnknownVolume) => Err(PublishError::UnknownVolume),
                Err(ObserveError::NotReachable { .. }) | Ok(_) => Err(not_staged()),
            };
        };
        check_use(&record, request)?;
        if self.is_staged_alive(&record, path).await? {
            return Ok(record);
        }
        tracing::warn!(volume = %request.id, %path, "staged anew: what is staged there is dead");
        let again = StageVolume {
            id: request.id.clone(),
            staging_path: path.clone(),
            capability: record.capability.clone(),
            context: request.context.clone(),
        };
        let within = deadline.saturating_duration_since(Instant::now());
        match self.stage(&again, within).await {
            Ok(()) => read()?.ok_or_else(not_staged),
            Err(StageError::UnknownVolume) => Err(PublishError::UnknownVolume),
            Err(StageError::StillWorking { state }) => Err(PublishError::StillWorking { state }),
            Err(StageError::NotReachable { whom, source }) => Err(PublishError::NotReachable { whom, source }),
            Err(error) => {
                let why = crate::failure::chain(&error);
                tracing::warn!(volume = %request.id, %path, error = why, "not staged anew");
                Err(not_staged())
            }
        }
    }

    /// Whether what is staged is the present device of the volume, and answers. One that the volume has lost fails its reads, or is gone.
    async fn is_staged_alive(&self, record: &Record, staging_path: &Path) -> Result<bool, PublishError> {
        let Some(device) = record.device.as_ref().filter(|device| device.exists()) else { return Ok(false) };
        let number = device.number.to_string();
        let mounted = top_mount(staging_path).map_err(|error| host("list the mounts", error))?;
        if record.capability.mount().is_some() && mounted.is_none_or(|mount| mount.device != number) {
            return Ok(false);
        }
        let node = self.device_path(&record.volume);
        let named = device_node::ensure_node(&node, device.number.major, device.number.minor);
        named.map_err(|error| host("name the device", error))?;
        Ok(block_device::probe(&node, PROBE_WITHIN).await.is_ok())
    }

    /// What of the record is true: its volume's present device is bound there.
    pub(super) fn observe_published(&self, record: &Record) -> io::Result<Vec<Publication>> {
        let mounts = mounts::observe_mounts()?;
        let Some(device) = record.device.as_ref().filter(|device| device.exists()) else { return Ok(Vec::new()) };
        let number = device.number.to_string();
        let node = self.device_path(&record.volume);
        let is_there = |publication: &&Publication| {
            let target: &Path = &publication.target_path;
            let top = mounts.iter().rev().find(|mount| mount.point == target);
            match publication.capability.access() {
                Access::Mount(_) => top.is_some_and(|mount| mount.device == number),
                Access::Block => top.is_some() && is_device_or_loop(target, device.number, &node),
            }
        };
        Ok(record.publications.iter().filter(is_there).cloned().collect())
    }

    /// Takes away what a dead attachment left at the target.
    async fn clear_target(&self, request: &PublishVolume, deadline: Instant) -> Result<(), PublishError> {
        let target = &request.target_path;
        let cleared = self.unmount(&request.id, target, deadline).await;
        cleared.map(|_| ()).map_err(|error| host("take away what is mounted at the target", error))
    }

    async fn bind_directory(&self, request: &PublishVolume, flags: &[String]) -> Result<(), PublishError> {
        let target: &Path = &request.target_path;
        ensure_directory(target).map_err(|error| host("make the target directory", error))?;
        self.steps.done(Step::PublishTargetMade);
        let observe = || top_mount(target).map_err(|error| host("list the mounts", error));
        let bound = |error: RunBoundedError| host("bind the volume to the target", error);
        if observe()?.is_none() {
            filesystem::bind(&request.staging_path, target).await.map_err(bound)?;
        }
        self.steps.done(Step::PublishBound);
        let Some(mount) = observe()? else { return Err(host("bind the volume to the target", "it is not mounted")) };
        let options = options_of_target(&mount, flags, request.readonly);
        if let Some(options) = options {
            filesystem::protect(target, &options).await.map_err(bound)?;
        }
        self.steps.done(Step::PublishProtected);
        Ok(())
    }

    async fn bind_device(&self, request: &PublishVolume) -> Result<(), PublishError> {
        let target: &Path = &request.target_path;
        ensure_file(target).map_err(|error| host("make the target file", error))?;
        self.steps.done(Step::PublishTargetMade);
        if top_mount(target).map_err(|error| host("list the mounts", error))?.is_none() {
            let node = self.device_path(&request.id);
            // A node of the device that is bound read-only can be opened for writing all the same, and the kernel's switch for a whole device
            // (BLKROSET) outlives what a loop device is bound to. So over the device comes a loop device that refuses writes.
            let source = match request.readonly {
                true => self.make_read_only_loop(&node).await?,
                false => node,
            };
            self.steps.done(Step::PublishLoopMade);
            let bound = filesystem::bind(&source, target).await;
            bound.map_err(|error| host("bind the device to the target", error))?;
        }
        self.steps.done(Step::PublishBound);
        Ok(())
    }

    async fn make_read_only_loop(&self, node: &Path) -> Result<PathBuf, PublishError> {
        let failed = |error: RunBoundedError| host("make a loop device for reading only", error);
        for _ in 0..LOOP_TRIES_MAX {
            let free = LOSETUP.run(&["--find"], &[], LOSETUP_WITHIN).await.map_err(failed)?;
            let path = PathBuf::from(free.stdout.trim());
            ensure_loop_node(&path)?;
            // Direct: what another node writes is not hidden by this machine's cache.
            let options = ["--read-only", "--direct-io=on", "--sector-size", "4096"];
            let arguments: Vec<&std::ffi::OsStr> =
                options.iter().map(std::ffi::OsStr::new).chain([path.as_os_str(), node.as_os_str()]).collect();
            match LOSETUP.run(&arguments, &[], LOSETUP_WITHIN).await {
                Ok(_) => return Ok(path),
                Err(RunBoundedError::Failed { message, .. }) if message.contains("busy") => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(host("make a loop device for reading only", "every free one was taken by somebody else"))
    }
}

/// The volume was staged in a way that can be used so.
fn check_use(record: &Record, request: &PublishVolume) -> Result<(), PublishError> {
    let differs = match (record.capability.access(), request.capability.access()) {
        (Access::Block, Access::Block) => {
            record.capability.mode().is_read_only() && !request.capability.mode().is_read_only()
        }
        (Access::Mount(staged), Access::Mount(wanted)) => staged.filesystem != wanted.filesystem,
        _ => true,
    };
    match difference(&record.capability, &request.capability).filter(|_| differs) {
        None => Ok(()),
        Some(difference) => {
            let reason = format!("it is staged at {} with another {difference}", request.staging_path);
            Err(PublishError::Unsupported { reason })
        }
    }
}

/// The target is a node of this device, or of a loop device that publishing made over its name.
pub(super) fn is_device_or_loop(target: &Path, device: super::attach_port::DeviceNumber, node: &Path) -> bool {
    match block_device::observe_number(target) {
        Ok(Some((major, minor))) => {
            (major, minor) == (device.major, device.minor)
                || block_device::observe_backing(major, minor).is_some_and(|backing| backing == node)
        }
        Ok(None) | Err(_) => false,
    }
}

/// What the options of a target's mount have to become; none: they are right.
fn options_of_target(mount: &Mount, flags: &[String], readonly: bool) -> Option<Vec<String>> {
    let is_own = |option: &&String| MOUNT_OPTIONS.contains(&option.as_str());
    let missing = flags.iter().filter(is_own).filter(|flag| !mount.options.contains(flag));
    let missing: Vec<String> = missing.cloned().collect();
    if missing.is_empty() && (mount.is_read_only() || !readonly) {
        return None;
    }
    let mut options: Vec<String> = mount.options.iter().filter(is_own).cloned().chain(missing).collect();
    options.push(if readonly || mount.is_read_only() { "ro" } else { "rw" }.to_owned());
    Some(options)
}

fn ensure_directory(target: &Path) -> io::Result<()> {
    match std::fs::create_dir(target) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && target.is_dir() => Ok(()),
        other => other,
    }
}

fn ensure_file(target: &Path) -> io::Result<()> {
    match File::options().write(true).create_new(true).open(target) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = std::fs::symlink_metadata(target)?;
            match there.is_dir() {
                true => Err(error),
                false => Ok(()),
            }
        }
        Err(error) => Err(error),
    }
}

/// No udev runs in a container: the node of a loop device that was never used may be missing.
fn ensure_loop_node(path: &Path) -> Result<(), PublishError> {
    let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("loop")?.parse::<u32>().ok());
    let Some(number) = number else { return Err(host("find a free loop device", path.display().to_string())) };
    device_node::ensure_node(path, 7, number).map_err(|error| host("make the loop device's node", error))
}

/// Gives a loop device up, making its node if that is missing.
pub(super) fn release_loop(left: &Loop) -> Result<(), RunToolError> {
    if let Some((Ok(major), Ok(minor))) =
        left.device.split_once(':').map(|(major, minor)| (major.parse::<u32>(), minor.parse::<u32>()))
    {
        // Without its node the release says what is missing.
        let _ = device_node::ensure_node(&left.path(), major, minor);
    }
    loops::release(left)
}
