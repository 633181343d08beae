//! Frames: header, body, and the announcement of a payload that follows them.

use lockstep_core::{Frame, Message, WriteKind};
use thiserror::Error;

use super::{BODY_BYTES_MAX, DecodeFrame, HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX, ProtocolVersion, body};
use crate::bytes::{DecodeValue, Layout};
use crate::crc32c;
use crate::values::layout_of;

/// What a header says of the payload that follows the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PayloadHead {
    /// Its length; 0 if there is none.
    pub bytes: u32,
    /// Its CRC32C; 0 if there is none.
    pub crc: u32,
}

impl PayloadHead {
    /// No payload.
    pub const NONE: PayloadHead = PayloadHead { bytes: 0, crc: 0 };

    /// The announcement of these bytes.
    ///
    /// # Panics
    /// If they are more than a frame can announce.
    #[must_use]
    pub fn of(payload: &[u8]) -> PayloadHead {
        let bytes = u32::try_from(payload.len()).expect("a payload is within its limit");
        PayloadHead { bytes, crc: if bytes == 0 { 0 } else { crc32c(payload) } }
    }

    /// True if these are the bytes that were announced.
    #[must_use]
    pub fn matches(self, payload: &[u8]) -> bool {
        self == PayloadHead::of(payload)
    }
}

/// Why a frame cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum EncodeFrame {
    /// The body is longer than [`BODY_BYTES_MAX`].
    #[error("{kind:?}: a body of {bytes} bytes is over the limit")]
    BodyTooLong {
        /// The message.
        kind: Kind,
        /// Its bytes.
        bytes: usize,
    },
    /// The message asks for, or carries, more than a payload may hold.
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
        /// Bytes that the caller has.
        got: u32,
    },
}

/// What the front of a stream of bytes holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Not yet a whole head: ask again when there are at least so many bytes from the start of the frame.
    More {
        /// Bytes needed.
        bytes: usize,
    },
    /// A frame. Its payload follows the head.
    Frame {
        /// The frame.
        frame: Frame,
        /// What follows.
        payload: PayloadHead,
        /// Bytes of header and body together.
        head_bytes: usize,
    },
}

/// The payload bytes that a message calls for.
#[must_use]
pub fn payload_bytes(message: &Message) -> u64 {
    match message {
        Message::Write { range, kind: WriteKind::Data, .. }
        | Message::ReadReply { range, .. }
        | Message::Pulled { range, .. }
        | Message::RollForward { range, .. } => range.bytes(),
        _ => 0,
    }
}

/// Bytes that whoever receives the message needs memory for: its payload, or what it asks to be read.
fn memory_bytes(message: &Message) -> u64 {
    match message {
        Message::Read { range, .. }
        | Message::Pull { range, .. }
        | Message::DigestAsk { range, .. }
        | Message::Digests { range, .. } => range.bytes(),
        other => payload_bytes(other),
    }
}

/// The oldest layout that can say what the message says: a frame is of the oldest version that can, so that a peer with an older
/// program understands all that concerns it.
fn layout_of_message(message: &Message) -> Layout {
    match message {
        Message::Hello { config, .. }
        | Message::Accept { config, .. }
        | Message::VoterAdmit { config, .. }
        | Message::Install { config, .. }
        | Message::Promise { accepted: Some((_, config)), .. } => layout_of(config),
        Message::AttachWanted => Layout::Added,
        _ => Layout::Original,
    }
}

/// Appends header and body of a frame to `out`; the caller sends the payload's bytes after them. A vector that has
/// been used before is not allocated anew.
///
/// # Errors
/// If the frame is over a limit or the payload is not the message's; `out` is as before then.
pub fn encode_frame(frame: &Frame, payload: PayloadHead, out: &mut Vec<u8>) -> Result<(), EncodeFrame> {
    let kind = Kind::of(&frame.message);
    let bytes = memory_bytes(&frame.message);
    if bytes > PAYLOAD_BYTES_MAX as u64 {
        return Err(EncodeFrame::RangeTooLong { kind, bytes });
    }
    let wanted = payload_bytes(&frame.message);
    if wanted != u64::from(payload.bytes) {
        return Err(EncodeFrame::PayloadMismatch { kind, wanted, got: payload.bytes });
    }
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let layout = layout_of_message(&frame.message);
    body::encode(&frame.message, layout, out);
    let body = &out[start + HEADER_BYTES..];
    if body.len() > BODY_BYTES_MAX {
        let bytes = body.len();
        out.truncate(start);
        return Err(EncodeFrame::BodyTooLong { kind, bytes });
    }
    let header = Header {
        version: ProtocolVersion::of(layout),
        kind,
        stamp: frame.stamp,
        body_bytes: body.len(),
        body_crc: crc32c(body),
        payload,
    };
    out[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
    Ok(())
}

/// Looks at the front of a stream. Nothing is allocated before the body is there and its checksum is right.
///
/// # Errors
/// If the connection must be closed.
pub fn decode_frame(bytes: &[u8]) -> Result<Decoded, DecodeFrame> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(Decoded::More { bytes: HEADER_BYTES });
    };
    let header = Header::decode(header)?;
    let head_bytes = HEADER_BYTES + header.body_bytes;
    let Some(body) = rest.get(..header.body_bytes) else { return Ok(Decoded::More { bytes: head_bytes }) };
    Ok(Decoded::Frame { frame: decode_body(&header, body)?, payload: header.payload, head_bytes })
}

/// The frame of a header that came before, for who receives header and body apart.
///
/// # Errors
/// If the connection must be closed.
pub fn decode_body(header: &Header, body: &[u8]) -> Result<Frame, DecodeFrame> {
    let kind = header.kind;
    if body.len() != header.body_bytes || crc32c(body) != header.body_crc {
        return Err(DecodeFrame::BodyChecksum);
    }
    let layout = header.version.layout();
    let message = body::decode(kind, layout, body).map_err(|source| DecodeFrame::Body { kind, source })?;
    if layout != layout_of_message(&message) {
        let source = DecodeValue::OutOfBounds("version: an older one says the same");
        return Err(DecodeFrame::Body { kind, source });
    }
    let bytes = memory_bytes(&message);
    if bytes > PAYLOAD_BYTES_MAX as u64 {
        return Err(DecodeFrame::RangeTooLong { kind, bytes });
    }
    let wanted = payload_bytes(&message);
    if wanted != u64::from(header.payload.bytes) || (wanted == 0 && header.payload.crc != 0) {
        return Err(DecodeFrame::PayloadMismatch { kind, wanted, got: header.payload.bytes });
    }
    Ok(Frame { stamp: header.stamp, message })
}
