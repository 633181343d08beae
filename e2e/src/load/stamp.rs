//! What the load writes into a block: who, when and where, to the last byte.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | magic |
//! | 8..16 | the block's number |
//! | 16..24 | the value: writer (24 bits), sequence (40 bits) |
//! | 24..4092 | filled from block and value |
//! | 4092..4096 | CRC32C of all before |

use super::BLOCK_BYTES;
use crate::random::Random;
use lockstep_sim::history::Value;

const MAGIC: u64 = u64::from_le_bytes(*b"LKSTAMP1");
const CRC_AT: usize = BLOCK_BYTES - 4;
const FILL_AT: usize = 24;
const SEQUENCE_BITS: u32 = 40;

/// One write of one writer. No two writes carry the same stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// A thread of the load.
    pub writer: u32,
    /// Its count, from 1.
    pub sequence: u64,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Never written, or discarded.
    Zero,
    /// Written by the load.
    Stamped(Stamp),
}

/// A block that no single write of the load can have left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// The bytes belong to different writes, or to none.
    #[error("block {block} is torn or foreign: its checksum does not match, it begins with {begin:02x?}")]
    Torn {
        /// The block that was read.
        block: u64,
        /// Its first bytes.
        begin: Vec<u8>,
    },
    /// A whole block, but of another place.
    #[error("block {block} holds what was written to block {belongs}: {stamp:?}")]
    Misplaced {
        /// The block that was read.
        block: u64,
        /// The block that it was written to.
        belongs: u64,
        /// The write.
        stamp: Stamp,
    },
}

impl Stamp {
    /// As the value of a history; never that of [`Content::Zero`].
    pub fn value(self) -> Value {
        Value((u64::from(self.writer) << SEQUENCE_BITS) | self.sequence)
    }

    fn of_value(value: u64) -> Self {
        let writer = u32::try_from(value >> SEQUENCE_BITS).unwrap_or(u32::MAX);
        Stamp { writer, sequence: value & ((1 << SEQUENCE_BITS) - 1) }
    }

    /// Fills one block.
    pub fn encode(self, block: u64, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), BLOCK_BYTES, "a stamp fills a block");
        let value = self.value().0;
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..16].copy_from_slice(&block.to_le_bytes());
        bytes[16..24].copy_from_slice(&value.to_le_bytes());
        let mut fill = Random::new(value ^ block.rotate_left(17));
        for word in bytes[FILL_AT..CRC_AT].chunks_mut(8) {
            let drawn = fill.draw().to_le_bytes();
            let length = word.len();
            word.copy_from_slice(&drawn[..length]);
        }
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
}

impl Content {
    /// Reads one block back, and checks every byte of it.
    pub fn parse(block: u64, bytes: &[u8]) -> Result<Self, StampError> {
        assert_eq!(bytes.len(), BLOCK_BYTES, "a stamp fills a block");
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Content::Zero);
        }
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let crc = crc32c::crc32c(&bytes[..CRC_AT]).to_le_bytes();
        if word(0) != MAGIC || bytes[CRC_AT..] != crc {
            return Err(StampError::Torn { block, begin: bytes[..32].to_vec() });
        }
        let stamp = Stamp::of_value(word(16));
        match word(8) {
            belongs if belongs == block => Ok(Content::Stamped(stamp)),
            belongs => Err(StampError::Misplaced { block, belongs, stamp }),
        }
    }

    /// As the value of a history.
    pub fn value(self) -> Value {
        match self {
            Content::Zero => Value(0),
            Content::Stamped(stamp) => stamp.value(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, Content, Stamp, StampError};

    fn stamped(block: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_BYTES];
        Stamp { writer: 3, sequence: 77 }.encode(block, &mut bytes);
        bytes
    }

    #[test]
    fn stamp_is_read_back() {
        assert_eq!(Content::parse(5, &stamped(5)), Ok(Content::Stamped(Stamp { writer: 3, sequence: 77 })));
        assert_eq!(Content::parse(5, &[0; BLOCK_BYTES]), Ok(Content::Zero));
    }

    #[test]
    fn any_changed_byte_is_torn() {
        for at in [0, 9, 30, 2048, BLOCK_BYTES - 1] {
            let mut bytes = stamped(5);
            bytes[at] ^= 1;
            assert!(matches!(Content::parse(5, &bytes), Err(StampError::Torn { .. })), "byte {at}");
        }
    }

    #[test]
    fn half_of_another_write_is_torn() {
        let (mut bytes, mut other) = (stamped(5), vec![0; BLOCK_BYTES]);
        Stamp { writer: 3, sequence: 78 }.encode(5, &mut other);
        bytes[2048..].copy_from_slice(&other[2048..]);
        assert!(matches!(Content::parse(5, &bytes), Err(StampError::Torn { .. })));
        bytes[2048..].fill(0);
        assert!(matches!(Content::parse(5, &bytes), Err(StampError::Torn { .. })));
    }

    #[test]
    fn block_of_another_place_is_misplaced() {
        assert!(matches!(Content::parse(6, &stamped(5)), Err(StampError::Misplaced { belongs: 5, .. })));
    }
}
