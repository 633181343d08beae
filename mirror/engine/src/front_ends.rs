//! Front ends as the node asks for them: mounted in the volume's loop, made into devices on the caller's thread.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use lockstep_core::{BlockRange, VolumeId};

use crate::engine::{Engine, FindVolume};
use crate::event_loop::{FrontConfig, LoopCommand};
use crate::front::fuse::{DeviceReads, clear_stale_mount, is_uring_enabled};
use crate::front::{FuseConfig, FuseTransport, LoopDevice, LoopSetup, MountPoint, NbdAddress, NbdConfig, lock_memory};
use crate::pending::pending;

/// Directory of device nodes.
const DEVICE_DIR: &str = "/dev";

/// How FUSE requests travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FuseKind {
    /// By `/dev/fuse`.
    #[default]
    Recoverable,
    /// Over io_uring. The kernel's switch must be on.
    IoUring,
}

/// What to make of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrontEndKind {
    /// A loop device over a FUSE file.
    Loop {
        /// How its requests travel.
        fuse: FuseKind,
    },
    /// A server of the NBD protocol on a unix socket.
    NbdSocket {
        /// Where the socket is made.
        path: PathBuf,
    },
}

/// Where a front end can be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FrontEndAddress {
    /// A block device.
    Loop {
        /// The kernel's node of it.
        device: PathBuf,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A socket of the NBD protocol.
    NbdSocket {
        /// Where.
        path: PathBuf,
        /// Name of the export.
        export: String,
    },
}

/// A front end that is there.
#[derive(Debug)]
pub(crate) struct Attached {
    kind: FrontEndKind,
    address: FrontEndAddress,
    mount: Option<MountPoint>,
    device: Option<LoopDevice>,
}

