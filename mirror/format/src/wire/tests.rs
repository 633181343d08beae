//! Frames: round trips, hostile bytes, truncation, flipped bits.

use std::collections::BTreeSet;

use lockstep_core::{BlockRange, Epoch, Frame, Message, ReadId, SessionId, Stamp, WriteId};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::frame::payload_bytes;
use super::{
    BODY_BYTES_MAX, DecodeFrame, Decoded, EncodeFrame, HEADER_BYTES, Header, Kind, PAYLOAD_BYTES_MAX, PayloadHead,
    ProtocolVersion, decode_frame, encode_frame,
};
use crate::strategies;

fn announce(frame: &Frame) -> PayloadHead {
    let bytes = u32::try_from(payload_bytes(&frame.message)).expect("strategies stay within the limit");
    PayloadHead { bytes, crc: if bytes == 0 { 0 } else { 0xfeed } }
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_frame(frame, announce(frame), &mut bytes).expect("strategies stay within the limits");
    bytes
}

fn sessionless(message: Message) -> Frame {
    Frame { stamp: Stamp::default(), message }
}

proptest! {
    #[test]
    fn every_frame_comes_back_as_it_went(frame in strategies::frame(), behind in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut bytes = encoded(&frame);
        let head_bytes = bytes.len();
        bytes.extend_from_slice(&behind);
        let payload = announce(&frame);
        prop_assert_eq!(decode_frame(&bytes), Ok(Decoded::Frame { frame, payload, head_bytes }));
    }

    #[test]
    fn frames_are_appended_to_what_the_vector_holds(frames in proptest::collection::vec(strategies::frame(), 1..5)) {
        let mut bytes = Vec::new();
        for frame in &frames {
            encode_frame(frame, announce(frame), &mut bytes).expect("strategies stay within the limits");
        }
        let mut rest = &bytes[..];
        for wanted in frames {
            let Ok(Decoded::Frame { frame, head_bytes, .. }) = decode_frame(rest) else { panic!("a frame is there") };
            prop_assert_eq!(frame, wanted);
            rest = &rest[head_bytes..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_frame_cut_short_anywhere_only_asks_for_more(frame in strategies::frame()) {
        let bytes = encoded(&frame);
        for len in 0..bytes.len() {
            let Ok(Decoded::More { bytes: wanted }) = decode_frame(&bytes[..len]) else { panic!("not whole at {len}") };
            prop_assert!(wanted > len && wanted <= bytes.len());
        }
    }

    #[test]
    fn every_flipped_bit_of_a_head_is_found(frame in strategies::frame(), at in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&frame);
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode_frame(&bytes).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_frame(&bytes);
    }

    #[test]
    fn hostile_bodies_with_right_checksums_never_panic(
        kind in prop::sample::select(Kind::ALL),
        body in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255), any::<u8>()], 0..300),
    ) {
        if let Ok(Decoded::Frame { frame, payload, .. }) = decode_frame(&with_body(kind, &body)) {
            // Whatever is accepted is the encoding of what it was taken for: no value has two.
            let mut again = Vec::new();
            prop_assert_eq!(encode_frame(&frame, payload, &mut again), Ok(()));
            prop_assert_eq!(&again[HEADER_BYTES..], &body[..]);
        }
    }

    #[test]
    fn damaged_bodies_with_right_checksums_never_panic(
        frame in strategies::frame(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let kind = Kind::of(&frame.message);
        let mut body = encoded(&frame).split_off(HEADER_BYTES);
        for (at, byte) in damage {
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = byte;
            }
        }
        let _ = decode_frame(&with_body(kind, &body));
    }
}

fn with_body(kind: Kind, body: &[u8]) -> Vec<u8> {
    let header = Header {
        version: ProtocolVersion::V1,
        kind,
        stamp: Stamp::default(),
        body_bytes: body.len(),
        body_crc: crate::crc32c(body),
        payload: PayloadHead::NONE,
    };
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Changes a header and makes its checksum right again.
fn forged(change: impl FnOnce(&mut [u8])) -> Result<Decoded, DecodeFrame> {
    let mut bytes = encoded(&sessionless(Message::WriteAck { id: WriteId(1) }));
    change(&mut bytes);
    let crc = crate::crc32c(&bytes[..HEADER_BYTES - 4]);
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    decode_frame(&bytes)
}

#[test]
fn the_strategies_cover_every_kind_of_message() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..5_000 {
        let message = strategies::message().new_tree(&mut runner).expect("a message").current();
        seen.insert(Kind::of(&message));
    }
    assert_eq!(seen.len(), Kind::ALL.len());
}

