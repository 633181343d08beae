//! The superblock: one block, written once.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic `LOCKSTEP` |
//! | 8..10 | version |
//! | 10..12 | 0 |
//! | 12..16 | bytes of a block, 4096 |
//! | 16..32 | volume |
//! | 32..36 | node |
//! | 36..40 | 0 |
//! | 40..48 | creation, seconds since 1970 |
//! | 48..4092 | 0 |
//! | 4092..4096 | CRC32C of bytes 0..4092 |
//!
//! Magic, version and checksum stay where they are in every version, so that a newer one is told from damage.

use lockstep_core::range::BLOCK_BYTES;
use lockstep_core::{NodeId, VolumeId};
use thiserror::Error;

use super::{ALIGN, DiskVersion, Owner};
use crate::bytes::{DecodeValue, Reader, Writer};
use crate::crc32c;

const MAGIC: [u8; 8] = *b"LOCKSTEP";
const CHECKED_BYTES: usize = ALIGN - 4;

/// Who owns the files beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Version under which it was written.
    pub version: DiskVersion,
    /// The volume and the node.
    pub owner: Owner,
    /// When, in seconds since 1970; for people.
    pub created_unix_seconds: u64,
}

/// Why bytes are not a superblock that this program may go by. The replica is Failed and its files stay untouched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DecodeSuperblock {
    /// Shorter than a block.
    #[error("superblock: {0} bytes are too few")]
    TooShort(usize),
    /// Something else.
    #[error("superblock: not one of Lockstep's")]
    BadMagic,
    /// Damaged.
    #[error("superblock: bad checksum")]
    Checksum,
    /// Written by a newer program.
    #[error("superblock: version {0} is newer than this program")]
    NewerVersion(u16),
    /// A field that no version writes.
    #[error("superblock: {0}")]
    Field(&'static str),
    /// Another volume's.
    #[error("superblock: of another volume, {}", HexVolume(*.0))]
    OtherVolume(VolumeId),
    /// Another node's.
    #[error("superblock: of another node, {0}")]
    OtherNode(NodeId),
}

struct HexVolume(VolumeId);

impl std::fmt::Display for HexVolume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Superblock {
    /// A superblock of the newest version.
    #[must_use]
    pub const fn new(owner: Owner, created_unix_seconds: u64) -> Superblock {
        Superblock { version: DiskVersion::NEWEST, owner, created_unix_seconds }
    }

    /// Its block.
    #[must_use]
    pub fn encode(&self) -> [u8; ALIGN] {
        let mut fields = Vec::with_capacity(ALIGN);
        let mut w = Writer::new(&mut fields);
        w.raw(&MAGIC);
        w.u16(self.version as u16);
        w.u16(0);
        w.u32(u32::try_from(BLOCK_BYTES).expect("a block is small"));
        w.raw(&self.owner.volume.0);
        w.u32(self.owner.node.0);
        w.u32(0);
        w.u64(self.created_unix_seconds);
        let mut block = [0; ALIGN];
        block[..fields.len()].copy_from_slice(&fields);
        let crc = crc32c(&block[..CHECKED_BYTES]);
        block[CHECKED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads and checks a superblock.
    ///
    /// # Errors
    /// If this is none, or none that this program may go by.
    pub fn decode(bytes: &[u8]) -> Result<Superblock, DecodeSuperblock> {
        let block = bytes.first_chunk::<ALIGN>().ok_or(DecodeSuperblock::TooShort(bytes.len()))?;
        if block[..MAGIC.len()] != MAGIC {
            return Err(DecodeSuperblock::BadMagic);
        }
        let (fields, crc) = block.split_at(CHECKED_BYTES);
        if crc != crc32c(fields).to_le_bytes() {
            return Err(DecodeSuperblock::Checksum);
        }
        let number = u16::from_le_bytes([block[8], block[9]]);
        let version = DiskVersion::from_number(number).ok_or(if number > DiskVersion::NEWEST as u16 {
            DecodeSuperblock::NewerVersion(number)
        } else {
            DecodeSuperblock::Field("there is no such version")
        })?;
        decode_fields(version, &fields[10..]).map_err(|_| DecodeSuperblock::Field("unknown fields"))
    }

    /// Checks that the superblock is that of the volume and node that were looked for.
    ///
    /// # Errors
    /// If it is another's.
    pub fn check_owner(&self, wanted: Owner) -> Result<(), DecodeSuperblock> {
        if self.owner.volume != wanted.volume {
            return Err(DecodeSuperblock::OtherVolume(self.owner.volume));
        }
        if self.owner.node != wanted.node {
            return Err(DecodeSuperblock::OtherNode(self.owner.node));
        }
        Ok(())
    }
}

fn decode_fields(version: DiskVersion, fields: &[u8]) -> Result<Superblock, DecodeValue> {
    let mut r = Reader::new(fields);
    let (zero, block_bytes) = (r.u16()?, r.u32()?);
    let owner = Owner { volume: VolumeId(r.array()?), node: NodeId(r.u32()?) };
    let more_zero = r.u32()?;
    let created_unix_seconds = r.u64()?;
    let rest = r.slice(r.remaining())?;
    if zero != 0 || more_zero != 0 || u64::from(block_bytes) != BLOCK_BYTES || rest.iter().any(|byte| *byte != 0) {
        return Err(DecodeValue::OutOfBounds("superblock"));
    }
    Ok(Superblock { version, owner, created_unix_seconds })
}
