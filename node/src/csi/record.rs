//! What is written down of a staged volume: a file beside its staging path, durable before anything relies on it.
//!
//! It says what was asked for, which cannot be seen on the host: the access mode, and that a mount there is ours. What *is* there is always
//! looked up: mounts in /proc/self/mountinfo, the device in /sys.

use std::io;
use std::path::{Path, PathBuf};

use lockstep_csi::capability::{Access, AccessMode, Capability, Filesystem, Mount, MountFlags};
use lockstep_csi::path::AbsolutePath;
use lockstep_csi::publications::Publication;
use lockstep_csi::volume::VolumeId;
use serde::{Deserialize, Serialize};

use super::attach_port::DeviceNumber;
use crate::host::block_device::{self, DeviceRun};
use crate::host::durable::{self, Readers};

/// Ends the name of the file; the staging path's own name comes first.
const SUFFIX: &str = ".lockstep.json";

/// A block device that cannot be mistaken for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub number: DeviceNumber,
    pub run: DeviceRun,
}

impl Device {
    /// The device that has this number now.
    pub fn observe(number: DeviceNumber) -> io::Result<Self> {
        Ok(Self { number, run: block_device::observe_run(number.major, number.minor)? })
    }

    /// It is still there: no other has got its number.
    pub fn exists(&self) -> bool {
        block_device::observe_run(self.number.major, self.number.minor).is_ok_and(|run| run == self.run)
    }
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub volume: VolumeId,
    pub capability: Capability,
    /// None: it is about to be attached.
    pub device: Option<Device>,
    pub publications: Vec<Publication>,
}

/// Where the record of a staging path is.
pub(super) fn path_of(staging_path: &Path) -> PathBuf {
    let mut name = staging_path.file_name().unwrap_or_default().to_owned();
    name.push(SUFFIX);
    staging_path.with_file_name(name)
}

impl Record {
    /// The record of a staging path. One that cannot be understood counts as none: what it would say is looked up anyway, as far as it can be.
    pub fn read(staging_path: &Path) -> io::Result<Option<Self>> {
        let path = path_of(staging_path);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let record = serde_json::from_slice::<Written>(&bytes).ok().and_then(Written::parse);
        if record.is_none() {
            tracing::warn!(path = %path.display(), "record of a staged volume is not readable");
        }
        Ok(record)
    }

    /// Writes it, whole and durable, in the place of the one that is there. Only root can read it: mount options may be secret.
    pub fn write(&self, staging_path: &Path) -> io::Result<()> {
        let path = path_of(staging_path);
        let bytes = serde_json::to_vec_pretty(&Written::of(self)).map_err(io::Error::other)?;
        durable::write(&path, &bytes, Readers::Owner)
    }

