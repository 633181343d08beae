//! Bytes of the kernel -> typed requests.

use super::abi::{IN_HEADER_BYTES, UNIQUE_RESEND, opcode};

/// `struct fuse_in_header`, without the caller's identity, which a block device has no use for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RequestHeader {
    /// Bytes of the whole request, header included.
    pub len: u32,
    pub opcode: u32,
    /// Names the request in its reply.
    pub unique: u64,
    pub node: u64,
}

/// The operations that the kernel asks of a file system of one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        max_readahead: u32,
        flags: u64,
    },
    Lookup {
        name: &'a [u8],
    },
    /// FORGET, BATCH_FORGET and INTERRUPT: nothing to do, nothing to answer.
    Notice,
    GetAttr,
    SetAttr {
        valid: u32,
        size: u64,
    },
    Open,
    OpenDir,
    ReadDir {
        offset: u64,
        size: u32,
    },
    /// RELEASE, RELEASEDIR, FLUSH (a close, not a durability point), FSYNCDIR, ACCESS, DESTROY.
    Acknowledge,
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        size: u32,
    },
    Fsync,
    Fallocate {
        offset: u64,
        len: u64,
        mode: u32,
    },
    StatFs,
    Lseek {
        offset: u64,
        whence: u32,
    },
    Unknown,
}

/// Why bytes are not a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseRequest {
    /// Fewer bytes than the header or the operation needs.
    #[error("request of {len} bytes is too short for operation {opcode}")]
    TooShort {
        /// Bytes that came.
        len: usize,
        /// Operation, 0 if not even the header is whole.
        opcode: u32,
    },
    /// The header's length and the number of bytes differ.
    #[error("request says {claimed} bytes and has {len}")]
    WrongLength {
        /// As the header says.
        claimed: u32,
        /// Bytes that came.
        len: usize,
    },
    /// A write whose size is not that of its payload.
    #[error("write of {size} bytes carries {payload}")]
    WrongPayload {
        /// As the operation says.
        size: u32,
        /// Bytes that came.
        payload: usize,
    },
}

/// Bytes of the fixed argument of an operation, before any name or data.
pub(crate) fn argument_bytes(code: u32) -> usize {
    match code {
        opcode::INIT => 16,
        opcode::FORGET | opcode::ACCESS | opcode::INTERRUPT | opcode::BATCH_FORGET => 8,
        opcode::GETATTR | opcode::FSYNC | opcode::FSYNCDIR => 16,
        opcode::SETATTR => 88,
        opcode::OPEN | opcode::OPENDIR => 8,
        opcode::READ | opcode::READDIR | opcode::WRITE => 40,
        opcode::RELEASE | opcode::RELEASEDIR | opcode::FLUSH | opcode::LSEEK => 24,
        opcode::FALLOCATE => 32,
        _ => 0,
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let array = bytes[at..at + 4].try_into().expect("a slice of four bytes");
    u32::from_ne_bytes(array)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let array = bytes[at..at + 8].try_into().expect("a slice of eight bytes");
    u64::from_ne_bytes(array)
}

impl RequestHeader {
    /// The kernel has sent it before, to a server that is gone.
    pub(crate) fn is_resent(self) -> bool {
        self.unique & UNIQUE_RESEND != 0
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<RequestHeader, ParseRequest> {
        if bytes.len() < IN_HEADER_BYTES {
            return Err(ParseRequest::TooShort { len: bytes.len(), opcode: 0 });
        }
        Ok(RequestHeader {
            len: u32_at(bytes, 0),
            opcode: u32_at(bytes, 4),
            unique: u64_at(bytes, 8),
            node: u64_at(bytes, 16),
        })
    }
}

/// A request as read from `/dev/fuse`: header, argument and payload in one piece.
pub(crate) fn parse(bytes: &[u8]) -> Result<(RequestHeader, Operation<'_>), ParseRequest> {
    let header = RequestHeader::parse(bytes)?;
    if header.len as usize != bytes.len() {
        return Err(ParseRequest::WrongLength { claimed: header.len, len: bytes.len() });
    }
    let body = &bytes[IN_HEADER_BYTES..];
    let argument = argument_bytes(header.opcode).min(body.len());
    let (argument, payload) = body.split_at(argument);
    let operation = parse_operation(header, argument, payload)?;
    Ok((header, operation))
}

/// The operation of a request whose parts lie apart, as they do in FUSE over io_uring.
pub(crate) fn parse_operation<'a>(
    header: RequestHeader,
    argument: &[u8],
    payload: &'a [u8],
) -> Result<Operation<'a>, ParseRequest> {
    let code = header.opcode;
    if argument.len() < argument_bytes(code) {
        return Err(ParseRequest::TooShort { len: argument.len(), opcode: code });
    }
    let operation = match code {
        opcode::INIT => parse_init(argument, payload),
        opcode::LOOKUP => Operation::Lookup { name: payload.split(|byte| *byte == 0).next().unwrap_or_default() },
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => Operation::Notice,
        opcode::GETATTR => Operation::GetAttr,
        opcode::SETATTR => Operation::SetAttr { valid: u32_at(argument, 0), size: u64_at(argument, 16) },
        opcode::OPEN => Operation::Open,
        opcode::OPENDIR => Operation::OpenDir,
        opcode::READDIR => Operation::ReadDir { offset: u64_at(argument, 8), size: u32_at(argument, 16) },
        opcode::RELEASE | opcode::RELEASEDIR | opcode::FLUSH | opcode::FSYNCDIR | opcode::ACCESS | opcode::DESTROY => {
            Operation::Acknowledge
        }
        opcode::READ => Operation::Read { offset: u64_at(argument, 8), size: u32_at(argument, 16) },
        opcode::WRITE => {
            let size = u32_at(argument, 16);
            if size as usize != payload.len() {
                return Err(ParseRequest::WrongPayload { size, payload: payload.len() });
            }
            Operation::Write { offset: u64_at(argument, 8), size }
        }
        opcode::FSYNC => Operation::Fsync,
        opcode::FALLOCATE => {
            Operation::Fallocate { offset: u64_at(argument, 8), len: u64_at(argument, 16), mode: u32_at(argument, 24) }
        }
        opcode::STATFS => Operation::StatFs,
        opcode::LSEEK => Operation::Lseek { offset: u64_at(argument, 8), whence: u32_at(argument, 16) },
        _ => Operation::Unknown,
    };
    Ok(operation)
}

/// INIT grew: kernels since 5.17 send a second word of flags after the first sixteen bytes.
fn parse_init<'a>(argument: &[u8], payload: &[u8]) -> Operation<'a> {
    let low = u64::from(u32_at(argument, 12));
    let high = if payload.len() >= 4 { u64::from(u32_at(payload, 0)) } else { 0 };
    Operation::Init {
        major: u32_at(argument, 0),
        minor: u32_at(argument, 4),
        max_readahead: u32_at(argument, 8),
        flags: low | high << 32,
    }
}
