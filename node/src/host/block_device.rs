//! Block devices as the kernel shows them, without opening them; and a look whether one answers, which nothing waits for that must not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor};
use tokio::time::Instant;

/// What sizes in /sys are counted in, whatever the device's blocks are.
const SECTOR_BYTES: u64 = 512;

/// What is read to see whether a device answers: a block of ours, which is also the alignment that direct I/O wants.
const PROBE_BYTES: usize = 4096;

/// How often it is looked whether a device is free.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The number of a device that was made at an earlier time may be another's by now: with this, and the boot, it is unmistakable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRun {
    /// Of the machine's run (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Counts up with every disk, and with every binding of a loop device (`diskseq` in /sys, kernel 5.15).
    pub sequence: u64,
}

/// Why a device does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It answers with an error.
    #[error("a read of {path} failed")]
    Read {
        /// Its node.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It does not answer in time. The read goes on waiting.
    #[error("a read of {path} was not answered within {} s", within.as_secs_f32())]
    TimedOut {
        /// Its node.
        path: String,
        /// How long it had.
        within: Duration,
    },
}

fn sys(major: u32, minor: u32, file: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{file}")).map(|text| text.trim().to_owned())
}

fn sys_number(major: u32, minor: u32, file: &str) -> io::Result<u64> {
    sys(major, minor, file)?
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{file} is no number")))
}

/// Its size in bytes.
///
/// # Errors
/// There is no such device.
pub fn observe_size(major: u32, minor: u32) -> io::Result<u64> {
    Ok(sys_number(major, minor, "size")? * SECTOR_BYTES)
}

/// Which of all devices that ever had its number it is.
///
/// # Errors
/// There is no such device, or the kernel is older than 5.15.
pub fn observe_run(major: u32, minor: u32) -> io::Result<DeviceRun> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(DeviceRun { boot_id, sequence: sys_number(major, minor, "diskseq")? })
}

/// The number of the block device whose node is at `path`; none: nothing, or something else, is there. Does not touch the device.
///
/// # Errors
/// The system refuses.
pub fn observe_number(path: &Path) -> io::Result<Option<(u32, u32)>> {
    let number = |device: u64| {
        let fits = |part: u64| u32::try_from(part).expect("Linux has 12 bits for major and 20 for minor numbers");
        (fits(major(device)), fits(minor(device)))
    };
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok(there.file_type().is_block_device().then(|| number(there.rdev()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads `bytes` bytes at `offset` past every cache. On a thread of its own, which is left alone if the device does not answer: it ends
/// when the device does.
///
/// # Errors
/// The device answers with an error, or not in time.
pub async fn read_directly(path: &Path, offset: u64, bytes: usize, within: Duration) -> Result<Vec<u8>, ProbeError> {
    let (sent, received) = tokio::sync::oneshot::channel();
    let device = path.to_owned();
    let name = || path.display().to_string();
    let started = std::thread::Builder::new().name("device-probe".to_owned()).spawn(move || {
        // Nobody may listen any more.
        let _ = sent.send(read_aligned(&device, offset, bytes));
    });
    started.map_err(|source| ProbeError::Read { path: name(), source })?;
    match tokio::time::timeout(within, received).await {
        Ok(Ok(Ok(read))) => Ok(read),
        Ok(Ok(Err(source))) => Err(ProbeError::Read { path: name(), source }),
        Ok(Err(_)) => Err(ProbeError::Read { path: name(), source: io::Error::other("the reading thread panicked") }),
        Err(_) => Err(ProbeError::TimedOut { path: name(), within }),
    }
}

/// Looks whether the device answers: its first block is read.
///
/// # Errors
/// See [`read_directly`].
pub async fn probe(path: &Path, within: Duration) -> Result<(), ProbeError> {
    read_directly(path, 0, PROBE_BYTES, within).await.map(|_| ())
}

/// Direct I/O wants its buffer aligned: a part of a larger one is.
fn read_aligned(path: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags((OFlag::O_DIRECT | OFlag::O_CLOEXEC).bits()).open(path)?;
    let mut memory = vec![0; bytes + PROBE_BYTES];
    let start = memory.as_ptr().align_offset(PROBE_BYTES);
    let buffer = &mut memory[start..start + bytes];
    file.read_exact_at(buffer, offset)?;
    Ok(buffer.to_vec())
}

/// Waits until nothing has the device for itself alone: no mount, no mkfs and no fsck, also not one whose caller was killed. Says whether that
/// came to be before `deadline`.
///
/// # Errors
/// The device cannot be opened for another reason.
pub async fn wait_unclaimed(path: &Path, deadline: Instant) -> io::Result<bool> {
    loop {
        let device = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || open_exclusively(&device)).await.map_err(io::Error::other)?;
        match opened {
            Ok(_) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(nix::Error::EBUSY as i32) => {}
            // The device behind the node is gone.
            Err(error) if error.raw_os_error() == Some(nix::Error::ENXIO as i32) => return Ok(true),
            Err(error) => return Err(error),
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn open_exclusively(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags((OFlag::O_EXCL | OFlag::O_CLOEXEC).bits()).open(path)
}

/// The file behind a loop device; none: it is none, or not bound. Does not touch the device.
#[must_use]
pub fn observe_backing(major: u32, minor: u32) -> Option<PathBuf> {
    let text = sys(major, minor, "loop/backing_file").ok()?;
    Some(PathBuf::from(text.trim_end_matches(" (deleted)")))
}

#[cfg(test)]
mod tests {
    use super::{ProbeError, observe_number, observe_run, probe};
    use std::path::Path;
    use std::time::Duration;

    #[tokio::test]
    async fn a_file_that_is_too_short_does_not_answer() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 4096]).expect("writable");
        probe(&path, Duration::from_secs(20)).await.expect("it is long enough");
        std::fs::write(&path, vec![7; 100]).expect("writable");
        let failed = probe(&path, Duration::from_secs(20)).await.expect_err("it is too short");
        assert!(matches!(failed, ProbeError::Read { .. }), "{failed}");
    }

    #[test]
    fn what_is_no_block_device_has_no_number() {
        assert_eq!(observe_number(Path::new("/dev/null")).expect("there"), None);
        assert_eq!(observe_number(Path::new("/dev/none/at/all")).expect("not there"), None);
        assert!(observe_run(4095, 1).is_err());
    }
}
