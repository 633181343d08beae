//! The FUSE server: one file, which is the root of its own mount.

use super::switch::{Operation, Switch, Trouble};
use crate::cleanup::{Cleanup, Undo};
use crate::command::{program, run_ok};
use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

/// Requests that the kernel may have under way at once: a hanging file must be able to swallow a whole queue.
const REQUESTS_MAX: u16 = 256;
const ATTRIBUTES_VALID: Duration = Duration::from_secs(3600);
const BLOCK_BYTES: u32 = 4096;

/// A file whose reads, writes and syncs can be made to fail, to hang or to be full.
pub struct FaultyFile {
    path: PathBuf,
    switch: Arc<Switch>,
    _unmount: Undo,
}

impl FaultyFile {
    /// Serves `backing` at `path`, an existing regular file that is covered by the mount.
    pub fn serve(backing: File, path: &Path, cleanup: &Cleanup) -> Result<Self> {
        let switch = Arc::new(Switch::default());
        let size = backing.metadata().context("look at the backing file")?.size();
        let server = Server { backing: Arc::new(backing), size, switch: switch.clone() };
        let session: Arc<Mutex<Option<BackgroundSession>>> = Arc::default();
        let unmount = {
            let (session, switch, path) = (session.clone(), switch.clone(), path.to_path_buf());
            cleanup.defer(move || {
                // A request that hangs would keep the mount busy.
                switch.heal();
                let served = session.lock().unwrap_or_else(PoisonError::into_inner).take();
                let Some(served) = served else { return };
                if let Err(error) = served.umount_and_join() {
                    eprintln!("faulty file is not unmounted at once: {error}");
                }
                // Who has it open still keeps the mount: its name goes now, the rest with the last user.
                if is_mounted(&path)
                    && let Err(error) = run_ok(&mut program("umount", ["--lazy".as_ref(), path.as_os_str()]))
                {
                    eprintln!("{error:#}");
                }
            })
        };
        let mounted = fuser::spawn_mount(server, path, &Config::default())
            .with_context(|| format!("mount a faulty file at {}", path.display()))?;
        *session.lock().unwrap_or_else(PoisonError::into_inner) = Some(mounted);
        Ok(FaultyFile { path: path.to_path_buf(), switch, _unmount: unmount })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its switch.
    pub fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }
}

/// True while a file system of its own covers the file; a dead one may answer from the kernel's memory, or not at all.
fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev());
    match (device(path), path.parent().map(device)) {
        (Ok(own), Some(Ok(around))) => own != around,
        (Err(error), _) => error.raw_os_error() == Some(libc::ENOTCONN),
        _ => false,
    }
}

struct Server {
    backing: Arc<File>,
    size: u64,
    switch: Arc<Switch>,
}

impl Server {
    /// Carries an operation out as the switch says, and answers: at once, or from a thread of its own if it hangs.
    fn answer<R: Send + 'static, T: 'static>(
        &self,
        operation: Operation,
        reply: R,
        work: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
        answer: fn(R, Result<T, Errno>),
    ) {
        match self.switch.meet(operation) {
            Some(Trouble::Hang) => {
                let (switch, backing) = (self.switch.clone(), self.backing.clone());
                thread::spawn(move || {
                    let then = switch.wait_while_hanging(operation);
                    answer(reply, carry_out(then, &backing, work));
                });
            }
            now => answer(reply, carry_out(now, &self.backing, work)),
        }
    }

    fn attributes(&self) -> FileAttr {
        FileAttr {
            ino: INodeNo::ROOT,
            size: self.size,
            blocks: self.size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }
}

fn carry_out<T>(
    trouble: Option<Trouble>,
    backing: &File,
    work: impl FnOnce(&File) -> io::Result<T>,
) -> Result<T, Errno> {
    match trouble {
        Some(Trouble::Full) => Err(Errno::ENOSPC),
        Some(Trouble::Fail | Trouble::Hang) => Err(Errno::EIO),
        None => work(backing).map_err(Errno::from),
    }
}

fn answer_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut fuser::KernelConfig) -> io::Result<()> {
        // A kernel that allows fewer says how many.
        if let Err(allowed) = config.set_max_background(REQUESTS_MAX) {
            let _ = config.set_max_background(allowed);
        }
        Ok(())
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&ATTRIBUTES_VALID, &self.attributes());
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Without the page cache in between: every operation of the loop device arrives here.
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = move |backing: &File| {
            let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
            backing.read_exact_at(&mut bytes, offset)?;
            Ok(bytes)
        };
        self.answer(Operation::Read, reply, work, |reply, result| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        let work = move |backing: &File| {
            backing.write_all_at(&data, offset)?;
            Ok(u32::try_from(data.len()).unwrap_or(0))
        };
        self.answer(Operation::Write, reply, work, |reply, result| match result {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // The backing file stands for the disk's platter: what it holds survives everything that tests do.
        self.answer(Operation::Sync, reply, |_| Ok(()), answer_empty);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let work = move |backing: &File| {
            let range = |number: u64| i64::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL));
            let flags = FallocateFlags::from_bits_truncate(mode);
            fallocate(backing, flags, range(offset)?, range(length)?).map_err(io::Error::from)
        };
        self.answer(Operation::Write, reply, work, answer_empty);
    }
}
