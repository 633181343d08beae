//! Loop devices and the files behind them, from /sys/block.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::tool::{self, RunToolError};

/// A bound loop device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Like `loop3`.
    pub name: String,
    /// The file behind it.
    pub backing: PathBuf,
    /// `major:minor`.
    pub device: String,
}

impl Loop {
    /// Its path where the kernel or the engine put it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// The bound loop devices whose file lies under `dir`, and those of engines whose state directory does: the file of theirs is mounted
/// nowhere, and named after that directory.
///
/// # Errors
/// /sys cannot be read.
pub fn observe_under(dir: &Path) -> io::Result<Vec<Loop>> {
    let mut loops = Vec::new();
    let engines = format!("/{}!", lockstep_engine::front::loopdev::file_name_for(dir));
    for entry in std::fs::read_dir("/sys/block")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("loop") {
            continue;
        }
        // Both files vanish when the device is released meanwhile: then it is not bound.
        let (Ok(backing), Ok(device)) = (
            std::fs::read_to_string(entry.path().join("loop/backing_file")),
            std::fs::read_to_string(entry.path().join("dev")),
        ) else {
            continue;
        };
        let backing = PathBuf::from(backing.trim_end().trim_end_matches(" (deleted)"));
        if backing.starts_with(dir) || backing.to_string_lossy().starts_with(&engines) {
            loops.push(Loop { name, backing, device: device.trim().to_owned() });
        }
    }
    loops.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(loops)
}

/// Releases a loop device. If something has it open the kernel releases it at the last close.
///
/// # Errors
/// `losetup` cannot be run or fails.
pub fn release(device: &Loop) -> Result<(), RunToolError> {
    let path = device.path();
    // 1 with "No such device": it went meanwhile.
    match tool::run("losetup", "mount", &["--detach", &path.to_string_lossy()], &[]) {
        Err(RunToolError::Failed { message, .. }) if message.contains("No such device") => Ok(()),
        other => other.map(|_| ()),
    }
}
