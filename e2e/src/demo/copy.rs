//! The large copy: bytes that follow from a seed, written to a file of the mounted file system.

use crate::random::Random;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

const PART_BYTES: usize = 1 << 20;
/// Synced this often, so that the copy is a load on the volume and not on the page cache.
const PARTS_PER_SYNC: u64 = 4;

/// A running copy.
pub struct Copy {
    done: Arc<AtomicU64>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Copy {
    /// Starts to write a file of so many MiB.
    pub fn start(path: &Path, seed: u64, parts: u64) -> Self {
        let done = Arc::<AtomicU64>::default();
        let (path, counted) = (path.to_path_buf(), done.clone());
        let thread = thread::spawn(move || write(&path, seed, parts, &counted));
        Copy { done, thread }
    }

    /// Bytes that are on the volume.
    pub fn done_bytes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether it has ended, well or not.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end; call it when finished.
    pub fn finish(self) -> Result<()> {
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("the copy's thread panicked")),
        }
    }
}

fn write(path: &PathBuf, seed: u64, parts: u64, done: &AtomicU64) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    for part in 0..parts {
        file.write_all(&content(seed, part)).context("write the copy")?;
        if (part + 1) % PARTS_PER_SYNC == 0 || part + 1 == parts {
            file.sync_data().context("sync the copy")?;
            done.store((part + 1) * PART_BYTES as u64, Ordering::Relaxed);
        }
    }
    file.sync_all().context("sync the copy")
}

/// Reads the file back and compares every byte.
pub fn check(path: &Path, seed: u64, parts: u64) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut found = vec![0; PART_BYTES];
    for part in 0..parts {
        file.read_exact(&mut found).with_context(|| format!("read MiB {part} of the copy"))?;
        ensure!(found == content(seed, part), "MiB {part} of the copy is not what was written");
    }
    Ok(())
}

fn content(seed: u64, part: u64) -> Vec<u8> {
    let mut random = Random::new(seed.rotate_left(32) ^ part);
    (0..PART_BYTES / 8).flat_map(|_| random.draw().to_le_bytes()).collect()
}
