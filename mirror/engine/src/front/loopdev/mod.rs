//! The loop device over the FUSE file: a block device that any kernel can make.
//!
//! Everything here waits for the kernel, and the kernel waits for the FUSE front end to answer (it opens the file, asks
//! for its attributes, writes back what is dirty): never call it on the event loop that serves the mount.
//!
//! The engine keeps no descriptor of the device open. A held one would keep the last *real* user's close from writing
//! dirty pages back; and the kernel would write them back while the dying engine closes its files, through the mount
//! that nobody serves any more. Therefore the device is not made with autoclear, and [`LoopDevice::reclaim`] finds what
//! an engine left behind: by the name of the file behind it, which is the volume's on this node and nobody else's.

mod abi;
mod errors;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

pub use errors::{ChangeLoop, SetupLoop};

use super::fuse::FuseRoot;

/// Somebody else may take the free device that the kernel named; on a busy machine more than once.
const CONFIGURE_TRIES_MAX: u32 = 64;
/// A program that scans new devices (udev) may hold one open for a moment.
const RELEASE_WAIT: Duration = Duration::from_secs(2);
const BLOCK_SIZE: u32 = 4096;

/// What it takes to make a loop device; to be `run` by a thread that does not serve the mount.
#[derive(Debug)]
pub struct LoopSetup {
    /// Where the file is. Dropped when the device is made: from then on the device keeps the file system.
    pub root: FuseRoot,
    /// Name of the file in there: [`super::FuseConnection::file_name`].
    pub file_name: String,
    /// Size that the device has to come up with.
    pub size_bytes: u64,
    /// Refuse writes at the device already.
    pub read_only: bool,
    /// Largest request that the front end takes ([`super::FuseConfig::max_io_bytes`]).
    pub max_io_bytes: u32,
    /// Where device nodes are: `/dev`. A missing node is made.
    pub device_dir: PathBuf,
}

/// A configured loop device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoopDevice {
    number: u32,
    path: PathBuf,
    file_name: String,
}

/// A name for the file of a volume's front end, out of the place where the engine keeps its state. A path without slashes, as the kernel
/// writes the names of devices that have some.
#[must_use]
pub fn file_name_for(place: &Path) -> String {
    resolve(place).to_string_lossy().replace('/', "!")
}

