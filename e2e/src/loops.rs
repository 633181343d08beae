//! Loop devices and mounts, undone by their guards.

use crate::cleanup::{Cleanup, Undo};
use crate::command::{self, program, run_ok};
use crate::wait;
use anyhow::{Context, Result};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs;
use std::path::{Path, PathBuf};

/// A loop device over a file.
pub struct LoopDevice {
    path: PathBuf,
    _detach: Undo,
}

impl LoopDevice {
    /// Configures a free one with direct I/O and blocks of this size.
    pub fn over(file: &Path, block_bytes: u32, cleanup: &Cleanup) -> Result<Self> {
        ensure_nodes()?;
        let shown = run_ok(
            program("losetup", ["--find", "--show", "--direct-io=on", "--sector-size", &block_bytes.to_string()])
                .arg(file),
        )?;
        let path = PathBuf::from(shown.trim());
        let detach = {
            let path = path.clone();
            cleanup.defer(move || {
                report("losetup", &["--detach", &path.to_string_lossy()]);
                await_release(&path);
            })
        };
        Ok(LoopDevice { path, _detach: detach })
    }

    /// Its device node.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A device that is still open somewhere goes only with its last user, and keeps its file busy until then.
fn await_release(device: &Path) {
    let Some(name) = device.file_name() else { return };
    let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
    let released = wait::until_true("it has let go of its file", command::PROGRAM_BOUND, || Ok(!backing.exists()));
    if let Err(error) = released {
        eprintln!("{}: {error:#}", device.display());
    }
}

/// No udev runs in a container: the nodes that `losetup` opens have to be there.
fn ensure_nodes() -> Result<()> {
    const LOOP_MAJOR: u64 = 7;
    const NODES: u64 = 64;
    for minor in 0..NODES {
        let path = PathBuf::from(format!("/dev/loop{minor}"));
        if !path.exists() {
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            match mknod(&path, SFlag::S_IFBLK, mode, makedev(LOOP_MAJOR, minor)) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("make {}", path.display()));
                }
            }
        }
    }
    Ok(())
}

/// A mounted file system.
pub struct Mounted {
    path: PathBuf,
    _unmount: Undo,
}

impl Mounted {
    /// Mounts `device` at `path`, which is made if it is missing.
    pub fn mount(device: &Path, path: &Path, options: &[&str], cleanup: &Cleanup) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        run_ok(program("mount", options).arg(device).arg(path))?;
        let unmount = {
            let path = path.to_path_buf();
            cleanup.defer(move || {
                // A dead device may refuse to be unmounted cleanly: then at least the name goes.
                if run_ok(&mut program("umount", [&path])).is_err() {
                    report("umount", &["--lazy", &path.to_string_lossy()]);
                }
            })
        };
        Ok(Mounted { path: path.to_path_buf(), _unmount: unmount })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn report(name: &str, arguments: &[&str]) {
    let ended = command::run(&mut program(name, arguments), command::PROGRAM_BOUND);
    match ended {
        Ok(ended) if ended.status.success() => {}
        Ok(ended) => eprintln!("{name} {}: {ended}", arguments.join(" ")),
        Err(error) => eprintln!("{name} {}: {error:#}", arguments.join(" ")),
    }
}
