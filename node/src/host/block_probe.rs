//! What is on a block device: nothing, a file system, or something that must not be touched.
//!
//! A device counts as blank only if it could be read and `blkid` knows of no signature on it: no file system, no swap space, no volume
//! manager's label, no partition table. Bytes that mean nothing to anybody are what a mkfs leaves that was killed in the middle. Both mkfs
//! programs say at their very end that the file system exists, so that an unfinished one is never taken for a finished one: mke2fs writes the
//! master superblock last, after a flush of everything else; mkfs.xfs clears `sb_inprogress` last (the kernel refuses to mount before).

use std::path::Path;
use std::time::Duration;

use crate::host::block_device::{self, ProbeError};
use crate::host::bounded_tool::{RunBoundedError, Tool};

const BLKID: Tool = Tool { name: "blkid", package: "util-linux" };

/// What is read at both ends of the device before `blkid` is believed: it says "nothing found" of a device that it cannot read, too.
const END_BYTES: u64 = 1 << 20;

/// Found nothing.
const BLKID_NOTHING: i32 = 2;
/// Found several things that contradict each other.
const BLKID_AMBIVALENT: i32 = 8;

/// Of `struct xfs_dsb` (xfs_format.h): its magic number and the offset of `sb_inprogress`.
const XFS_MAGIC: &[u8] = b"XFSB";
const XFS_IN_PROGRESS_AT: usize = 126;

/// Of `struct ext4_super_block` (ext4.h), whose place is 1024 bytes from the start.
const EXT4_AT: usize = 1024;
const EXT4_MAGIC: [u8; 2] = 0xef53_u16.to_le_bytes();
const EXT4_64BIT: u32 = 0x80;

/// What is on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Blank,
    /// An XFS that mkfs did not finish: it was never mounted.
    Unfinished,
    /// A file system.
    Filesystem {
        /// As mount(8) calls it.
        kind: String,
        /// The size that it says it has, in bytes, where that is known.
        size_bytes: Option<u64>,
    },
    /// Anything else.
    Foreign {
        /// In words.
        text: String,
    },
}

/// Why it is not known what is on a device. Then nothing may be made there.
#[derive(Debug, thiserror::Error)]
pub enum ObserveContentError {
    /// It cannot be read.
    #[error("the device cannot be read")]
    Read(#[from] ProbeError),
    /// `blkid` cannot be run, or does not end.
    #[error("the device's content is not known")]
    Tool(#[from] RunBoundedError),
    /// `blkid` does not say what is there, and complains.
    #[error("blkid cannot tell what is on the device: {message}")]
    Unclear {
        /// What it wrote.
        message: String,
    },
}

/// Looks what is on the device at `path`, which has `size_bytes`.
///
/// # Errors
/// It cannot be known.
pub async fn observe_content(path: &Path, size_bytes: u64, within: Duration) -> Result<Content, ObserveContentError> {
    let length = usize::try_from(END_BYTES.min(size_bytes)).expect("at most a MiB");
    let start = block_device::read_directly(path, 0, length, within).await?;
    block_device::read_directly(path, size_bytes.saturating_sub(END_BYTES), length, within).await?;
    let path = path.as_os_str();
    let ended = BLKID.end(&["--probe".as_ref(), "--output".as_ref(), "export".as_ref(), path], within).await?;
    match ended.code {
        Some(0) => Ok(parse_found(&ended.stdout, &start)),
        Some(BLKID_NOTHING) if ended.stderr.trim().is_empty() => Ok(Content::Blank),
        Some(BLKID_AMBIVALENT) => {
            Ok(Content::Foreign { text: "several signatures that contradict each other".to_owned() })
        }
        _ => Err(ObserveContentError::Unclear { message: ended.message() }),
    }
}

/// Of what `blkid --output export` wrote, and the start of the device.
fn parse_found(found: &str, start: &[u8]) -> Content {
    let value = |key: &str| found.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    if let (Some("filesystem"), Some(kind), None) = (value("USAGE"), value("TYPE"), value("PTTYPE")) {
        if kind == "xfs" && is_unfinished_xfs(start) {
            return Content::Unfinished;
        }
        return Content::Filesystem { kind: kind.to_owned(), size_bytes: recorded_size(start) };
    }
    let text = match (value("TYPE"), value("PTTYPE")) {
        (Some(kind), None) => format!("a signature of {kind}"),
        (None, Some(table)) => format!("a partition table ({table})"),
        (Some(kind), Some(table)) => format!("a signature of {kind} and a partition table ({table})"),
        (None, None) => "something that blkid gives no name".to_owned(),
    };
    Content::Foreign { text }
}

fn is_unfinished_xfs(start: &[u8]) -> bool {
    start.starts_with(XFS_MAGIC) && start.get(XFS_IN_PROGRESS_AT).is_some_and(|in_progress| *in_progress != 0)
}

/// The size that a file system's superblock names, in bytes: smaller than the device once that has grown.
fn recorded_size(start: &[u8]) -> Option<u64> {
    let bytes = |at: usize| Some(<[u8; 4]>::try_from(start.get(at..at + 4)?).expect("four bytes"));
    if start.starts_with(XFS_MAGIC) {
        let blocks = u64::from_be_bytes(start.get(8..16)?.try_into().expect("eight bytes"));
        return blocks.checked_mul(u64::from(u32::from_be_bytes(bytes(4)?)));
    }
    if start.get(EXT4_AT + 0x38..EXT4_AT + 0x3a)? != EXT4_MAGIC {
        return None;
    }
    let le = |at: usize| Some(u32::from_le_bytes(bytes(EXT4_AT + at)?));
    let high = match le(0x60)? & EXT4_64BIT {
        0 => 0,
        _ => le(0x150)?,
    };
    let blocks = u64::from(high) << 32 | u64::from(le(4)?);
    blocks.checked_mul(1024_u64.checked_shl(le(0x18)?)?)
}

#[cfg(test)]
mod tests;
