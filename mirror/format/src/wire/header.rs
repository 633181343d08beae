//! The fixed header of a frame.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `LKSF` |
//! | 4 | protocol version |
//! | 5 | kind of the message |
//! | 6 | flags, all 0 in version 1 |
//! | 7 | left set of the stamp |
//! | 8..12 | bytes of the body |
//! | 12..16 | bytes of the payload |
//! | 16..20 | CRC32C of the payload, 0 without one |
//! | 20..24 | CRC32C of the body |
//! | 24..32 | session |
//! | 32..40 | epoch |
//! | 40..44 | 0 |
//! | 44..48 | CRC32C of bytes 0..44 |

use lockstep_core::{Epoch, SessionId, Stamp};
use thiserror::Error;

use super::{BODY_BYTES_MAX, Kind, PAYLOAD_BYTES_MAX, PayloadHead, ProtocolVersion};
use crate::bytes::{DecodeValue, Reader};
use crate::crc32c;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 48;

const MAGIC: [u8; 4] = *b"LKSF";
const CHECKED_BYTES: usize = HEADER_BYTES - 4;

/// Why bytes are not a frame. Every one of these ends the connection: what follows cannot be trusted either.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DecodeFrame {
    /// Not the start of a frame.
    #[error("no frame starts here")]
    BadMagic,
    /// The header was damaged.
    #[error("checksum of the header is wrong")]
    HeaderChecksum,
    /// A version that this program does not speak.
    #[error("protocol version {0} is not spoken here")]
    UnknownVersion(u8),
    /// A message that this version does not have.
    #[error("there is no message of kind {0:#04x}")]
    UnknownKind(u8),
    /// Flags or reserved bytes that this version does not have.
    #[error("reserved fields of the header are not 0")]
    Reserved,
    /// The body would be longer than [`BODY_BYTES_MAX`].
    #[error("a body of {0} bytes is over the limit")]
    BodyTooLong(u32),
    /// The payload would be longer than [`PAYLOAD_BYTES_MAX`].
    #[error("a payload of {0} bytes is over the limit")]
    PayloadTooLong(u32),
    /// The body was damaged.
    #[error("checksum of the body is wrong")]
    BodyChecksum,
    /// The message asks for more than a payload may hold.
    #[error("{kind:?}: a range of {bytes} bytes is over the limit")]
    RangeTooLong {
        /// The message.
        kind: Kind,
        /// Bytes of its range.
        bytes: u64,
    },
    /// The payload is not what the message calls for.
    #[error("{kind:?} calls for a payload of {wanted} bytes, not {got}")]
    PayloadMismatch {
        /// The message.
        kind: Kind,
        /// Bytes that its range has.
        wanted: u64,
        /// Bytes that the header says.
        got: u32,
    },
    /// The body is not the message that the header says.
    #[error("{kind:?}: {source}")]
    Body {
        /// The message.
        kind: Kind,
        /// Why not.
        source: DecodeValue,
    },
}

/// A header, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Version under which the body is encoded.
    pub version: ProtocolVersion,
    /// Which message.
    pub kind: Kind,
    /// Session, epoch and left set.
    pub stamp: Stamp,
    /// Bytes of the body, at most [`BODY_BYTES_MAX`].
    pub body_bytes: usize,
    /// CRC32C of the body.
    pub body_crc: u32,
    /// The payload, at most [`PAYLOAD_BYTES_MAX`].
    pub payload: PayloadHead,
}

impl Header {
    /// The bytes of this header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let body_bytes = u32::try_from(self.body_bytes).expect("a body is within its limit");
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = self.version as u8;
        bytes[5] = self.kind as u8;
        bytes[7] = self.stamp.left;
        bytes[8..12].copy_from_slice(&body_bytes.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload.bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.payload.crc.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.stamp.session.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.stamp.epoch.0.to_le_bytes());
        let crc = crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads and checks a header.
    ///
    /// # Errors
    /// If this is no header, or one of a frame that this program must not accept.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, DecodeFrame> {
        if bytes[0..4] != MAGIC {
            return Err(DecodeFrame::BadMagic);
        }
        let mut r = Reader::new(&bytes[4..]);
        // The slice has the length of all fields together: none of these can be cut off.
        Header::decode_fields(&mut r, crc32c(&bytes[..CHECKED_BYTES])).unwrap_or(Err(DecodeFrame::HeaderChecksum))
    }

    fn decode_fields(r: &mut Reader<'_>, crc: u32) -> Result<Result<Header, DecodeFrame>, DecodeValue> {
        let [version, kind, flags, left] = r.array()?;
        let (body_bytes, payload_bytes) = (r.u32()?, r.u32()?);
        let (payload_crc, body_crc) = (r.u32()?, r.u32()?);
        let (session, epoch, reserved) = (SessionId(r.u64()?), Epoch(r.u64()?), r.u32()?);
        if r.u32()? != crc {
            return Ok(Err(DecodeFrame::HeaderChecksum));
        }
        let Some(version) = ProtocolVersion::from_number(version) else {
            return Ok(Err(DecodeFrame::UnknownVersion(version)));
        };
        let Some(kind) = Kind::from_number(kind) else { return Ok(Err(DecodeFrame::UnknownKind(kind))) };
        if flags != 0 || reserved != 0 {
            return Ok(Err(DecodeFrame::Reserved));
        }
        if body_bytes as usize > BODY_BYTES_MAX {
            return Ok(Err(DecodeFrame::BodyTooLong(body_bytes)));
        }
        if payload_bytes as usize > PAYLOAD_BYTES_MAX {
            return Ok(Err(DecodeFrame::PayloadTooLong(payload_bytes)));
        }
        Ok(Ok(Header {
            version,
            kind,
            stamp: Stamp { session, epoch, left },
            body_bytes: body_bytes as usize,
            body_crc,
            payload: PayloadHead { bytes: payload_bytes, crc: payload_crc },
        }))
    }
}
