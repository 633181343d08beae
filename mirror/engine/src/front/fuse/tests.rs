use proptest::prelude::*;

use super::abi::{IN_HEADER_BYTES, fallocate, init_flag, opcode};
use super::request::{self, Operation, ParseRequest, RequestHeader, argument_bytes, parse};
use super::response::{self, Attributes};
use super::volume_file::{NegotiateFuse, Reaction, VolumeFile, negotiate};
use crate::front::request::FrontOp;

const MIB: u64 = 1 << 20;

fn file() -> VolumeFile {
    VolumeFile { name: "volume".to_owned(), size_bytes: 64 * MIB, max_io_bytes: 1 << 20, read_only: false }
}

fn header(code: u32, node: u64) -> RequestHeader {
    RequestHeader { len: 0, opcode: code, unique: 77, node }
}

/// A request as the kernel would write it.
fn encode(code: u32, node: u64, argument: &[u8], payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(IN_HEADER_BYTES + argument.len() + payload.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend(len.to_ne_bytes());
    bytes.extend(code.to_ne_bytes());
    bytes.extend(77u64.to_ne_bytes());
    bytes.extend(node.to_ne_bytes());
    bytes.extend([0; 16]);
    bytes.extend(argument);
    bytes.extend(payload);
    bytes
}

/// `fuse_read_in` and `fuse_write_in` have offset and size in the same places.
fn io_argument(offset: u64, size: u32) -> Vec<u8> {
    let mut argument = vec![0; 40];
    argument[8..16].copy_from_slice(&offset.to_ne_bytes());
    argument[16..20].copy_from_slice(&size.to_ne_bytes());
    argument
}

#[test]
fn write_is_parsed_with_its_payload_behind_eighty_bytes() {
    let bytes = encode(opcode::WRITE, 2, &io_argument(8192, 4096), &[5; 4096]);
    assert_eq!(bytes.len(), 80 + 4096);
    let (header, operation) = parse(&bytes).unwrap();
    assert_eq!((header.unique, header.node), (77, 2));
    assert_eq!(operation, Operation::Write { offset: 8192, size: 4096 });
}

#[test]
fn write_with_another_size_than_its_payload_is_refused() {
    let bytes = encode(opcode::WRITE, 2, &io_argument(0, 8192), &[5; 4096]);
    assert_eq!(parse(&bytes), Err(ParseRequest::WrongPayload { size: 8192, payload: 4096 }));
}

#[test]
fn length_in_the_header_has_to_be_that_of_the_bytes() {
    let mut bytes = encode(opcode::GETATTR, 1, &[0; 16], &[]);
    bytes.push(0);
    assert_eq!(parse(&bytes), Err(ParseRequest::WrongLength { claimed: 56, len: 57 }));
    assert_eq!(parse(&bytes[..7]), Err(ParseRequest::TooShort { len: 7, opcode: 0 }));
}

proptest! {
    #[test]
    fn hostile_requests_never_panic(code in 0u32..50, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = encode(code, 2, &body, &[]);
        if let Ok((header, operation)) = parse(&bytes) {
            let _ = file().on_request(header, operation);
        }
        let _ = parse(&body);
    }

    #[test]
    fn argument_and_payload_may_lie_apart(code in 0u32..50, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = encode(code, 2, &body, &[]);
        let len = argument_bytes(code).min(body.len());
        let header = RequestHeader::parse(&bytes).unwrap();
        let apart = request::parse_operation(header, &body[..len], &body[len..]);
        prop_assert_eq!(parse(&bytes).map(|(_, operation)| operation), apart);
    }

    #[test]
    fn io_reaches_the_engine_only_in_whole_blocks_within_the_volume(
        write in any::<bool>(), offset in 0..66 * MIB, size in 0u32..3 << 20, align in any::<bool>(),
    ) {
        let (offset, size) = if align { (offset & !4095, size & !4095) } else { (offset, size) };
        let operation = if write { Operation::Write { offset, size } } else { Operation::Read { offset, size } };
        if let Reaction::Io { offset: start, len, .. } = file().on_request(header(0, 2), operation) {
            prop_assert!(start == offset && start % 4096 == 0 && len % 4096 == 0 && len > 0);
            prop_assert!(len <= u64::from(size) && start + len <= file().size_bytes);
        }
    }
}

#[test]
fn read_is_cut_at_the_end_and_write_is_not() {
    let end = file().size_bytes;
    let read = file().on_request(header(0, 2), Operation::Read { offset: end - 4096, size: 8192 });
    assert_eq!(read, Reaction::Io { op: FrontOp::Read, offset: end - 4096, len: 4096 });
    let write = file().on_request(header(0, 2), Operation::Write { offset: end - 4096, size: 8192 });
    assert_eq!(write, Reaction::Answer(Err(libc::ENOSPC)));
}

#[test]
fn holes_and_zeroed_ranges_become_write_zeroes_and_nothing_else_is_allocated() {
    let ask = |mode| file().on_request(header(0, 2), Operation::Fallocate { offset: 0, len: MIB, mode });
    let zeroes = |may_unmap| Reaction::Io { op: FrontOp::WriteZeroes { may_unmap, fua: false }, offset: 0, len: MIB };
    assert_eq!(ask(fallocate::PUNCH_HOLE | fallocate::KEEP_SIZE), zeroes(true));
    assert_eq!(ask(fallocate::ZERO_RANGE | fallocate::KEEP_SIZE), zeroes(false));
    assert_eq!(ask(0), Reaction::Answer(Err(libc::EOPNOTSUPP)));
}

#[test]
fn read_only_volume_refuses_every_change() {
    let file = VolumeFile { read_only: true, ..file() };
    let write = file.on_request(header(0, 2), Operation::Write { offset: 0, size: 4096 });
    let punch = fallocate::PUNCH_HOLE | fallocate::KEEP_SIZE;
    let hole = file.on_request(header(0, 2), Operation::Fallocate { offset: 0, len: 4096, mode: punch });
    assert_eq!([write, hole], [Reaction::Answer(Err(libc::EROFS)); 2]);
    assert!(matches!(file.on_request(header(0, 2), Operation::Read { offset: 0, size: 4096 }), Reaction::Io { .. }));
}

#[test]
fn only_the_volume_is_in_the_root() {
    let lookup = |node, name| file().on_request(header(opcode::LOOKUP, node), Operation::Lookup { name });
    assert!(matches!(lookup(1, b"volume"), Reaction::Answer(Ok(_))));
    assert_eq!(lookup(1, b"other"), Reaction::Answer(Err(libc::ENOENT)));
    assert_eq!(lookup(2, b"volume"), Reaction::Answer(Err(libc::ENOENT)));
}

#[test]
fn size_changes_by_a_resize_of_the_volume_only() {
    let set = |size| file().on_request(header(0, 2), Operation::SetAttr { valid: 1 << 3, size });
    assert_eq!(set(0), Reaction::Answer(Err(libc::EPERM)));
    assert!(matches!(set(64 * MIB), Reaction::Answer(Ok(_))));
}

#[test]
fn answers_have_the_sizes_of_the_kernels_structures() {
    let attr = Attributes { node: 2, size_bytes: MIB, mode: 0o100_600, links: 1 };
    assert_eq!(response::entry_out(attr).as_bytes().len(), 128);
    assert_eq!(response::attr_out(attr).as_bytes().len(), 104);
    assert_eq!(response::open_out(1).as_bytes().len(), 16);
    assert_eq!(response::write_out(1).as_bytes().len(), 8);
    assert_eq!(response::statfs_out(1).as_bytes().len(), 80);
    assert_eq!(response::out_header(77, libc::EIO, 0)[4..8], (-libc::EIO).to_ne_bytes());
}

#[test]
fn init_takes_what_both_know_and_refuses_old_kernels() {
    let all = u64::MAX;
    let init = |major, minor, flags| {
        let operation = Operation::Init { major, minor, max_readahead: 1, flags };
        negotiate(header(opcode::INIT, 0), operation, 1 << 20, false)
    };
    let agreed = init(7, 99, all).unwrap();
    assert_eq!((agreed.minor, agreed.max_write), (45, 1 << 20));
    assert_eq!(agreed.flags & init_flag::OVER_IO_URING, 0);
    assert_ne!(agreed.flags & init_flag::ASYNC_DIO, 0);
    assert_eq!(response::init_out(agreed).as_bytes().len(), 64);
    assert_eq!(init(7, 30, all), Err(NegotiateFuse::Version { major: 7, minor: 30 }));
    assert_eq!(init(7, 31, all & !init_flag::ASYNC_DIO), Err(NegotiateFuse::NoAsyncDirectIo));
    let getattr = negotiate(header(opcode::GETATTR, 1), Operation::GetAttr, 1 << 20, false);
    assert_eq!(getattr, Err(NegotiateFuse::NotInit(opcode::GETATTR)));
}

#[test]
fn directory_is_listed_in_pieces() {
    let entries = [(1, ".", 4), (1, "..", 4), (2, "volume", 8)];
    assert_eq!(response::directory(&entries, 0, 4096).as_bytes().len(), 96);
    assert_eq!(response::directory(&entries, 0, 70).as_bytes().len(), 64);
    assert_eq!(response::directory(&entries, 2, 4096).as_bytes().len(), 32);
    assert_eq!(response::directory(&entries, 3, 4096).as_bytes().len(), 0);
}
