//! A faulty file under a loop device that carries a file system.

use super::file::FaultyFile;
use super::switch::Switch;
use crate::cleanup::Cleanup;
use crate::command::{program, run_ok};
use crate::loops::{LoopDevice, Mounted};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

const BLOCK_BYTES: u32 = 4096;

/// What the disk is formatted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Ext4, without lazy initialisation: nothing writes later by itself.
    Ext4,
    /// XFS with reflink, as the agent formats whole devices.
    Xfs,
}

/// A disk that fails on command. Its parts go in the order of the fields.
pub struct FaultyDisk {
    mounted: Mounted,
    _device: LoopDevice,
    file: FaultyFile,
}

impl FaultyDisk {
    /// Makes a disk of this size, its files below `dir`, mounted at `dir/mnt`.
    pub fn make(dir: &Path, size_bytes: u64, file_system: FileSystem, cleanup: &Cleanup) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let backing = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(dir.join("platter"))
            .context("make the backing file")?;
        backing.set_len(size_bytes).context("size the backing file")?;
        let covered = dir.join("disk");
        File::create(&covered).context("make the file to cover")?;
        let file = FaultyFile::serve(backing, &covered, cleanup)?;
        let device = LoopDevice::over(file.path(), BLOCK_BYTES, cleanup)?;
        match file_system {
            FileSystem::Ext4 => {
                let options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];
                run_ok(program("mkfs.ext4", options).arg(device.path()))?
            }
            FileSystem::Xfs => run_ok(program("mkfs.xfs", ["-q", "-f", "-K", "-m", "reflink=1"]).arg(device.path()))?,
        };
        let mounted = Mounted::mount(device.path(), &dir.join("mnt"), &[], cleanup)?;
        Ok(FaultyDisk { mounted, _device: device, file })
    }

    /// Where its file system is mounted.
    pub fn path(&self) -> &Path {
        self.mounted.path()
    }

    /// What makes it fail.
    pub fn switch(&self) -> &Arc<Switch> {
        self.file.switch()
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        // Unmounting a file system over a disk that hangs would hang.
        self.file.switch().heal();
    }
}