    /// Removes the record of a staging path, if there is one.
    pub fn remove(staging_path: &Path) -> io::Result<()> {
        let path = path_of(staging_path);
        for path in [durable::scratch_of(&path), path.clone()] {
            durable::remove_if_there(&path)?;
        }
        match durable::sync_dir_of(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The file's version 1.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u32,
    volume: String,
    capability: WrittenCapability,
    device: Option<WrittenDevice>,
    publications: Vec<WrittenPublication>,
}

#[derive(Serialize, Deserialize)]
struct WrittenCapability {
    mode: String,
    /// None: a block device.
    filesystem: Option<String>,
    flags: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct WrittenDevice {
    major: u32,
    minor: u32,
    boot_id: String,
    sequence: u64,
}

#[derive(Serialize, Deserialize)]
struct WrittenPublication {
    target_path: String,
    capability: WrittenCapability,
    readonly: bool,
}

impl Written {
    fn of(record: &Record) -> Self {
        let publications = record.publications.iter().map(|publication| WrittenPublication {
            target_path: publication.target_path.to_string(),
            capability: WrittenCapability::of(&publication.capability),
            readonly: publication.readonly,
        });
        Self {
            version: 1,
            volume: record.volume.to_string(),
            capability: WrittenCapability::of(&record.capability),
            device: record.device.as_ref().map(|device| WrittenDevice {
                major: device.number.major,
                minor: device.number.minor,
                boot_id: device.run.boot_id.clone(),
                sequence: device.run.sequence,
            }),
            publications: publications.collect(),
        }
    }

    fn parse(self) -> Option<Record> {
        if self.version != 1 {
            return None;
        }
        let publications = self.publications.into_iter().map(|written| {
            Some(Publication {
                target_path: AbsolutePath::parse(&written.target_path).ok()?,
                capability: written.capability.parse()?,
                readonly: written.readonly,
            })
        });
        Some(Record {
            volume: VolumeId::parse(&self.volume)?,
            capability: self.capability.parse()?,
            device: self.device.map(|device| Device {
                number: DeviceNumber { major: device.major, minor: device.minor },
                run: DeviceRun { boot_id: device.boot_id, sequence: device.sequence },
            }),
            publications: publications.collect::<Option<_>>()?,
        })
    }
}

impl WrittenCapability {
    fn of(capability: &Capability) -> Self {
        let mount = capability.mount();
        Self {
            mode: capability.mode().as_str().to_owned(),
            filesystem: mount.map(|mount| mount.filesystem.as_str().to_owned()),
            flags: mount.map(|mount| mount.flags.as_slice().to_vec()).unwrap_or_default(),
        }
    }

    fn parse(self) -> Option<Capability> {
        let mode = AccessMode::ALL.into_iter().find(|mode| mode.as_str() == self.mode)?;
        let access = match self.filesystem {
            None => Access::Block,
            Some(name) => {
                Access::Mount(Mount { filesystem: Filesystem::parse(&name)?, flags: MountFlags::new(self.flags) })
            }
        };
        Capability::new(access, mode).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Device, Record, path_of};
    use crate::csi::attach_port::DeviceNumber;
    use crate::host::block_device::DeviceRun;
    use lockstep_csi::capability::{Access, AccessMode, Capability, Filesystem, Mount, MountFlags};
    use lockstep_csi::path::AbsolutePath;
    use lockstep_csi::publications::Publication;
    use lockstep_csi::volume::VolumeId;

    fn record() -> Record {
        let flags = MountFlags::new(vec!["noatime".to_owned(), "context=\"a:b:c:s0,c1\"".to_owned()]);
        let access = Access::Mount(Mount { filesystem: Filesystem::Xfs, flags });
        let capability = Capability::new(access, AccessMode::SingleNodeMultiWriter).expect("one node");
        let run = DeviceRun { boot_id: "b".to_owned(), sequence: 7 };
        let target_path = AbsolutePath::parse("/pods/1/target").expect("absolute");
        Record {
            volume: VolumeId::parse("pvc-1").expect("an id"),
            capability: capability.clone(),
            device: Some(Device { number: DeviceNumber { major: 7, minor: 3 }, run }),
            publications: vec![Publication { target_path, capability, readonly: true }],
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_beside_its_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let staging = dir.path().join("globalmount");
        assert_eq!(Record::read(&staging).expect("readable"), None);
        record().write(&staging).expect("writable");
        assert_eq!(Record::read(&staging).expect("readable"), Some(record()));
        let block = Capability::new(Access::Block, AccessMode::MultiNodeMultiWriter).expect("blocks have any");
        let intended = Record { capability: block, device: None, publications: Vec::new(), ..record() };
        intended.write(&staging).expect("writable");
        assert_eq!(Record::read(&staging).expect("readable"), Some(intended));
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1);
        Record::remove(&staging).expect("removed");
        Record::remove(&staging).expect("again");
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
        Record::remove(&dir.path().join("none/at/all")).expect("nothing to remove");
    }

    #[test]
    fn what_is_no_record_counts_as_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let staging = dir.path().join("globalmount");
        let good = {
            record().write(&staging).expect("writable");
            std::fs::read_to_string(path_of(&staging)).expect("readable")
        };
        for bad in ["", "{}", &good.replace("\"version\": 1", "\"version\": 2"), &good.replace("pvc-1", "../1")] {
            std::fs::write(path_of(&staging), bad).expect("writable");
            assert_eq!(Record::read(&staging).expect("readable"), None, "{bad}");
        }
    }
}
