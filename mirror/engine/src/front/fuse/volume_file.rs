//! The file system of one file: what each request of the kernel means. Pure: no I/O, no memory of its own but the size.

use super::abi::{self, ROOT_NODE, fallocate, init_flag, open_flag, setattr_valid};
use super::request::{Operation, RequestHeader};
use super::response::{self, Answer, Attributes, InitAnswer};
use crate::front::request::{FrontOp, is_whole_blocks};

const FILE_NODE: u64 = 2;

/// What to do with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reaction {
    /// The kernel expects no answer.
    Nothing,
    /// Answer now; the error is a positive error number.
    Answer(Result<Answer, i32>),
    /// Ask the engine.
    Io { op: FrontOp, offset: u64, len: u64 },
}

/// The volume, as a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct VolumeFile {
    /// Its name in the root of the file system: what a loop device over it is known by.
    pub name: String,
    pub size_bytes: u64,
    /// Largest read or write, in bytes.
    pub max_io_bytes: u32,
    pub read_only: bool,
}

/// Why a kernel cannot be spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NegotiateFuse {
    /// The first request is not INIT.
    #[error("the kernel's first request is operation {0}, not INIT")]
    NotInit(u32),
    /// Too old.
    #[error("the kernel speaks FUSE {major}.{minor}, at least 7.31 (Linux 5.10) is needed")]
    Version {
        /// Major version.
        major: u32,
        /// Minor version.
        minor: u32,
    },
    /// A capability without which the file cannot be served in parallel.
    #[error("the kernel's FUSE lacks asynchronous direct I/O")]
    NoAsyncDirectIo,
    /// FUSE over io_uring was asked for and is not offered.
    #[error("the kernel offers no FUSE over io_uring (is /sys/module/fuse/parameters/enable_uring set?)")]
    NoUring,
}

/// Answers INIT.
pub(crate) fn negotiate(
    header: RequestHeader,
    operation: Operation<'_>,
    max_io_bytes: u32,
    over_uring: bool,
) -> Result<InitAnswer, NegotiateFuse> {
    let Operation::Init { major, minor, max_readahead, flags } = operation else {
        return Err(NegotiateFuse::NotInit(header.opcode));
    };
    if major != abi::MAJOR || minor < abi::MINOR_MIN {
        return Err(NegotiateFuse::Version { major, minor });
    }
    if flags & init_flag::ASYNC_DIO == 0 || flags & init_flag::MAX_PAGES == 0 {
        return Err(NegotiateFuse::NoAsyncDirectIo);
    }
    let mut wanted = init_flag::ASYNC_READ
        | init_flag::ASYNC_DIO
        | init_flag::BIG_WRITES
        | init_flag::PARALLEL_DIROPS
        | init_flag::MAX_PAGES
        | init_flag::INIT_EXT;
    if over_uring {
        if flags & init_flag::OVER_IO_URING == 0 {
            return Err(NegotiateFuse::NoUring);
        }
        wanted |= init_flag::OVER_IO_URING;
    }
    Ok(InitAnswer {
        can_resend: flags & init_flag::HAS_RESEND != 0,
        minor: minor.min(abi::MINOR),
        max_readahead,
        flags: wanted & flags,
        // Asynchronous requests in flight; the kernel's default of 12 would cut the device's queue of 128.
        max_background: 1024,
        max_write: max_io_bytes,
    })
}

impl VolumeFile {
    pub(crate) fn on_request(&self, header: RequestHeader, operation: Operation<'_>) -> Reaction {
        let answer = match operation {
            Operation::Notice => return Reaction::Nothing,
            Operation::Read { offset, size } => return self.on_read(offset, size),
            Operation::Write { offset, size } => {
                return self.on_change(FrontOp::Write { fua: false }, offset, u64::from(size));
            }
            Operation::Fallocate { offset, len, mode } => return self.on_fallocate(offset, len, mode),
            Operation::Fsync => return Reaction::Io { op: FrontOp::Flush, offset: 0, len: 0 },
            Operation::Init { .. } | Operation::Unknown => Err(libc::ENOSYS),
            Operation::Lookup { name } => self.on_lookup(header.node, name),
            Operation::GetAttr => self.attributes(header.node).map(response::attr_out),
            Operation::SetAttr { valid, size } => self.on_setattr(header.node, valid, size),
            Operation::Open if header.node == FILE_NODE => {
                let flags = open_flag::DIRECT_IO | open_flag::PARALLEL_DIRECT_WRITES | open_flag::NOFLUSH;
                Ok(response::open_out(flags))
            }
            Operation::Open => Err(libc::EISDIR),
            Operation::OpenDir => Ok(response::open_out(0)),
            Operation::ReadDir { offset, size } => {
                let entries = [(ROOT_NODE, ".", 4), (ROOT_NODE, "..", 4), (FILE_NODE, self.name.as_str(), 8)];
                Ok(response::directory(&entries, offset, size))
            }
            Operation::Acknowledge => Ok(Answer::empty()),
            Operation::StatFs => Ok(response::statfs_out(self.size_bytes / 4096)),
            Operation::Lseek { offset, whence } => self.on_lseek(offset, whence),
        };
        Reaction::Answer(answer)
    }

