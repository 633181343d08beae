//! Front ends as the node asks for them: mounted in the volume's loop, made into devices on the caller's thread.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Once;

use lockstep_core::{BlockRange, VolumeId};

use crate::engine::{Engine, FindVolume};
use crate::event_loop::{FrontConfig, FrontOutside, LoopCommand};
use crate::front::fuse::{DeviceReads, is_uring_enabled};
use crate::front::loopdev::file_name_for;
use crate::front::{
    FuseConfig, FuseConnection, FuseTransport, LoopDevice, LoopSetup, NbdAddress, NbdConfig, lock_memory,
};
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
    session: Option<Session>,
}

/// A file system under a loop device.
#[derive(Clone, Debug)]
struct Session {
    connection: FuseConnection,
    device: LoopDevice,
    max_io_bytes: u32,
    recoverable: bool,
}

/// What a successor needs to go on serving a loop device. The device's file system lives for as long as the loop device is bound and
/// somebody has the descriptor.
#[derive(Debug)]
pub struct LoopSession {
    /// `/dev/fuse`, as the file system was made with it.
    pub device: OwnedFd,
    /// Number of the connection, in `/sys/fs/fuse/connections`.
    pub connection: u64,
    /// N of `/dev/loopN`.
    pub loop_number: u32,
    /// Largest request that was agreed upon with the kernel.
    pub max_io_bytes: u32,
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
    /// What an earlier engine left is not there any more: the loop device was given up.
    #[error("the loop device of the volume is gone")]
    Gone,
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
            FrontEndKind::Loop { fuse } => self.start_loop(name, *fuse)?,
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

    /// What a successor of this engine needs to go on with the volume's loop device; none without one, or where the kernel does not
    /// send requests again (before Linux 6.9, or over io_uring).
    ///
    /// # Errors
    /// If no further descriptor can be had.
    pub fn loop_session(&self, name: &str) -> io::Result<Option<LoopSession>> {
        let session = self.with_attached(name, |attached| attached.as_ref().and_then(|there| there.session.clone()));
        let Some(session) = session.flatten().filter(|session| session.recoverable) else { return Ok(None) };
        Ok(Some(LoopSession {
            device: session.connection.device().as_fd().try_clone_to_owned()?,
            connection: session.connection.number(),
            loop_number: session.device.number(),
            max_io_bytes: session.max_io_bytes,
        }))
    }

    /// Goes on with a loop device of an earlier engine: what that one has not answered is asked again. The volume must be attached
    /// ([`lockstep_core::Command::Resume`]), so that everything that was in flight is settled.
    ///
    /// # Errors
    /// See [`StartFrontEnd`]. The device is as it was then; see [`Engine::abandon_front_end`].
    pub fn resume_front_end(&self, name: &str, session: LoopSession) -> Result<FrontEndAddress, StartFrontEnd> {
        if self.with_attached(name, |attached| attached.is_some()).unwrap_or(false) {
            return Err(StartFrontEnd::Exists(name.to_owned()));
        }
        let (volume, size_bytes) = self.size_of(name)?;
        let file_name = self.file_name(name, volume);
        let device = LoopDevice::of(session.loop_number, &file_name, Path::new(DEVICE_DIR));
        let device = device.ok_or(StartFrontEnd::Gone)?;
        let connection = FuseConnection::adopt(session.device, session.connection);
        if !connection.is_connected() {
            return Err(StartFrontEnd::Gone);
        }
        lock_memory_once();
        let transport = FuseTransport::Device(DeviceReads::Multishot);
        let config =
            FuseConfig { max_io_bytes: session.max_io_bytes, ..FuseConfig::new(file_name, size_bytes, transport) };
        let max_io_bytes = config.max_io_bytes;
        let FrontOutside { connection, recoverable, .. } =
            self.start_in_loop(volume, FrontConfig::FuseAgain(config, connection))?;
        let connection = connection.expect("a FUSE front end has a connection");
        let session = Session { connection, device, max_io_bytes, recoverable };
        let attached = Attached::of_loop(FuseKind::Recoverable, session);
        let address = attached.address.clone();
        self.with_attached(name, |slot| *slot = Some(attached));
        Ok(address)
    }

    /// Takes no more requests of the volume's loop device, and ends when those that are open are answered. The device stays, and
    /// whoever uses it waits, until a successor has its [`LoopSession`]; when all descriptors are closed it fails.
    ///
    /// # Errors
    /// If the volume cannot be asked.
    pub fn hand_over_front_end(&self, name: &str) -> Result<(), FindVolume> {
        let volume = self.find(name)?;
        let (done, closed) = pending();
        self.to_home(volume, LoopCommand::HandOverFront { volume, done });
        closed.wait().ok_or(FindVolume::Stopping)?;
        self.with_attached(name, Option::take);
        Ok(())
    }

    /// Fails a loop device of an earlier engine: whoever uses it gets errors, and it goes with its last user.
    pub fn abandon_front_end(&self, name: &str, volume: VolumeId, session: LoopSession) {
        let file_name = self.file_name(name, volume);
        FuseConnection::adopt(session.device, session.connection).abort();
        LoopDevice::reclaim(&file_name, Path::new(DEVICE_DIR));
    }

