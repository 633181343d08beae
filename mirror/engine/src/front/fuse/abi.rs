//! Numbers of the FUSE protocol, version 7.31 and later (`include/uapi/linux/fuse.h`). Only what a file system of one
//! file needs.

/// Protocol version that we speak. The kernel speaks at most this minor version to us.
pub(crate) const MAJOR: u32 = 7;
/// 7.45 is Linux 6.18; a newer kernel speaks it as well.
pub(crate) const MINOR: u32 = 45;
/// Linux 5.10 (7.31): `max_pages`, full size of every structure used here.
pub(crate) const MINOR_MIN: u32 = 31;

pub(crate) const IN_HEADER_BYTES: usize = 40;
pub(crate) const OUT_HEADER_BYTES: usize = 16;
/// `sizeof(struct fuse_write_in)`.
pub(crate) const WRITE_IN_BYTES: usize = 40;
/// The kernel refuses reads of the device with a smaller buffer.
pub(crate) const MIN_READ_BUFFER_BYTES: usize = 8192;

pub(crate) const ROOT_NODE: u64 = 1;

pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const LSEEK: u32 = 46;
}

pub(crate) mod init_flag {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const HAS_RESEND: u64 = 1 << 39;
    pub(crate) const OVER_IO_URING: u64 = 1 << 41;
}

/// `FUSE_NOTIFY_RESEND` (Linux 6.9): every request that was read and not answered is to be read again.
pub(crate) const NOTIFY_RESEND: i32 = 7;
/// `FUSE_UNIQUE_RESEND`: the request was read before.
pub(crate) const UNIQUE_RESEND: u64 = 1 << 63;

pub(crate) mod open_flag {
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    pub(crate) const NOFLUSH: u32 = 1 << 5;
    pub(crate) const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

pub(crate) mod setattr_valid {
    pub(crate) const SIZE: u32 = 1 << 3;
}

/// `include/uapi/linux/falloc.h`.
pub(crate) mod fallocate {
    pub(crate) const KEEP_SIZE: u32 = 1;
    pub(crate) const PUNCH_HOLE: u32 = 2;
    pub(crate) const ZERO_RANGE: u32 = 16;
}

/// FUSE over io_uring (Linux 6.14).
pub(crate) mod uring {
    /// `FUSE_IO_URING_CMD_REGISTER`.
    pub(crate) const REGISTER: u32 = 1;
    /// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
    pub(crate) const COMMIT_AND_FETCH: u32 = 2;
    /// `struct fuse_uring_req_header`: in/out header, operation header, entry header.
    pub(crate) const OP_IN_AT: usize = 128;
    pub(crate) const ENTRY_AT: usize = 256;
    pub(crate) const HEADER_BYTES: usize = 288;
    /// Within `struct fuse_uring_ent_in_out`.
    pub(crate) const ENTRY_COMMIT_ID_AT: usize = 8;
    pub(crate) const ENTRY_PAYLOAD_SIZE_AT: usize = 16;
}
