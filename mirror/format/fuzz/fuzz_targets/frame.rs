//! Frames: first as they are, then as the body of each kind with checksums that are right, which hostile bytes would
//! hardly ever have. Whatever is accepted must be the one encoding of its value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_core::Stamp;
use lockstep_format::crc32c;
use lockstep_format::wire::frame::{decode_body, payload_bytes};
use lockstep_format::wire::{Decoded, HEADER_BYTES, Header, Kind, PayloadHead, ProtocolVersion};
use lockstep_format::wire::{decode_frame, encode_frame};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Decoded::Frame { frame, payload, head_bytes }) = decode_frame(bytes) {
        let mut again = Vec::new();
        encode_frame(&frame, payload, &mut again).expect("what came in can go out");
        assert_eq!(again, &bytes[..head_bytes]);
    }
    let Some((number, body)) = bytes.split_first() else { return };
    let kind = Kind::ALL[usize::from(*number & 0x7f) % Kind::ALL.len()];
    let version = if number & 0x80 == 0 { ProtocolVersion::V1 } else { ProtocolVersion::V2 };
    let header = |payload| Header {
        version,
        kind,
        stamp: Stamp::default(),
        body_bytes: body.len(),
        body_crc: crc32c(body),
        payload,
    };
    let wanted = match decode_body(&header(PayloadHead::NONE), body) {
        Err(lockstep_format::wire::DecodeFrame::PayloadMismatch { wanted, .. }) => wanted,
        _ => 0,
    };
    let payload = PayloadHead { bytes: u32::try_from(wanted).expect("limited"), crc: 0 };
    if let Ok(frame) = decode_body(&header(payload), body) {
        assert_eq!(payload_bytes(&frame.message), wanted);
        let mut again = Vec::new();
        encode_frame(&frame, payload, &mut again).expect("what came in can go out");
        assert_eq!(&again[HEADER_BYTES..], body);
    }
});
