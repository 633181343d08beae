//! Requests and replies after the negotiation.

use super::abi::{self, REQUEST_BYTES, chunk, command, error};
use crate::front::request::{FrontFailure, FrontOp, is_whole_blocks};

/// One request, as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RawRequest {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

/// Bytes that are no request: the stream has lost its rhythm and cannot be read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("request begins with {0:#x}")]
pub(super) struct BadMagic(u32);

/// What a request wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    Disconnect,
    Io(FrontOp),
    /// Refused with this error. `payload` bytes of data follow all the same.
    Refused {
        error: u32,
        payload: u32,
    },
}

/// Limits that requests are held against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    pub size_bytes: u64,
    pub max_io_bytes: u32,
    pub read_only: bool,
}

impl RawRequest {
    /// Takes the first [`REQUEST_BYTES`] of `bytes`; `None` if there are not that many.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<RawRequest>, BadMagic> {
        let Some(head) = bytes.get(..REQUEST_BYTES) else { return Ok(None) };
        let (magic, rest) = head.split_first_chunk::<4>().expect("a request has 28 bytes");
        let magic = u32::from_be_bytes(*magic);
        if magic != abi::REQUEST_MAGIC {
            return Err(BadMagic(magic));
        }
        let (flags, rest) = rest.split_first_chunk::<2>().expect("24 are left");
        let (command, rest) = rest.split_first_chunk::<2>().expect("22 are left");
        let (cookie, rest) = rest.split_first_chunk::<8>().expect("20 are left");
        let (offset, rest) = rest.split_first_chunk::<8>().expect("12 are left");
        let (len, _) = rest.split_first_chunk::<4>().expect("4 are left");
        Ok(Some(RawRequest {
            flags: u16::from_be_bytes(*flags),
            command: u16::from_be_bytes(*command),
            cookie: u64::from_be_bytes(*cookie),
            offset: u64::from_be_bytes(*offset),
            len: u32::from_be_bytes(*len),
        }))
    }

    pub(super) fn command(&self, limits: Limits) -> Command {
        let payload = if self.command == command::WRITE { self.len } else { 0 };
        match self.wanted(limits) {
            Ok(wanted) => wanted,
            Err(error) => Command::Refused { error, payload },
        }
    }

    fn wanted(&self, limits: Limits) -> Result<Command, u32> {
        let fua = self.flags & command::FLAG_FUA != 0;
        let (op, flags) = match self.command {
            command::DISCONNECT => return Ok(Command::Disconnect),
            command::READ => (FrontOp::Read, command::FLAG_FUA | command::FLAG_DF),
            command::WRITE => (FrontOp::Write { fua }, command::FLAG_FUA),
            command::FLUSH => (FrontOp::Flush, command::FLAG_FUA),
            // A durable trim has to be something durable: zeroes are allowed as what a trimmed range reads as.
            command::TRIM if fua => (FrontOp::WriteZeroes { may_unmap: true, fua }, command::FLAG_FUA),
            command::TRIM => (FrontOp::Discard, command::FLAG_FUA),
            command::WRITE_ZEROES => {
                let may_unmap = self.flags & command::FLAG_NO_HOLE == 0;
                (FrontOp::WriteZeroes { may_unmap, fua }, command::FLAG_FUA | command::FLAG_NO_HOLE)
            }
            _ => return Err(error::EINVAL),
        };
        if self.flags & !flags != 0 {
            return Err(error::EINVAL);
        }
        if op == FrontOp::Flush {
            return if self.offset == 0 && self.len == 0 { Ok(Command::Io(op)) } else { Err(error::EINVAL) };
        }
        if op != FrontOp::Read && limits.read_only {
            return Err(error::EPERM);
        }
        let carries_data = matches!(op, FrontOp::Read | FrontOp::Write { .. });
        if carries_data && self.len > limits.max_io_bytes {
            return Err(error::EINVAL);
        }
        let len = u64::from(self.len);
        if is_whole_blocks(self.offset, len, limits.size_bytes) {
            return Ok(Command::Io(op));
        }
        let beyond = self.offset.checked_add(len).is_none_or(|end| end > limits.size_bytes);
        Err(if beyond && op != FrontOp::Read { error::ENOSPC } else { error::EINVAL })
    }
}

/// Error number on the wire.
pub(super) fn wire_error(failure: FrontFailure) -> u32 {
    match failure {
        FrontFailure::Io => error::EIO,
        FrontFailure::NoSpace => error::ENOSPC,
        FrontFailure::Invalid => error::EINVAL,
        FrontFailure::ReadOnly => error::EPERM,
        FrontFailure::NotSupported => error::ENOTSUP,
        FrontFailure::ShuttingDown => error::ESHUTDOWN,
    }
}

/// Head of a reply; the data of a read follows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReplyHead {
    bytes: [u8; ReplyHead::MAX_BYTES],
    len: usize,
}

impl ReplyHead {
    /// A chunk head of 20 bytes and an offset of 8.
    const MAX_BYTES: usize = 28;
    const EMPTY: ReplyHead = ReplyHead { bytes: [0; ReplyHead::MAX_BYTES], len: 0 };

    /// `error` 0 is success. Allowed for everything but reads with structured replies.
    pub(super) fn simple(cookie: u64, error: u32) -> ReplyHead {
        ReplyHead::EMPTY
            .put(&abi::SIMPLE_REPLY_MAGIC.to_be_bytes())
            .put(&error.to_be_bytes())
            .put(&cookie.to_be_bytes())
    }

    /// The one chunk with all the data of a read.
    pub(super) fn data_chunk(cookie: u64, offset: u64, len: u32) -> ReplyHead {
        ReplyHead::chunk(cookie, chunk::OFFSET_DATA, len + 8).put(&offset.to_be_bytes())
    }

    /// A failed read: error and an empty message.
    pub(super) fn error_chunk(cookie: u64, error: u32) -> ReplyHead {
        ReplyHead::chunk(cookie, chunk::ERROR, 6).put(&error.to_be_bytes()).put(&[0; 2])
    }

    fn chunk(cookie: u64, kind: u16, len: u32) -> ReplyHead {
        ReplyHead::EMPTY
            .put(&abi::CHUNK_MAGIC.to_be_bytes())
            .put(&chunk::FLAG_DONE.to_be_bytes())
            .put(&kind.to_be_bytes())
            .put(&cookie.to_be_bytes())
            .put(&len.to_be_bytes())
    }

    fn put(mut self, bytes: &[u8]) -> ReplyHead {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
