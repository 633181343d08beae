//! Requests of FUSE: whatever the bytes, what reaches the engine is whole blocks within the volume.
#![no_main]
// Modules of the engine, as they are: only a part of each is used here.
#![allow(dead_code, unused_imports)]

#[path = "../../../engine/src/front/fuse/abi.rs"]
mod abi;
#[path = "../../../engine/src/front/fuse/request.rs"]
mod request;
#[path = "../../../engine/src/front/fuse/response.rs"]
mod response;
#[path = "../../../engine/src/front/fuse/volume_file.rs"]
mod volume_file;

mod front {
    pub mod request {
        pub use crate::front_request::{FrontOp, is_whole_blocks};
    }
}
#[path = "../../../engine/src/front/request.rs"]
mod front_request;

use libfuzzer_sys::fuzz_target;
use volume_file::{Reaction, VolumeFile};

fuzz_target!(|bytes: &[u8]| {
    let Ok((header, operation)) = request::parse(bytes) else { return };
    for over_uring in [false, true] {
        let _ = volume_file::negotiate(header, operation, 1 << 20, over_uring);
    }
    for read_only in [false, true] {
        let file = VolumeFile { size_bytes: 1 << 30, max_io_bytes: 1 << 20, read_only };
        if let Reaction::Io { op, offset, len } = file.on_request(header, operation) {
            let flush = op == front_request::FrontOp::Flush && (offset, len) == (0, 0);
            assert!(flush || front_request::is_whole_blocks(offset, len, file.size_bytes));
            assert!(!read_only || matches!(op, front_request::FrontOp::Read | front_request::FrontOp::Flush));
        }
    }
});