/// Why there is no front end.
#[derive(Debug, thiserror::Error)]
pub enum StartFrontEnd {
    /// The volume cannot be asked.
    #[error(transparent)]
    Find(#[from] FindVolume),
    /// It has one.
    #[error("volume {0:?} has a front end")]
    Exists(String),
    /// FUSE over io_uring was asked for, and the machine's switch is off.
    #[error("FUSE over io_uring is switched off on this machine (/sys/module/fuse/parameters/enable_uring)")]
    UringOff,
    /// The directory of the mount.
    #[error("cannot make the mount point {}", path.display())]
    MountDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The front end in the loop.
    #[error("{0}")]
    Start(String),
    /// The loop device.
    #[error("cannot make a loop device")]
    Loop(#[source] crate::front::loopdev::SetupLoop),
}

/// Why a front end did not end.
#[derive(Debug, thiserror::Error)]
pub enum StopFrontEnd {
    /// The volume cannot be asked.
    #[error(transparent)]
    Find(#[from] FindVolume),
    /// The device is in use, or cannot be given up.
    #[error("cannot give the device up")]
    Device(#[source] crate::front::loopdev::ChangeLoop),
    /// The file system is in use.
    #[error("cannot unmount")]
    Unmount(#[source] io::Error),
}

/// Why a device did not follow its volume's growth. It goes on with the old size.
#[derive(Debug, thiserror::Error)]
pub enum GrowFrontEnd {
    /// The volume cannot be asked.
    #[error(transparent)]
    Find(#[from] FindVolume),
    /// The device.
    #[error("cannot grow the device")]
    Device(#[source] crate::front::loopdev::ChangeLoop),
}

impl Engine {
    /// Makes a front end for a volume that is attached here. Waits for the kernel.
    ///
    /// # Errors
    /// See [`StartFrontEnd`].
    pub fn start_front_end(&self, name: &str, kind: FrontEndKind) -> Result<FrontEndAddress, StartFrontEnd> {
        self.find(name)?;
        if self.with_attached(name, |attached| attached.is_some()).unwrap_or(false) {
            return Err(StartFrontEnd::Exists(name.to_owned()));
        }
        let attached = match &kind {
            FrontEndKind::Loop { fuse } => self.start_loop(name, *fuse, kind.clone())?,
            FrontEndKind::NbdSocket { path } => self.start_nbd(name, path)?,
        };
        let address = attached.address.clone();
        self.with_attached(name, |slot| *slot = Some(attached));
        Ok(address)
    }

    /// Where the volume's front end is, if it has one.
    #[must_use]
    pub fn front_end(&self, name: &str) -> Option<(FrontEndKind, FrontEndAddress)> {
        self.with_attached(name, |attached| {
            attached.as_ref().map(|attached| (attached.kind.clone(), attached.address.clone()))
        })?
    }

    /// Ends a volume's front end in order: what is dirty in its device is written first. `force` ends it at once, and
    /// whoever uses it gets errors. Without a front end, nothing happens.
    ///
    /// # Errors
    /// See [`StopFrontEnd`]; the front end goes on serving then.
    pub fn stop_front_end(&self, name: &str, force: bool) -> Result<(), StopFrontEnd> {
        let Some(attached) = self.with_attached(name, Option::take).flatten() else { return Ok(()) };
        match self.stop_attached(name, &attached, force) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.with_attached(name, |slot| *slot = Some(attached));
                Err(error)
            }
        }
    }

    /// Makes the volume's present size visible at its device. Waits for the kernel. Without a device, nothing happens.
    ///
    /// # Errors
    /// See [`GrowFrontEnd`].
    pub fn grow_front_end(&self, name: &str) -> Result<(), GrowFrontEnd> {
        let device = self.with_attached(name, |attached| attached.as_ref().and_then(|there| there.device.clone()));
        let Some(device) = device.flatten() else { return Ok(()) };
        let status = self.status(name)?.wait().ok_or(FindVolume::Stopping)?;
        device.grow(BlockRange::new(0, status.core.config.size_blocks).bytes()).map_err(GrowFrontEnd::Device)
    }

    fn start_loop(&self, name: &str, fuse: FuseKind, kind: FrontEndKind) -> Result<Attached, StartFrontEnd> {
        let transport = match fuse {
            FuseKind::Recoverable => FuseTransport::Device(DeviceReads::Multishot),
            FuseKind::IoUring if is_uring_enabled() => FuseTransport::Uring,
            FuseKind::IoUring => return Err(StartFrontEnd::UringOff),
        };
        let (volume, size_bytes) = self.size_of(name)?;
        let mount_dir = self.mount_dir(name);
        prepare_mount_dir(&mount_dir).map_err(|source| StartFrontEnd::MountDir { path: mount_dir.clone(), source })?;
        let config = FuseConfig::new(mount_dir, size_bytes, transport);
        static LOCK: Once = Once::new();
        LOCK.call_once(|| {
            if let Err(error) = lock_memory() {
                tracing::warn!(%error, "memory_not_locked");
            }
        });
        let max_io_bytes = config.max_io_bytes;
        let started = self.start_in_loop(volume, FrontConfig::Fuse(config))?;
        let mount = started.expect("a FUSE front end has a mount");
        let setup = LoopSetup {
            volume_file: mount.volume_file(),
            size_bytes,
            read_only: false,
            max_io_bytes,
            device_dir: PathBuf::from(DEVICE_DIR),
        };
        let device = setup.run().map_err(|error| {
            mount.abort();
            StartFrontEnd::Loop(error)
        })?;
        let address = FrontEndAddress::Loop { device: device.path().to_owned(), major: 7, minor: device.number() };
        Ok(Attached { kind, address, mount: Some(mount), device: Some(device) })
    }

    fn start_nbd(&self, name: &str, path: &Path) -> Result<Attached, StartFrontEnd> {
        let (volume, size_bytes) = self.size_of(name)?;
        let address = NbdAddress::Unix(path.to_owned());
        self.start_in_loop(volume, FrontConfig::Nbd(NbdConfig::new(address, name.to_owned(), size_bytes)))?;
        let kind = FrontEndKind::NbdSocket { path: path.to_owned() };
        let address = FrontEndAddress::NbdSocket { path: path.to_owned(), export: name.to_owned() };
        Ok(Attached { kind, address, mount: None, device: None })
    }

    fn size_of(&self, name: &str) -> Result<(VolumeId, u64), StartFrontEnd> {
        let volume = self.find(name)?;
        let status = self.status(name)?.wait().ok_or(FindVolume::Stopping)?;
        Ok((volume, BlockRange::new(0, status.core.config.size_blocks).bytes()))
    }

    fn start_in_loop(&self, volume: VolumeId, config: FrontConfig) -> Result<Option<MountPoint>, StartFrontEnd> {
        let (done, started) = pending();
        self.to_home(volume, LoopCommand::StartFront { volume, config: Box::new(config), done });
        started.wait().ok_or(FindVolume::Stopping)?.map_err(StartFrontEnd::Start)
    }

    fn stop_attached(&self, name: &str, attached: &Attached, force: bool) -> Result<(), StopFrontEnd> {
        if let Some(mount) = &attached.mount {
            if force {
                mount.abort();
            }
            if let Some(device) = &attached.device {
                match device.detach() {
                    Err(_) if force => LoopDevice::reclaim(mount.path(), Path::new(DEVICE_DIR)),
                    other => other.map_err(StopFrontEnd::Device)?,
                }
            }
            match mount.unmount() {
                Err(_) if force => mount.hide(),
                other => other.map_err(|errno| StopFrontEnd::Unmount(errno.into()))?,
            }
        }
        let volume = self.find(name)?;
        let (done, closed) = pending();
        self.to_home(volume, LoopCommand::EndFront { volume, done });
        let _ = closed.wait();
        Ok(())
    }
}

/// What an engine that was killed left at the same place is cleared first: the loop device, then the dead mount, by
/// whose path the device is known.
fn prepare_mount_dir(dir: &Path) -> io::Result<()> {
    LoopDevice::reclaim(dir, Path::new(DEVICE_DIR));
    clear_stale_mount(dir);
    std::fs::create_dir_all(dir)
}
