//! A ledger: numbered records in a ring of blocks, each durable before the next is begun.
//!
//! Whoever reads it can tell which was the last, and that none between is missing; whoever counted the acknowledgements can tell that
//! none of them is lost.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// One record; the smallest write of a volume.
pub const RECORD_BYTES: usize = 4096;

/// A whole ring.
pub const RING_BYTES: u64 = RECORDS * RECORD_BYTES as u64;

/// Records of a ring. Small, so that a ledger is read within a second.
pub const RECORDS: u64 = 2048;

const MAGIC: &[u8; 8] = b"lkledger";

/// Aligned as O_DIRECT wants it.
#[repr(align(4096))]
struct Block([u8; RECORD_BYTES]);

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    /// Where it begins, in bytes.
    offset: u64,
}

/// What a ledger holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Number of the last record; 0: none.
    pub last: u64,
    /// Blocks that hold no record though they should, or one that is not whole.
    pub damaged: u64,
}

impl Ledger {
    /// Opens a block device, or a file that is made with room for the ring. It begins at `offset` bytes, a multiple of a record's.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn open(path: &Path, offset: u64) -> io::Result<Self> {
        use std::os::unix::fs::FileTypeExt as _;
        let device = std::fs::metadata(path).is_ok_and(|there| there.file_type().is_block_device());
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC);
        let file = options.create(!device).open(path)?;
        if !device {
            // A predecessor on the same node may be about to end: it has written its last record when it is gone.
            file.lock()?;
        }
        if !device && file.metadata()?.len() < offset + RING_BYTES {
            // Written, not only sized: later appends are overwrites, as a database's are.
            let zero = Block([0; RECORD_BYTES]);
            for record in 0..RECORDS {
                file.write_all_at(&zero.0, offset + record * RECORD_BYTES as u64)?;
            }
            file.sync_all()?;
        }
        Ok(Self { file, offset })
    }

    /// Writes record `number`, durably.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn write(&self, number: u64) -> io::Result<()> {
        let mut block = Block([0; RECORD_BYTES]);
        block.0[..8].copy_from_slice(MAGIC);
        block.0[8..16].copy_from_slice(&number.to_le_bytes());
        let body = number.to_le_bytes();
        for chunk in block.0[24..].chunks_mut(8) {
            chunk.copy_from_slice(&body[..chunk.len()]);
        }
        let sum = crc32c::crc32c(&block.0[24..]);
        block.0[16..20].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&block.0, self.offset + (number % RECORDS) * RECORD_BYTES as u64)
    }

    /// Reads the whole ring.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn read(&self) -> io::Result<Found> {
        let mut numbers = Vec::new();
        let mut broken = 0;
        for slot in 0..RECORDS {
            let mut block = Block([0; RECORD_BYTES]);
            self.file.read_exact_at(&mut block.0, self.offset + slot * RECORD_BYTES as u64)?;
            match parse(&block.0) {
                Some(number) if number % RECORDS == slot => numbers.push(number),
                Some(_) => broken += 1,
                None if block.0.iter().all(|byte| *byte == 0) => {}
                None => broken += 1,
            }
        }
        Ok(count(&numbers, broken))
    }
}

fn parse(block: &[u8; RECORD_BYTES]) -> Option<u64> {
    let number = u64::from_le_bytes(block[8..16].try_into().ok()?);
    let sum = u32::from_le_bytes(block[16..20].try_into().ok()?);
    let whole = crc32c::crc32c(&block[24..]) == sum && block[24..32] == number.to_le_bytes();
    (&block[..8] == MAGIC && whole).then_some(number)
}

fn count(numbers: &[u64], broken: u64) -> Found {
    let last = numbers.iter().copied().max().unwrap_or(0);
    let first = (last + 1).saturating_sub(RECORDS).max(1);
    let present = numbers.iter().filter(|number| (first..=last).contains(number)).count() as u64;
    let wanted = if last == 0 { 0 } else { last - first + 1 };
    Found { last, damaged: broken + (wanted - present) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_records_are_counted() {
        assert_eq!(count(&[], 0), Found { last: 0, damaged: 0 });
        assert_eq!(count(&[1, 2, 3], 0), Found { last: 3, damaged: 0 });
        assert_eq!(count(&[1, 3], 1), Found { last: 3, damaged: 2 });
        let ring: Vec<u64> = (10..10 + RECORDS).collect();
        assert_eq!(count(&ring, 0), Found { last: 9 + RECORDS, damaged: 0 });
    }
}
