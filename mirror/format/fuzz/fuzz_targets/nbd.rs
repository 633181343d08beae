//! A client of the NBD socket: first the negotiation, then requests, in one stream.
#![no_main]
// Modules of the engine, as they are: only a part of each is used here.
#![allow(dead_code, unused_imports)]

#[path = "../../../engine/src/front/nbd/abi.rs"]
mod abi;
#[path = "../../../engine/src/front/nbd/handshake.rs"]
mod handshake;
#[path = "../../../engine/src/front/nbd/transmission.rs"]
mod transmission;

mod front {
    pub mod request {
        pub use crate::front_request::{FrontFailure, FrontOp, is_whole_blocks};
    }
}
#[path = "../../../engine/src/front/request.rs"]
mod front_request;

use front_request::{FrontOp, is_whole_blocks};
use handshake::{Export, Handshake, Phase};
use libfuzzer_sys::fuzz_target;
use transmission::{Command, Limits, RawRequest};

fuzz_target!(|bytes: &[u8]| {
    let export = Export {
        name: "v1".to_string(),
        size_bytes: 1 << 30,
        read_only: bytes.first().is_some_and(|byte| byte & 1 == 1),
        multi_conn: true,
        max_io_bytes: 32 << 20,
    };
    let limits =
        Limits { size_bytes: export.size_bytes, max_io_bytes: export.max_io_bytes, read_only: export.read_only };
    let (mut handshake, mut out) = (Handshake::new(), Vec::new());
    let used = handshake.on_bytes(bytes, &export, &mut out);
    assert!(used <= bytes.len());
    // No option makes the server say much more than it was told.
    assert!(out.len() <= 64 + used * 32);
    if handshake.phase() == Phase::Transmission {
        requests(&bytes[used..], limits);
    }
    requests(bytes, limits);
});

fn requests(mut bytes: &[u8], limits: Limits) {
    while let Ok(Some(request)) = RawRequest::parse(bytes) {
        bytes = &bytes[abi::REQUEST_BYTES..];
        let payload = match request.command(limits) {
            Command::Disconnect => return,
            Command::Refused { payload, .. } => payload,
            Command::Io(FrontOp::Flush) => 0,
            Command::Io(op) => {
                assert!(is_whole_blocks(request.offset, u64::from(request.len), limits.size_bytes));
                assert!(op == FrontOp::Read || !limits.read_only);
                if matches!(op, FrontOp::Write { .. }) { request.len } else { 0 }
            }
        };
        let Some(rest) = bytes.get(payload as usize..) else { return };
        bytes = rest;
    }
}