#[test]
fn unknown_versions_kinds_and_flags_are_refused() {
    assert_eq!(forged(|b| b[0] = b'X'), Err(DecodeFrame::BadMagic));
    assert_eq!(forged(|b| b[4] = 9), Err(DecodeFrame::UnknownVersion(9)));
    assert_eq!(forged(|b| b[5] = 0xee), Err(DecodeFrame::UnknownKind(0xee)));
    assert_eq!(forged(|b| b[6] = 1), Err(DecodeFrame::Reserved));
    assert_eq!(forged(|b| b[40] = 1), Err(DecodeFrame::Reserved));
}

#[test]
fn claims_over_the_limits_are_refused_before_any_byte_of_them_is_there() {
    let too_long = u32::try_from(BODY_BYTES_MAX + 1).expect("small");
    assert_eq!(forged(|b| b[8..12].copy_from_slice(&too_long.to_le_bytes())), Err(DecodeFrame::BodyTooLong(too_long)));
    let too_long = u32::try_from(PAYLOAD_BYTES_MAX + 1).expect("small");
    assert_eq!(
        forged(|b| b[12..16].copy_from_slice(&too_long.to_le_bytes())),
        Err(DecodeFrame::PayloadTooLong(too_long))
    );
}

#[test]
fn a_list_that_claims_more_than_is_there_is_refused() {
    let mut body = 7u64.to_le_bytes().to_vec();
    body.extend_from_slice(&u32::MAX.to_le_bytes());
    let refused = decode_frame(&with_body(Kind::PulledDurable, &body));
    assert!(matches!(refused, Err(DecodeFrame::Body { kind: Kind::PulledDurable, .. })));
}

#[test]
fn a_payload_that_is_not_the_message_s_is_refused_at_both_ends() {
    let range = BlockRange::new(8, 10);
    let frame = sessionless(Message::ReadReply { id: ReadId(1), range });
    let refused = encode_frame(&frame, PayloadHead { bytes: 4096, crc: 1 }, &mut Vec::new());
    assert_eq!(refused, Err(EncodeFrame::PayloadMismatch { kind: Kind::ReadReply, wanted: 8192, got: 4096 }));

    let body = encoded(&frame).split_off(HEADER_BYTES);
    let refused = decode_frame(&with_body(Kind::ReadReply, &body));
    assert_eq!(refused, Err(DecodeFrame::PayloadMismatch { kind: Kind::ReadReply, wanted: 8192, got: 0 }));
}

#[test]
fn a_payload_longer_than_the_limit_is_not_sent() {
    let range = BlockRange::new(0, PAYLOAD_BYTES_MAX as u64 / 4096 + 1);
    let bytes = u32::try_from(range.bytes()).expect("small");
    let frame = sessionless(Message::ReadReply { id: ReadId(1), range });
    let refused = encode_frame(&frame, PayloadHead { bytes, crc: 1 }, &mut Vec::new());
    assert!(matches!(refused, Err(EncodeFrame::RangeTooLong { kind: Kind::ReadReply, .. })));
}

#[test]
fn a_read_of_more_than_a_payload_can_hold_is_refused() {
    let mut body = 1u64.to_le_bytes().to_vec();
    body.extend_from_slice(&0u64.to_le_bytes());
    body.extend_from_slice(&(1u64 << 40).to_le_bytes());
    let refused = decode_frame(&with_body(Kind::Read, &body));
    assert_eq!(refused, Err(DecodeFrame::RangeTooLong { kind: Kind::Read, bytes: 1 << 52 }));
}

#[test]
fn a_body_longer_than_the_limit_is_not_sent_and_leaves_the_vector_alone() {
    let ranges = vec![BlockRange::new(1, 2); BODY_BYTES_MAX / 16];
    let frame = sessionless(Message::PulledDurable { round: lockstep_core::Round(1), ranges });
    let mut out = b"before".to_vec();
    assert!(matches!(encode_frame(&frame, PayloadHead::NONE, &mut out), Err(EncodeFrame::BodyTooLong { .. })));
    assert_eq!(out, b"before");
}

#[test]
fn hot_frames_encode_into_a_warm_vector_without_growing_it() {
    let stamp = Stamp { session: SessionId(1), epoch: Epoch(2), left: 0 };
    let frame = Frame { stamp, message: Message::WriteAck { id: WriteId(3) } };
    let mut out = Vec::with_capacity(256);
    let at = out.as_ptr();
    for _ in 0..4 {
        encode_frame(&frame, PayloadHead::NONE, &mut out).expect("it is short");
    }
    assert_eq!(out.as_ptr(), at);
}
