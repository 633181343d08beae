//! What the hot frames cost: nanoseconds to encode and to decode one, without its payload.
//!
//! `cargo run --release -p lockstep-format --example hot`

use std::hint::black_box;
use std::time::Instant;

use lockstep_core::{BlockRange, Epoch, FlushId, Frame, GrantNumber, Message, SessionId, Stamp, WriteId, WriteKind};
use lockstep_format::wire::{PayloadHead, decode_frame, encode_frame};

const ROUNDS: u32 = 2_000_000;

fn main() {
    let stamp = Stamp { session: SessionId(1), epoch: Epoch(2), left: 0 };
    let write = Message::Write {
        id: WriteId(7),
        grant: GrantNumber { epoch: Epoch(2), counter: 1 },
        range: BlockRange::new(100, 101),
        kind: WriteKind::Data,
        durable: false,
        floor: WriteId(6),
        flush_floor: FlushId(1),
    };
    let messages = [("Write", write, 4096), ("WriteAck", Message::WriteAck { id: WriteId(7) }, 0)];
    for (name, message, bytes) in messages {
        let frame = Frame { stamp, message };
        let payload = PayloadHead { bytes, crc: bytes };
        let mut out = Vec::with_capacity(256);
        let started = Instant::now();
        for _ in 0..ROUNDS {
            out.clear();
            encode_frame(black_box(&frame), payload, &mut out).expect("it is short");
            black_box(&out);
        }
        let encode = started.elapsed() / ROUNDS;
        let started = Instant::now();
        for _ in 0..ROUNDS {
            black_box(decode_frame(black_box(&out)).expect("it was encoded"));
        }
        let decode = started.elapsed() / ROUNDS;
        println!("{name}: {} bytes, encode {encode:?}, decode {decode:?}", out.len());
    }
    let block = vec![7u8; 4096];
    let started = Instant::now();
    for _ in 0..ROUNDS / 10 {
        black_box(lockstep_format::crc32c(black_box(&block)));
    }
    println!("CRC32C of 4096 bytes: {:?}", started.elapsed() / (ROUNDS / 10));
}
