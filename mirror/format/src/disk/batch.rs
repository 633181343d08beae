//! Batches: what one group commit appends to the log, in one aligned write.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `LKSB` |
//! | 4..8 | CRC32C of the owner and bytes 8..32 |
//! | 8..16 | sequence: one more than the batch before |
//! | 16..20 | bytes of the updates |
//! | 20..24 | number of updates |
//! | 24..28 | CRC32C of everything from byte 32 to the end of the last block |
//! | 28..32 | 0 |
//! | 32.. | the updates, then zeroes to the next multiple of 4096 |

use lockstep_core::MetaUpdate;

use super::update::{UPDATE_BYTES_MIN, put_update, take_update};
use super::{ALIGN, DiskVersion, Owner, pad};
use crate::bytes::{DecodeValue, Reader, Writer};
use crate::{crc32c, crc32c_append};

const MAGIC: [u8; 4] = *b"LKSB";
const HEAD_BYTES: usize = 32;

/// Appends one batch with all of these updates to `out`: a multiple of 4096 bytes. A batch is durable as a whole or
/// not at all, so what one [`lockstep_core::Effect::Persist`] asks for belongs into one.
///
/// # Panics
/// If the updates need 4 GiB or more: the metadata of a volume is far smaller.
pub fn encode_batch(owner: Owner, sequence: u64, updates: &[&[MetaUpdate]], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + HEAD_BYTES, 0);
    let w = &mut Writer::new(out);
    for update in updates.iter().copied().flatten() {
        put_update(w, update);
    }
    let update_bytes = u32::try_from(out.len() - start - HEAD_BYTES).expect("a batch is shorter than 4 GiB");
    let count = u32::try_from(updates.iter().map(|each| each.len()).sum::<usize>()).expect("each update has bytes");
    pad(out, start);
    let crc = crc32c(&out[start + HEAD_BYTES..]);
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let w = &mut Writer::new(&mut head);
    w.u64(sequence);
    w.u32(update_bytes);
    w.u32(count);
    w.u32(crc);
    w.u32(0);
    out[start..start + 4].copy_from_slice(&MAGIC);
    out[start + 4..start + 8].copy_from_slice(&crc32c_append(owner.seed(), &head).to_le_bytes());
    out[start + 8..start + HEAD_BYTES].copy_from_slice(&head);
}

/// The head of a batch whose own checksum is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) sequence: u64,
    update_bytes: usize,
    count: usize,
    crc: u32,
}

impl Head {
    /// The head at the start of `bytes`, if there is one of this owner.
    pub(super) fn decode(owner: Owner, bytes: &[u8]) -> Option<Head> {
        let head = bytes.first_chunk::<HEAD_BYTES>()?;
        let crc = u32::from_le_bytes(*head[4..].first_chunk()?);
        if head[..4] != MAGIC || crc != crc32c_append(owner.seed(), &head[8..]) {
            return None;
        }
        let mut r = Reader::new(&head[8..]);
        let (sequence, update_bytes) = (r.u64().ok()?, usize::try_from(r.u32().ok()?).ok()?);
        let (count, crc) = (usize::try_from(r.u32().ok()?).ok()?, r.u32().ok()?);
        Some(Head { sequence, update_bytes, count, crc })
    }

    /// Bytes of the whole batch.
    pub(super) fn batch_bytes(&self) -> usize {
        (HEAD_BYTES + self.update_bytes).next_multiple_of(ALIGN)
    }

    /// The encoded updates of the batch at the start of `bytes`, if all of it is there.
    pub(super) fn content<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let content = bytes.get(HEAD_BYTES..self.batch_bytes())?;
        (crc32c(content) == self.crc).then(|| &content[..self.update_bytes])
    }

    /// Decodes the content.
    pub(super) fn updates(&self, version: DiskVersion, content: &[u8]) -> Result<Vec<MetaUpdate>, DecodeValue> {
        if self.count.saturating_mul(UPDATE_BYTES_MIN) > content.len() {
            return Err(DecodeValue::Truncated);
        }
        let mut r = Reader::new(content).laid_out(version.layout());
        let mut updates = Vec::new();
        for _ in 0..self.count {
            updates.push(take_update(&mut r)?);
        }
        r.finish()?;
        Ok(updates)
    }
}
