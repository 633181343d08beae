use proptest::prelude::*;

use super::abi::{self, REQUEST_BYTES, command, error, option, option_reply, transmission};
use super::handshake::{Export, Handshake, Phase};
use super::transmission::{Command, Limits, RawRequest, ReplyHead};
use crate::front::request::FrontOp;

fn export() -> Export {
    Export { name: "v1".into(), size_bytes: 1 << 20, read_only: false, multi_conn: false, max_io_bytes: 1 << 20 }
}

fn option_bytes(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = abi::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

fn go(name: &str) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend([0, 0]);
    data
}

/// Speaks to a new server; returns what it said and where it stands.
fn talk(messages: &[Vec<u8>]) -> (Handshake, Vec<u8>, usize) {
    let mut handshake = Handshake::new();
    let mut input = 3u32.to_be_bytes().to_vec();
    input.extend(messages.concat());
    let mut output = Vec::new();
    let used = handshake.on_bytes(&input, &export(), &mut output);
    (handshake, output, input.len() - used)
}

/// Kinds of the option replies in `output`.
fn kinds(mut output: &[u8]) -> Vec<u32> {
    let mut kinds = Vec::new();
    while !output.is_empty() {
        kinds.push(u32::from_be_bytes(output[12..16].try_into().unwrap()));
        let len = u32::from_be_bytes(output[16..20].try_into().unwrap()) as usize;
        output = &output[20 + len..];
    }
    kinds
}

#[test]
fn go_leads_to_transmission_and_leaves_what_follows() {
    let (handshake, output, left) =
        talk(&[option_bytes(option::STRUCTURED_REPLY, &[]), option_bytes(option::GO, &go("v1")), vec![9; 5]]);
    assert_eq!((handshake.phase(), left), (Phase::Transmission, 5));
    assert!(handshake.is_structured());
    assert_eq!(kinds(&output), [1, option_reply::INFO, option_reply::INFO, 1]);
}

#[test]
fn unknown_export_is_refused_and_the_client_may_ask_again() {
    let (handshake, output, _) = talk(&[option_bytes(option::GO, &go("other"))]);
    assert_eq!((handshake.phase(), kinds(&output)), (Phase::Options, vec![option_reply::ERR_UNKNOWN]));
    let (handshake, output, _) = talk(&[option_bytes(option::EXPORT_NAME, b"other")]);
    assert_eq!((handshake.phase(), output.len()), (Phase::Closed, 0));
}

#[test]
fn export_name_tells_size_and_flags() {
    let (handshake, output, _) = talk(&[option_bytes(option::EXPORT_NAME, b"")]);
    assert_eq!(handshake.phase(), Phase::Transmission);
    assert_eq!(output[..8], (1u64 << 20).to_be_bytes());
    let flags = u16::from_be_bytes(output[8..10].try_into().unwrap());
    assert_ne!(flags & transmission::SEND_FUA, 0);
    assert_eq!(flags & (transmission::CAN_MULTI_CONN | transmission::READ_ONLY | transmission::SEND_DF), 0);
    assert_eq!(output.len(), 10);
}

#[test]
fn unknown_and_malformed_options_are_answered_and_huge_ones_end_it() {
    let starttls = option_bytes(5, &[]);
    let set_meta_context = option_bytes(10, &[0; 12]);
    let (handshake, output, _) = talk(&[starttls, set_meta_context, option_bytes(option::LIST, &[1])]);
    assert_eq!(handshake.phase(), Phase::Options);
    let unsupported = option_reply::ERR_UNSUPPORTED;
    assert_eq!(kinds(&output), [unsupported, unsupported, option_reply::ERR_INVALID]);
    let mut huge = option_bytes(option::GO, &[]);
    huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(talk(&[huge]).0.phase(), Phase::Closed);
}

#[test]
fn client_with_unknown_flags_is_not_talked_to() {
    let mut handshake = Handshake::new();
    assert_eq!(handshake.on_bytes(&[0, 0, 0, 0xff], &export(), &mut Vec::new()), 4);
    assert_eq!(handshake.phase(), Phase::Closed);
}

fn request(flags: u16, code: u16, offset: u64, len: u32) -> Command {
    let limits = Limits { size_bytes: 1 << 30, max_io_bytes: 1 << 20, read_only: false };
    RawRequest { flags, command: code, cookie: 1, offset, len }.command(limits)
}

