//! Areas: a header, a snapshot, and the log behind it.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `LKSA` |
//! | 4..6 | version under which snapshot and log are encoded |
//! | 6..8 | 0 |
//! | 8..24 | volume |
//! | 24..28 | node |
//! | 28..32 | CRC32C of the snapshot, with its padding |
//! | 32..40 | sequence of the last batch that the snapshot contains |
//! | 40..48 | bytes of the snapshot |
//! | 48..4092 | 0 |
//! | 4092..4096 | CRC32C of bytes 0..4092 |
//! | 4096.. | the snapshot, then zeroes to the next multiple of 4096; there the log begins |

use lockstep_core::{Meta, NodeId, VolumeId};

use super::meta::encode_meta;
use super::{ALIGN, DiskVersion, Owner, pad};
use crate::bytes::{DecodeValue, Reader, Writer};
use crate::crc32c;

const MAGIC: [u8; 4] = *b"LKSA";
const CHECKED_BYTES: usize = ALIGN - 4;

/// Appends the start of an area to `out`: header and snapshot, a multiple of 4096 bytes, to be written at its offset 0
/// with one write. Returns how many bytes that are, which is where the log begins.
pub fn encode_snapshot(owner: Owner, sequence: u64, meta: &Meta, out: &mut Vec<u8>) -> u64 {
    let start = out.len();
    out.resize(start + ALIGN, 0);
    encode_meta(meta, out);
    let snapshot_bytes = out.len() - start - ALIGN;
    pad(out, start);
    let crc = crc32c(&out[start + ALIGN..]);
    let mut fields = Vec::with_capacity(ALIGN);
    let w = &mut Writer::new(&mut fields);
    w.raw(&MAGIC);
    w.u16(DiskVersion::NEWEST as u16);
    w.u16(0);
    w.raw(&owner.volume.0);
    w.u32(owner.node.0);
    w.u32(crc);
    w.u64(sequence);
    w.u64(snapshot_bytes as u64);
    fields.resize(CHECKED_BYTES, 0);
    let crc = crc32c(&fields);
    out[start..start + CHECKED_BYTES].copy_from_slice(&fields);
    out[start + CHECKED_BYTES..start + ALIGN].copy_from_slice(&crc.to_le_bytes());
    (out.len() - start) as u64
}

/// The header of an area whose own checksum is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) version: u16,
    pub(super) owner: Owner,
    pub(super) sequence: u64,
    snapshot_bytes: u64,
    snapshot_crc: u32,
}

impl Header {
    /// The header at the start of an area, if there is one.
    pub(super) fn decode(area: &[u8]) -> Option<Header> {
        let block = area.first_chunk::<ALIGN>()?;
        let (fields, crc) = block.split_at(CHECKED_BYTES);
        if fields[..4] != MAGIC || crc != crc32c(fields).to_le_bytes() {
            return None;
        }
        Header::decode_fields(&fields[4..]).ok()
    }

    fn decode_fields(fields: &[u8]) -> Result<Header, DecodeValue> {
        let mut r = Reader::new(fields);
        let (version, _zero) = (r.u16()?, r.u16()?);
        let owner = Owner { volume: VolumeId(r.array()?), node: NodeId(r.u32()?) };
        let snapshot_crc = r.u32()?;
        Ok(Header { version, owner, sequence: r.u64()?, snapshot_bytes: r.u64()?, snapshot_crc })
    }

    /// The encoded snapshot and the offset of the log, if the snapshot is whole.
    pub(super) fn snapshot<'a>(&self, area: &'a [u8]) -> Option<(&'a [u8], usize)> {
        let snapshot_bytes = usize::try_from(self.snapshot_bytes).ok()?;
        let log = ALIGN.checked_add(snapshot_bytes)?.checked_next_multiple_of(ALIGN)?;
        let padded = area.get(ALIGN..log)?;
        (crc32c(padded) == self.snapshot_crc).then(|| (&padded[..snapshot_bytes], log))
    }
}
