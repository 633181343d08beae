//! Typed answers -> bytes for the kernel.

use super::abi::OUT_HEADER_BYTES;

/// The small answers: everything but the data of a read. 160 bytes hold the largest (an entry of 128).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    bytes: [u8; Answer::MAX_BYTES],
    len: usize,
}

impl Answer {
    pub(crate) const MAX_BYTES: usize = 160;

    /// An answer without content.
    pub(crate) fn empty() -> Answer {
        Answer { bytes: [0; Answer::MAX_BYTES], len: 0 }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn put(mut self, bytes: &[u8]) -> Answer {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    fn u16(self, value: u16) -> Answer {
        self.put(&value.to_ne_bytes())
    }

    fn u32(self, value: u32) -> Answer {
        self.put(&value.to_ne_bytes())
    }

    fn u64(self, value: u64) -> Answer {
        self.put(&value.to_ne_bytes())
    }
}

/// `struct fuse_out_header`: `error` is 0 or a positive error number; `payload` are the bytes that follow.
pub(crate) fn out_header(unique: u64, error: i32, payload: u32) -> [u8; OUT_HEADER_BYTES] {
    let mut bytes = [0; OUT_HEADER_BYTES];
    let len = payload + 16;
    bytes[0..4].copy_from_slice(&len.to_ne_bytes());
    bytes[4..8].copy_from_slice(&(-error).to_ne_bytes());
    bytes[8..16].copy_from_slice(&unique.to_ne_bytes());
    bytes
}

/// A message without a request: `code` is one of `enum fuse_notify_code`, which take the place of the error number.
pub(crate) fn notification(code: i32) -> [u8; OUT_HEADER_BYTES] {
    out_header(0, -code, 0)
}

/// What INIT settles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InitAnswer {
    /// The kernel can be told to send requests again.
    pub can_resend: bool,
    pub minor: u32,
    pub max_readahead: u32,
    pub flags: u64,
    pub max_background: u16,
    pub max_write: u32,
}

/// `struct fuse_init_out`.
pub(crate) fn init_out(init: InitAnswer) -> Answer {
    let low = (init.flags & u64::from(u32::MAX)) as u32;
    let high = (init.flags >> 32) as u32;
    let max_pages = init.max_write.div_ceil(4096).min(u32::from(u16::MAX)) as u16;
    Answer::empty()
        .u32(super::abi::MAJOR)
        .u32(init.minor)
        .u32(init.max_readahead)
        .u32(low)
        .u16(init.max_background)
        .u16(init.max_background)
        .u32(init.max_write)
        .u32(1)
        .u16(max_pages)
        .u16(0)
        .u32(high)
        .put(&[0; 28])
}

/// What `stat` sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Attributes {
    pub node: u64,
    pub size_bytes: u64,
    pub mode: u32,
    pub links: u32,
}

/// `struct fuse_attr`.
fn attributes(answer: Answer, attr: Attributes) -> Answer {
    answer
        .u64(attr.node)
        .u64(attr.size_bytes)
        .u64(attr.size_bytes / 512)
        .u64(0)
        .u64(0)
        .u64(0)
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(attr.mode)
        .u32(attr.links)
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(4096)
        .u32(0)
}

/// `struct fuse_entry_out`. Names stay valid for an hour; attributes are asked again each time, because the size grows.
pub(crate) fn entry_out(attr: Attributes) -> Answer {
    let head = Answer::empty().u64(attr.node).u64(0).u64(3600).u64(0).u32(0).u32(0);
    attributes(head, attr)
}

/// `struct fuse_attr_out`.
pub(crate) fn attr_out(attr: Attributes) -> Answer {
    attributes(Answer::empty().u64(0).u32(0).u32(0), attr)
}

/// `struct fuse_open_out`.
pub(crate) fn open_out(flags: u32) -> Answer {
    Answer::empty().u64(1).u32(flags).u32(0)
}

/// `struct fuse_write_out`.
pub(crate) fn write_out(size: u32) -> Answer {
    Answer::empty().u32(size).u32(0)
}

/// `struct fuse_lseek_out`.
pub(crate) fn lseek_out(offset: u64) -> Answer {
    Answer::empty().u64(offset)
}

/// `struct fuse_statfs_out`. The kernel's loop driver takes the block size as the granularity of discards.
pub(crate) fn statfs_out(blocks: u64) -> Answer {
    Answer::empty().u64(blocks).u64(0).u64(0).u64(2).u64(0).u32(4096).u32(255).u32(4096).u32(0).put(&[0; 24])
}

/// `struct fuse_dirent`s from `offset` on, as many as fit into `size` bytes. `kind` is the upper nibble of a mode.
pub(crate) fn directory(entries: &[(u64, &str, u32)], offset: u64, size: u32) -> Answer {
    let mut answer = Answer::empty();
    for (index, (node, name, kind)) in entries.iter().enumerate() {
        let next = index as u64 + 1;
        let len = (24 + name.len()).next_multiple_of(8);
        if next <= offset {
            continue;
        }
        if answer.len + len > (size as usize).min(Answer::MAX_BYTES) {
            break;
        }
        let pad = len - 24 - name.len();
        answer = answer.u64(*node).u64(next).u32(name.len() as u32).u32(*kind).put(name.as_bytes()).put(&[0; 8][..pad]);
    }
    answer
}