#[test]
fn requests_and_their_flags() {
    let table = [
        (request(0, command::READ, 4096, 4096), Command::Io(FrontOp::Read)),
        (request(command::FLAG_DF, command::READ, 0, 4096), Command::Io(FrontOp::Read)),
        (request(command::FLAG_FUA, command::WRITE, 0, 4096), Command::Io(FrontOp::Write { fua: true })),
        (request(0, command::FLUSH, 0, 0), Command::Io(FrontOp::Flush)),
        (request(0, command::TRIM, 0, 1 << 29), Command::Io(FrontOp::Discard)),
        (
            request(command::FLAG_FUA, command::TRIM, 0, 4096),
            Command::Io(FrontOp::WriteZeroes { may_unmap: true, fua: true }),
        ),
        (
            request(command::FLAG_NO_HOLE, command::WRITE_ZEROES, 0, 4096),
            Command::Io(FrontOp::WriteZeroes { may_unmap: false, fua: false }),
        ),
        (request(0, command::DISCONNECT, 0, 0), Command::Disconnect),
        (request(0, 7, 0, 4096), Command::Refused { error: error::EINVAL, payload: 0 }),
        (request(1 << 4, command::WRITE_ZEROES, 0, 4096), Command::Refused { error: error::EINVAL, payload: 0 }),
        (request(0, command::READ, 512, 4096), Command::Refused { error: error::EINVAL, payload: 0 }),
        (request(0, command::READ, 1 << 30, 4096), Command::Refused { error: error::EINVAL, payload: 0 }),
        (request(0, command::WRITE, 0, 512), Command::Refused { error: error::EINVAL, payload: 512 }),
        (request(0, command::WRITE, 1 << 30, 4096), Command::Refused { error: error::ENOSPC, payload: 4096 }),
        (request(0, command::WRITE, u64::MAX - 4095, 8192), Command::Refused { error: error::ENOSPC, payload: 8192 }),
        (request(0, command::WRITE, 0, 2 << 20), Command::Refused { error: error::EINVAL, payload: 2 << 20 }),
    ];
    for (number, (got, wanted)) in table.into_iter().enumerate() {
        assert_eq!(got, wanted, "row {number}");
    }
}

#[test]
fn reply_heads_have_their_sizes() {
    assert_eq!(ReplyHead::simple(1, 0).as_bytes().len(), 16);
    assert_eq!(ReplyHead::data_chunk(1, 0, 4096).as_bytes().len(), 28);
    assert_eq!(ReplyHead::data_chunk(1, 0, 4096).as_bytes()[16..20], 4104u32.to_be_bytes());
    assert_eq!(ReplyHead::error_chunk(1, error::EIO).as_bytes().len(), 26);
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let known =
        (0u32..12, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(code, data)| option_bytes(code, &data));
    let meant = (1u32..9, "[a-z0-9]{0,3}").prop_map(|(code, name)| option_bytes(code, &go(&name)));
    prop_oneof![known, meant, proptest::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    /// However the bytes are cut into pieces, the answers are the same, and nothing panics.
    #[test]
    fn negotiation_does_not_depend_on_packets(
        messages in proptest::collection::vec(any_message(), 0..6), cuts in proptest::collection::vec(1usize..30, 1..40),
    ) {
        let (whole, output, left) = talk(&messages);
        let mut input = 3u32.to_be_bytes().to_vec();
        input.extend(messages.concat());
        let (mut pieces, mut said, mut held) = (Handshake::new(), Vec::new(), Vec::new());
        let mut rest = input.as_slice();
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            held.extend(now);
            rest = later;
            let used = pieces.on_bytes(&held, &export(), &mut said);
            held.drain(..used);
        }
        prop_assert_eq!(pieces.phase(), whole.phase());
        prop_assert_eq!((said, held.len()), (output, left));
    }

    #[test]
    fn hostile_requests_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), honest in any::<bool>()) {
        let mut bytes = bytes;
        if honest && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&abi::REQUEST_MAGIC.to_be_bytes());
        }
        let limits = Limits { size_bytes: 1 << 20, max_io_bytes: 1 << 20, read_only: false };
        if let Ok(Some(request)) = RawRequest::parse(&bytes) {
            prop_assert!(bytes.len() >= REQUEST_BYTES);
            let _ = request.command(limits);
        }
    }

    #[test]
    fn io_reaches_the_engine_only_in_whole_blocks_within_the_volume(
        code in 0u16..9, flags in 0u16..8, offset in any::<u64>(), len in any::<u32>(), near in any::<bool>(),
    ) {
        let limits = Limits { size_bytes: 64 << 20, max_io_bytes: 1 << 20, read_only: false };
        let (offset, len) = if near { ((offset % (65 << 20)) & !4095, (len % (2 << 20)) & !4095) } else { (offset, len) };
        let request = RawRequest { flags, command: code, cookie: 0, offset, len };
        if let Command::Io(op) = request.command(limits) && op != FrontOp::Flush {
            prop_assert!(offset % 4096 == 0 && len % 4096 == 0 && len > 0);
            prop_assert!(offset + u64::from(len) <= limits.size_bytes);
        }
    }
}
