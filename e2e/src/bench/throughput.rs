//! Everything that is compared under the same loads, set up at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::bed::{Bed, Layout};
use super::case::Case;
use super::comparison::{Access, Comparison, Series, Subject, Target, find_example, write_once, written_file};
use super::machine::enable_fuse_uring;
use super::qemu::QemuMirror;
use crate::cleanup::Cleanup;
use crate::loops::Mounted;

/// How much is compared.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// Size of each file and volume.
    pub bytes: u64,
    /// Rounds.
    pub rounds: usize,
    /// Time of one load on one target.
    pub duration: Duration,
    /// The loads.
    pub cases: &'a [Case],
    /// Whether Lockstep is measured too, or only what it is measured against.
    pub with_lockstep: bool,
}

/// Sets everything up below `directory`, runs the rounds, and takes everything down.
pub fn measure(directory: &Path, extent: Extent<'_>, cleanup: &Cleanup, say: &dyn Fn(&str)) -> Result<Comparison> {
    let mut targets = Vec::new();
    let mut add = |subject, series, access| targets.push(Target { subject, series, access });
    let bytes = extent.bytes;
    let files = directory.join("files");
    std::fs::create_dir_all(&files).with_context(|| format!("make {}", files.display()))?;
    let memory = Mounted::mount(
        Path::new("tmpfs"),
        &directory.join("tmpfs"),
        &["-t", "tmpfs", "-o", &format!("size={}", 3 * bytes)],
        cleanup,
    )?;

    say("writing the files of the floor once");
    let written = |path: PathBuf| written_file(&path, bytes).map(|()| path);
    add(Subject::RawFile, Series::OneDisk, Access::Fio(written(files.join("raw"))?));
    let program = find_example("floor", "LOCKSTEP_FLOOR_BIN")?;
    let local = written(files.join("floor-local"))?;
    for (series, peer) in
        [(Series::OneDisk, files.join("floor-peer")), (Series::PeerOnTmpfs, memory.path().join("floor-peer"))]
    {
        let access = Access::Floor { program: program.clone(), files: [local.clone(), written(peer)?] };
        add(Subject::Floor, series, access);
    }

    say("starting qemu-storage-daemon and writing its volumes once");
    let mut mirrors = Vec::new();
    for (series, name, peer) in [
        (Series::OneDisk, "qemu", files.join("qemu-peer")),
        (Series::PeerOnTmpfs, "qemu-tmpfs", memory.path().join("qemu-peer")),
    ] {
        let local = files.join(format!("{name}-local"));
        for path in [&local, &peer] {
            sized_file(path, bytes)?;
        }
        let mirror = QemuMirror::start(&local, &peer, &directory.join(name), cleanup)?;
        write_once(mirror.device())?;
        add(Subject::Qemu, series, Access::Fio(mirror.device().to_owned()));
        mirrors.push(mirror);
    }

    let mut beds = Vec::new();
    let mut switches = Vec::new();
    if extent.with_lockstep {
        say("starting Lockstep and writing its volumes once");
        // Room for what a pool keeps beside its replicas.
        let layout = Layout { tmpfs_pools: &[("c", bytes + (1 << 30))], ..Layout::default() };
        let bed = Bed::start(&directory.join("bed"), &layout, cleanup)?;
        let device = bed.written_volume("disk", bytes, "b", &["--fuse", "recoverable"])?;
        add(Subject::Lockstep, Series::OneDisk, Access::Fio(device));
        let device = bed.written_volume("tmpfs", bytes, "c", &["--fuse", "recoverable"])?;
        add(Subject::Lockstep, Series::PeerOnTmpfs, Access::Fio(device));
        match enable_fuse_uring(cleanup) {
            Ok(switch) => {
                switches.push(switch);
                let device = bed.written_volume("uring", bytes, "b", &["--fuse", "io_uring"])?;
                add(Subject::LockstepUring, Series::OneDisk, Access::Fio(device));
            }
            Err(error) => say(&format!("no series with FUSE over io_uring: {error:#}")),
        }
        beds.push(bed);
    }
    let comparison = Comparison::run(&targets, extent.cases, extent.rounds, extent.duration, say)?;
    drop((beds, switches, mirrors, memory));
    std::fs::remove_dir_all(&files).with_context(|| format!("remove {}", files.display()))?;
    Ok(comparison)
}

fn sized_file(path: &Path, bytes: u64) -> Result<()> {
    std::fs::File::create(path).and_then(|file| file.set_len(bytes)).with_context(|| format!("make {}", path.display()))
}