    /// Makes the volume's present size visible at its device. Waits for the kernel. Without a device, nothing happens.
    ///
    /// # Errors
    /// See [`GrowFrontEnd`].
    pub fn grow_front_end(&self, name: &str) -> Result<(), GrowFrontEnd> {
        let session = self.with_attached(name, |attached| attached.as_ref().and_then(|there| there.session.clone()));
        let Some(session) = session.flatten() else { return Ok(()) };
        let status = self.status(name)?.wait().ok_or(FindVolume::Stopping)?;
        let size_bytes = BlockRange::new(0, status.core.config.size_blocks).bytes();
        session.device.grow(size_bytes).map_err(GrowFrontEnd::Device)
    }

    fn start_loop(&self, name: &str, fuse: FuseKind) -> Result<Attached, StartFrontEnd> {
        let transport = match fuse {
            FuseKind::Recoverable => FuseTransport::Device(DeviceReads::Multishot),
            FuseKind::IoUring if is_uring_enabled() => FuseTransport::Uring,
            FuseKind::IoUring => return Err(StartFrontEnd::UringOff),
        };
        let (volume, size_bytes) = self.size_of(name)?;
        let file_name = self.file_name(name, volume);
        // What an engine that was killed left is cleared first.
        LoopDevice::reclaim(&file_name, Path::new(DEVICE_DIR));
        let config = FuseConfig::new(file_name.clone(), size_bytes, transport);
        lock_memory_once();
        let max_io_bytes = config.max_io_bytes;
        let FrontOutside { connection, root, recoverable } = self.start_in_loop(volume, FrontConfig::Fuse(config))?;
        let (connection, root) = connection.zip(root).expect("a FUSE front end has a file system");
        let device_dir = PathBuf::from(DEVICE_DIR);
        let file_name = connection.file_name(&file_name);
        let setup = LoopSetup { root, file_name, size_bytes, read_only: false, max_io_bytes, device_dir };
        let device = setup.run().map_err(|error| {
            connection.abort();
            StartFrontEnd::Loop(error)
        })?;
        Ok(Attached::of_loop(fuse, Session { connection, device, max_io_bytes, recoverable }))
    }

    /// The name of the file under a volume's loop device. It says which engine's it is: where several nodes share one kernel, they see
    /// each other's loop devices.
    fn file_name(&self, name: &str, volume: VolumeId) -> String {
        let place = file_name_for(&self.front_end_place(name));
        let id: String = volume.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{place}@{}.{id}", self.shared.identity.node.0)
    }

    fn start_nbd(&self, name: &str, path: &Path) -> Result<Attached, StartFrontEnd> {
        let (volume, size_bytes) = self.size_of(name)?;
        let address = NbdAddress::Unix(path.to_owned());
        self.start_in_loop(volume, FrontConfig::Nbd(NbdConfig::new(address, name.to_owned(), size_bytes)))?;
        let kind = FrontEndKind::NbdSocket { path: path.to_owned() };
        let address = FrontEndAddress::NbdSocket { path: path.to_owned(), export: name.to_owned() };
        Ok(Attached { kind, address, session: None })
    }

    fn size_of(&self, name: &str) -> Result<(VolumeId, u64), StartFrontEnd> {
        let volume = self.find(name)?;
        let status = self.status(name)?.wait().ok_or(FindVolume::Stopping)?;
        Ok((volume, BlockRange::new(0, status.core.config.size_blocks).bytes()))
    }

    fn start_in_loop(&self, volume: VolumeId, config: FrontConfig) -> Result<FrontOutside, StartFrontEnd> {
        let (done, started) = pending();
        self.to_home(volume, LoopCommand::StartFront { volume, config: Box::new(config), done });
        started.wait().ok_or(FindVolume::Stopping)?.map_err(StartFrontEnd::Start)
    }

    fn stop_attached(&self, name: &str, attached: &Attached, force: bool) -> Result<(), StopFrontEnd> {
        if let Some(Session { connection, device, .. }) = &attached.session {
            if force {
                connection.abort();
            }
            match device.detach() {
                Err(_) if force => {
                    let volume = self.find(name)?;
                    LoopDevice::reclaim(&self.file_name(name, volume), Path::new(DEVICE_DIR));
                }
                other => other.map_err(StopFrontEnd::Device)?,
            }
        }
        let volume = self.find(name)?;
        let (done, closed) = pending();
        self.to_home(volume, LoopCommand::EndFront { volume, done });
        let _ = closed.wait();
        Ok(())
    }
}

impl Attached {
    fn of_loop(fuse: FuseKind, session: Session) -> Attached {
        let device = &session.device;
        let address = FrontEndAddress::Loop { device: device.path().to_owned(), major: 7, minor: device.number() };
        Attached { kind: FrontEndKind::Loop { fuse }, address, session: Some(session) }
    }
}

fn lock_memory_once() {
    static LOCK: Once = Once::new();
    LOCK.call_once(|| {
        if let Err(error) = lock_memory() {
            tracing::warn!(%error, "memory_not_locked");
        }
    });
}
