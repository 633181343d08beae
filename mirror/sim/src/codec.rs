//! Bytes and back, by the codecs of production: every frame that crosses the simulated network, and the metadata that a
//! process finds at its start.

use lockstep_core::{Frame, Meta};
use lockstep_format::disk::{self, Journal, Owner};
use lockstep_format::wire::{Decoded, PayloadHead, decode_frame, encode_frame};

use crate::failure::Failure;

/// Encodes a frame that carries a payload of so many blocks.
///
/// # Errors
/// The frame is one that the engine could not send either.
pub fn encode(frame: &Frame, blocks: Option<usize>) -> Result<Vec<u8>, String> {
    let bytes = u32::try_from(blocks.unwrap_or(0) * 4096).map_err(|_| "a payload of 4 GiB".to_owned())?;
    // Payloads are numbers here, not bytes: their checksum is of no use.
    let payload = PayloadHead { bytes, crc: u32::from(bytes != 0) };
    let mut out = Vec::with_capacity(96);
    encode_frame(frame, payload, &mut out).map_err(|error| error.to_string())?;
    Ok(out)
}

/// Decodes a frame.
///
/// # Errors
/// The decoder's reason.
pub fn decode(bytes: &[u8]) -> Result<Frame, String> {
    match decode_frame(bytes).map_err(|error| error.to_string())? {
        Decoded::Frame { frame, head_bytes, .. } if head_bytes == bytes.len() => Ok(frame),
        Decoded::Frame { head_bytes, .. } => Err(format!("{head_bytes} of {} bytes were used", bytes.len())),
        Decoded::More { bytes } => Err(format!("{bytes} bytes are wanted")),
    }
}

/// Writes metadata as a snapshot and reads it back.
///
/// # Errors
/// What is read is not what was written.
pub fn reread(meta: &Meta, now: u64) -> Result<Meta, Failure> {
    let owner = Owner { volume: meta.config.volume, node: meta.node };
    let mut bytes = Vec::new();
    let _journal = Journal::create(owner, meta.clone(), &mut bytes);
    let wrong = |what: String| Failure::correctness("codec", now, what);
    let read = disk::load(owner, [&bytes, &[]]).map_err(|error| wrong(error.to_string()))?;
    if read.meta() == meta {
        Ok(meta.clone())
    } else {
        Err(wrong(format!("metadata changes on disk: {meta:?} becomes {:?}", read.meta())))
    }
}
