//! The comparison: qemu-storage-daemon as a mirror. A quorum over a local file and an NBD peer, exported as a FUSE file
//! under a loop device with direct I/O: the same front end as Lockstep's, the same number of copies and of processes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cleanup::{Cleanup, Undo};
use crate::loops::LoopDevice;
use crate::{command, wait};

const READY_BOUND: Duration = Duration::from_secs(20);
const DAEMON: &str = "qemu-storage-daemon";

/// A mirror of two raw files. Fields are undone in their order: the device before the daemons.
pub struct QemuMirror {
    device: LoopDevice,
    _writer: Daemon,
    _peer: Daemon,
}

impl QemuMirror {
    /// Starts both daemons over two existing files of one size; `directory` takes the socket-less odds and ends.
    pub fn start(local: &Path, peer: &Path, directory: &Path, cleanup: &Cleanup) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let port = free_port()?;
        let peer_daemon = Daemon::start(
            &directory.join("peer.pid"),
            &[
                "--nbd-server".to_owned(),
                format!("addr.type=inet,addr.host=127.0.0.1,addr.port={port}"),
                "--blockdev".to_owned(),
                file_node("peer", peer),
                "--export".to_owned(),
                "type=nbd,id=peer,node-name=peer,name=peer,writable=on".to_owned(),
            ],
            cleanup,
        )?;
        let mount_point = directory.join("volume");
        std::fs::File::create(&mount_point).with_context(|| format!("make {}", mount_point.display()))?;
        let writer = Daemon::start(
            &directory.join("writer.pid"),
            &[
                "--blockdev".to_owned(),
                file_node("local", local),
                "--blockdev".to_owned(),
                format!(
                    "driver=nbd,node-name=remote,server.type=inet,server.host=127.0.0.1,server.port={port},export=peer"
                ),
                "--blockdev".to_owned(),
                // A write waits for both children; the threshold says how many may be lost before it is an error.
                "driver=quorum,node-name=mirror,vote-threshold=1,children.0=local,children.1=remote,read-pattern=fifo"
                    .to_owned(),
                "--export".to_owned(),
                format!("type=fuse,id=volume,node-name=mirror,mountpoint={},writable=on", mount_point.display()),
            ],
            cleanup,
        )?;
        let device = LoopDevice::over(&mount_point, 4096, cleanup)?;
        Ok(QemuMirror { device, _writer: writer, _peer: peer_daemon })
    }

    /// The block device of the mirror.
    pub fn device(&self) -> &Path {
        self.device.path()
    }
}

fn file_node(name: &str, file: &Path) -> String {
    format!("driver=file,node-name={name},filename={},cache.direct=on,aio=io_uring,discard=unmap", file.display())
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// A storage daemon that is ended when dropped.
struct Daemon {
    _end: Undo,
}

impl Daemon {
    /// Starts one and waits until it serves: it writes its pid file only then.
    fn start(pid_file: &Path, arguments: &[String], cleanup: &Cleanup) -> Result<Self> {
        let mut daemon = Command::new(DAEMON);
        daemon.args(arguments).arg("--pidfile").arg(pid_file).stdin(Stdio::null()).stdout(Stdio::null());
        let child = daemon.spawn().with_context(|| format!("start {}", command::show(&daemon)))?;
        let child = Arc::new(Mutex::new(child));
        let end = {
            let child = child.clone();
            let pid_file = PathBuf::from(pid_file);
            cleanup.defer(move || {
                end(&mut child.lock().unwrap_or_else(PoisonError::into_inner));
                let _ = std::fs::remove_file(&pid_file);
            })
        };
        wait::until_true("qemu-storage-daemon serves", READY_BOUND, || {
            if let Some(status) = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()? {
                bail!("{} ended: {status}", command::show(&daemon));
            }
            Ok(pid_file.exists())
        })?;
        Ok(Daemon { _end: end })
    }
}

/// SIGTERM lets it unmount its export; SIGKILL if that takes too long.
fn end(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("pids are positive and small"));
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    if !matches!(command::wait_bounded(child, READY_BOUND), Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}