/// Fails every request, present and future, of the loop devices whose files are named after `place` ([`file_name_for`]), whichever engine
/// made them, without any engine's help and without waiting for one. The devices stay bound.
///
/// # Errors
/// If a connection is there and cannot be aborted.
pub fn fail_requests(place: &Path) -> io::Result<()> {
    let prefix = format!("{}@", file_name_for(place));
    let connections = numbers().filter_map(backing_file).filter(|name| name.starts_with(&prefix));
    for number in connections.filter_map(|name| name.rsplit_once('#')?.1.parse::<u64>().ok()) {
        match super::fuse::abort_connection(number) {
            // Aborted connections go as soon as nothing is under way.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl LoopSetup {
    /// Makes the device.
    ///
    /// # Errors
    /// See [`SetupLoop`].
    pub fn run(self) -> Result<LoopDevice, SetupLoop> {
        let file = self.open_file()?;
        let mut tries = 0;
        loop {
            tries += 1;
            let number = free_number()?;
            let path = ensure_node(&self.device_dir, number)?;
            let device = open_device(&path, !self.read_only, 0)
                .map_err(|source| SetupLoop::OpenDevice { path: path.clone(), source })?;
            match self.configure(&file, &device) {
                Ok(()) => {
                    let made = LoopDevice { number, path, file_name: self.file_name.clone() };
                    return self.check(made, device);
                }
                Err(Errno::EBUSY) if tries < CONFIGURE_TRIES_MAX => {}
                Err(source) => return Err(SetupLoop::Configure { path, source }),
            }
        }
    }

    fn open_file(&self) -> Result<OwnedFd, SetupLoop> {
        let opened = self.root.open(&self.file_name, !self.read_only);
        opened.map_err(|source| SetupLoop::OpenFile { name: self.file_name.clone(), source })
    }

    fn configure(&self, file: &OwnedFd, device: &File) -> nix::Result<()> {
        let mut info = abi::Status::EMPTY;
        info.flags = abi::FLAG_DIRECT_IO | if self.read_only { abi::FLAG_READ_ONLY } else { 0 };
        let fd = u32::try_from(file.as_raw_fd()).expect("open descriptors are not negative");
        let config = abi::Config { fd, block_size: BLOCK_SIZE, info, reserved: [0; 8] };
        abi::configure(device.as_raw_fd(), &config)
    }

    /// A loop device that silently goes through the page cache would keep data from the replicas, and a wrong size
    /// means that the front end was not asked: give both up at once.
    fn check(&self, made: LoopDevice, device: File) -> Result<LoopDevice, SetupLoop> {
        let direct = abi::status(device.as_raw_fd()).is_ok_and(|status| status.flags & abi::FLAG_DIRECT_IO != 0);
        let size_bytes = abi::size_bytes(device.as_raw_fd()).unwrap_or(0);
        if direct && size_bytes == self.size_bytes {
            made.tune(self.max_io_bytes);
            return Ok(made);
        }
        let _ = abi::clear(device.as_raw_fd());
        Err(SetupLoop::NotAsAsked { path: made.path, size_bytes })
    }
}

impl LoopDevice {
    /// The device node, `/dev/loopN`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// N of `/dev/loopN`: the minor number, major number 7.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The device of this number, if it is bound to a file of this name, whatever the number of its connection.
    #[must_use]
    pub fn of(number: u32, base: &str, device_dir: &Path) -> Option<LoopDevice> {
        let file_name = backing_file(number)?;
        if file_name.rsplit_once('#')?.0 != base {
            return None;
        }
        let path = ensure_node(device_dir, number).ok()?;
        Some(LoopDevice { number, path, file_name })
    }

    /// Finds the devices over files of this name, dead or alive, whichever process made them.
    #[must_use]
    pub fn find(base: &str, device_dir: &Path) -> Vec<LoopDevice> {
        numbers().filter_map(|number| LoopDevice::of(number, base, device_dir)).collect()
    }

    /// Gives up every device that an engine which is gone left over the file of this name. A device that somebody still uses is
    /// marked to go with its last user.
    pub fn reclaim(base: &str, device_dir: &Path) {
        for device in LoopDevice::find(base, device_dir) {
            if let Ok(file) = open_device(&device.path, false, 0) {
                let _ = abi::clear(file.as_raw_fd());
            }
        }
    }

    /// Makes a growth of the volume visible. The front end has to know the new size already.
    ///
    /// # Errors
    /// See [`ChangeLoop`].
    pub fn grow(&self, size_bytes: u64) -> Result<(), ChangeLoop> {
        let device = self.open(0)?;
        let kernel = |source| ChangeLoop::Kernel { path: self.path.clone(), source };
        // LOOP_SET_CAPACITY of older kernels believes what was last heard of the file's size. To ask for the device's status asks
        // FUSE for it anew.
        abi::status(device.as_raw_fd()).map_err(kernel)?;
        abi::set_capacity(device.as_raw_fd()).map_err(kernel)?;
        let found = abi::size_bytes(device.as_raw_fd()).map_err(kernel)?;
        if found != size_bytes {
            return Err(ChangeLoop::Size { path: self.path.clone(), wanted: size_bytes, found });
        }
        Ok(())
    }

    /// Gives the device up, after writing back what is dirty. Refused while it is mounted or somebody holds it open;
    /// then it goes on working.
    ///
    /// # Errors
    /// See [`ChangeLoop`].
    pub fn detach(&self) -> Result<(), ChangeLoop> {
        if !self.is_configured() {
            return Ok(());
        }
        // A mount, md or device mapper holds the device exclusively.
        let device = self.open(libc::O_EXCL)?;
        match abi::clear(device.as_raw_fd()) {
            Ok(()) => {}
            Err(Errno::ENXIO) => return Ok(()),
            Err(source) => return Err(ChangeLoop::Kernel { path: self.path.clone(), source }),
        }
        // The kernel clears at the last close. Ours is that one, unless somebody else has the device open.
        drop(device);
        let deadline = Instant::now() + RELEASE_WAIT;
        while self.is_configured() {
            if Instant::now() > deadline {
                self.withdraw_clear();
                return Err(ChangeLoop::InUse { path: self.path.clone() });
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Whether the device is still bound to this volume's file.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        backing_file(self.number).is_some_and(|file| file == self.file_name)
    }

    fn open(&self, flags: i32) -> Result<File, ChangeLoop> {
        open_device(&self.path, false, flags).map_err(|source| {
            let path = self.path.clone();
            match source.raw_os_error() {
                Some(libc::EBUSY) => ChangeLoop::InUse { path },
                _ => ChangeLoop::Open { path, source },
            }
        })
    }

    /// Clearing a device that is open marks it with autoclear; the refusal must not leave that behind.
    fn withdraw_clear(&self) {
        let Ok(device) = open_device(&self.path, false, 0) else { return };
        if let Ok(mut status) = abi::status(device.as_raw_fd()) {
            status.flags &= !abi::FLAG_AUTOCLEAR;
            let _ = abi::set_status(device.as_raw_fd(), &status);
        }
    }

    /// Queue settings that only make it faster: requests no larger than the front end's, and no belief in a spindle.
    fn tune(&self, max_io_bytes: u32) {
        let queue = PathBuf::from(format!("/sys/block/loop{}/queue", self.number));
        let _ = fs::write(queue.join("max_sectors_kb"), (max_io_bytes / 1024).to_string());
        let _ = fs::write(queue.join("rotational"), "0");
    }
}

fn free_number() -> Result<u32, SetupLoop> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control").map_err(SetupLoop::GetFree)?;
    let number = abi::get_free(control.as_raw_fd()).map_err(|errno| SetupLoop::GetFree(errno.into()))?;
    u32::try_from(number).map_err(|_| SetupLoop::GetFree(io::ErrorKind::InvalidData.into()))
}

/// No udev runs in a container: make the node if it is missing.
fn ensure_node(device_dir: &Path, number: u32) -> Result<PathBuf, SetupLoop> {
    let path = device_dir.join(format!("loop{number}"));
    match mknod(&path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), makedev(abi::MAJOR, u64::from(number))) {
        Ok(()) | Err(Errno::EEXIST) => Ok(path),
        Err(source) => Err(SetupLoop::MakeNode { path, source }),
    }
}

fn open_device(path: &Path, write: bool, flags: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(write).custom_flags(flags | libc::O_CLOEXEC).open(path)
}

/// The numbers of all loop devices, in order.
fn numbers() -> impl Iterator<Item = u32> {
    let names = fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut numbers: Vec<u32> = names.filter_map(|name| name.to_str()?.strip_prefix("loop")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.into_iter()
}

/// The name of the file behind a device: its path in a file system that is mounted nowhere. (LOOP_GET_STATUS64 asks FUSE for
/// attributes, and fails if nobody serves it any more.)
fn backing_file(number: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/sys/block/loop{number}/loop/backing_file")).ok()?;
    Some(text.trim_end_matches('\n').strip_prefix('/')?.to_owned())
}

/// The place itself need not exist, only its parent.
fn resolve(mount_dir: &Path) -> PathBuf {
    let resolved = mount_dir.parent().zip(mount_dir.file_name()).and_then(|(parent, name)| {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        Some(parent.canonicalize().ok()?.join(name))
    });
    resolved.unwrap_or_else(|| mount_dir.to_owned())
}