    fn attributes(&self, node: u64) -> Result<Attributes, i32> {
        let access = if self.read_only { 0o400 } else { 0o600 };
        match node {
            ROOT_NODE => Ok(Attributes { node, size_bytes: 0, mode: libc::S_IFDIR | 0o700, links: 2 }),
            FILE_NODE => Ok(Attributes { node, size_bytes: self.size_bytes, mode: libc::S_IFREG | access, links: 1 }),
            _ => Err(libc::ENOENT),
        }
    }

    fn on_lookup(&self, parent: u64, name: &[u8]) -> Result<Answer, i32> {
        if parent != ROOT_NODE || name != self.name.as_bytes() {
            return Err(libc::ENOENT);
        }
        self.attributes(FILE_NODE).map(response::entry_out)
    }

    /// Times and modes are accepted and forgotten; the size changes by a resize of the volume only.
    fn on_setattr(&self, node: u64, valid: u32, size: u64) -> Result<Answer, i32> {
        if valid & setattr_valid::SIZE != 0 && size != self.size_bytes {
            return Err(libc::EPERM);
        }
        self.attributes(node).map(response::attr_out)
    }

    fn on_lseek(&self, offset: u64, whence: u32) -> Result<Answer, i32> {
        const SEEK_DATA: u32 = 3;
        const SEEK_HOLE: u32 = 4;
        if offset >= self.size_bytes {
            return Err(libc::ENXIO);
        }
        match whence {
            SEEK_DATA => Ok(response::lseek_out(offset)),
            SEEK_HOLE => Ok(response::lseek_out(self.size_bytes)),
            _ => Err(libc::EINVAL),
        }
    }

    fn on_read(&self, offset: u64, size: u32) -> Reaction {
        // Reads across the end are cut short, as of any file.
        let len = u64::from(size).min(self.size_bytes.saturating_sub(offset));
        if len == 0 {
            return Reaction::Answer(Ok(Answer::empty()));
        }
        if size > self.max_io_bytes || !is_whole_blocks(offset, len, self.size_bytes) {
            return Reaction::Answer(Err(libc::EINVAL));
        }
        Reaction::Io { op: FrontOp::Read, offset, len }
    }

    fn on_change(&self, op: FrontOp, offset: u64, len: u64) -> Reaction {
        if self.read_only {
            return Reaction::Answer(Err(libc::EROFS));
        }
        if offset.saturating_add(len) > self.size_bytes {
            return Reaction::Answer(Err(libc::ENOSPC));
        }
        if !is_whole_blocks(offset, len, self.size_bytes) {
            return Reaction::Answer(Err(libc::EINVAL));
        }
        Reaction::Io { op, offset, len }
    }

    /// A punched hole of a file reads as zeroes, and the kernel's loop driver relies on it: it makes a hole for a
    /// write-zeroes request as well as for a discard. Therefore both become write-zeroes here.
    fn on_fallocate(&self, offset: u64, len: u64, mode: u32) -> Reaction {
        let may_unmap = if mode == fallocate::PUNCH_HOLE | fallocate::KEEP_SIZE {
            true
        } else if mode & !fallocate::KEEP_SIZE == fallocate::ZERO_RANGE {
            false
        } else {
            return Reaction::Answer(Err(libc::EOPNOTSUPP));
        };
        self.on_change(FrontOp::WriteZeroes { may_unmap, fua: false }, offset, len)
    }
}
