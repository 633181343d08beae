//! What a front end asks of the engine, and what the engine answers.

use std::fmt;

/// Smallest unit of every request, in bytes: logical and physical block size of every volume.
pub const BLOCK_BYTES: u64 = 4096;

/// Names one request between [`FrontRequest`] and its reply. A tag is unique within one front end while the request is
/// open and is used again afterwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tag(pub u32);

/// The kind of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrontOp {
    /// Fill [`FrontRequest::data`] (or answer with bytes that lie elsewhere).
    Read,
    /// Write [`FrontRequest::data`]; with `fua`, durably on all replicas.
    Write {
        /// Forced unit access: the reply promises durability.
        fua: bool,
    },
    /// Everything that was answered before is to be made durable.
    Flush,
    /// The content is not needed any more; what a later read returns is not promised.
    Discard,
    /// The range has to read as zeroes afterwards.
    WriteZeroes {
        /// The space may be given back (a punched hole), as long as it reads as zeroes.
        may_unmap: bool,
        /// Forced unit access.
        fua: bool,
    },
}

/// Bytes inside the front end's own memory, 4096-byte aligned and fit for direct I/O. They stay where they are, and
/// belong to the engine, from the request until its reply. Empty for requests without data.
///
/// For a write these bytes are already a private copy: the kernel, or the socket, copied them out of the application's
/// pages before the request appeared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrontBuffer {
    ptr: *mut u8,
    len: u32,
}

impl FrontBuffer {
    /// No data.
    pub const EMPTY: FrontBuffer = FrontBuffer { ptr: std::ptr::null_mut(), len: 0 };

    pub(crate) fn new(ptr: *mut u8, len: u32) -> FrontBuffer {
        FrontBuffer { ptr, len }
    }

    /// First byte; null when empty.
    #[must_use]
    pub fn as_ptr(self) -> *mut u8 {
        self.ptr
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(self) -> u32 {
        self.len
    }

    /// Whether there is no data.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The bytes.
    ///
    /// # Safety
    /// The request of this buffer must still be open, and nobody may write the bytes meanwhile.
    #[must_use]
    pub unsafe fn as_slice<'a>(self) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the front end keeps the memory mapped and untouched while the request is open.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len as usize) }
    }

    /// The bytes, for filling.
    ///
    /// # Safety
    /// The request of this buffer must still be open, and nobody else may hold a reference to the bytes.
    #[must_use]
    pub unsafe fn as_mut_slice<'a>(self) -> &'a mut [u8] {
        if self.len == 0 {
            return &mut [];
        }
        // SAFETY: as above, and the caller holds the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len as usize) }
    }
}

impl fmt::Debug for FrontBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrontBuffer({} bytes)", self.len)
    }
}

/// One request of whoever uses the volume. Offset and length are multiples of [`BLOCK_BYTES`] and lie within the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrontRequest {
    /// Names the request in [`super::FrontEnd::reply`].
    pub tag: Tag,
    /// What to do.
    pub op: FrontOp,
    /// First byte; 0 for a flush.
    pub offset_bytes: u64,
    /// Number of bytes; 0 for a flush. Discards and write-zeroes may be as long as the volume.
    pub len_bytes: u64,
    /// An earlier engine had it and did not answer: what it did is not known.
    pub resent: bool,
    /// Data of a write; room for the data of a read (exactly `len_bytes`).
    pub data: FrontBuffer,
}

/// Answer of the engine to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrontReply {
    /// Done; for a read, the request's own buffer holds the data.
    Done,
    /// A read whose data lies elsewhere. The bytes must stay valid and unchanged until the front end gives the tag
    /// back through [`super::FrontEnd::take_released`].
    DoneElsewhere(FrontBuffer),
    /// Not done.
    Failed(FrontFailure),
}

impl FrontReply {
    /// Data of a read that lies in memory of the engine (a slab of a peer link, for instance).
    ///
    /// # Safety
    /// `len` bytes at `ptr` must be readable until the tag is released.
    #[must_use]
    pub unsafe fn elsewhere(ptr: *const u8, len: u32) -> FrontReply {
        FrontReply::DoneElsewhere(FrontBuffer::new(ptr.cast_mut(), len))
    }
}

/// Why a request failed, as the application sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum FrontFailure {
    /// EIO.
    #[error("input/output error")]
    Io,
    /// ENOSPC: the last replica is full.
    #[error("no space left on any replica")]
    NoSpace,
    /// EINVAL: out of range or not in whole blocks.
    #[error("request is not in whole blocks within the volume")]
    Invalid,
    /// EPERM / EROFS: attached for reading only.
    #[error("volume is attached for reading only")]
    ReadOnly,
    /// EOPNOTSUPP.
    #[error("operation is not supported")]
    NotSupported,
    /// ESHUTDOWN: the front end is being closed.
    #[error("front end is shutting down")]
    ShuttingDown,
}

impl FrontFailure {
    /// The Linux error number, positive.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            FrontFailure::Io => libc::EIO,
            FrontFailure::NoSpace => libc::ENOSPC,
            FrontFailure::Invalid => libc::EINVAL,
            FrontFailure::ReadOnly => libc::EROFS,
            FrontFailure::NotSupported => libc::EOPNOTSUPP,
            FrontFailure::ShuttingDown => libc::ESHUTDOWN,
        }
    }
}

/// Whether `offset..offset + len` is in whole blocks, not empty, and within a volume of `size_bytes`.
#[must_use]
pub fn is_whole_blocks(offset: u64, len: u64, size_bytes: u64) -> bool {
    let aligned = offset.is_multiple_of(BLOCK_BYTES) && len.is_multiple_of(BLOCK_BYTES);
    aligned && len > 0 && offset.checked_add(len).is_some_and(|end| end <= size_bytes)
}
