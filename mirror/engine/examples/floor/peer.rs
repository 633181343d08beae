//! The side of the peer: receives blocks straight into aligned slots, writes them, answers.

use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsFd;

use crate::Fault;
use crate::ring::{DATA_START, Done, Piece, Ring};
use crate::writer::{ANSWER_BYTES, HEADER_BYTES};

const FRAME_START: usize = DATA_START - HEADER_BYTES;

/// Serves until the connection is closed.
pub fn serve(file: &File, socket: &TcpStream, block: usize, depth: usize) -> Result<(), Fault> {
    // The last slot carries answers.
    let mut ring = Ring::new(depth + 1, block)?;
    let answers = depth;
    let frame_end = DATA_START + block;
    // Slots in the order in which frames arrive in them: the first one may have a part already.
    let mut empty: Vec<usize> = (0..depth).collect();
    let mut filled_to = FRAME_START;
    let mut unanswered: Vec<u64> = Vec::new();
    let mut numbers = vec![0u64; depth];
    let mut done = Vec::new();
    loop {
        if !ring.is_receiving() && !empty.is_empty() {
            let pieces = empty.iter().enumerate().map(|(index, slot)| {
                let start = if index == 0 { filled_to } else { FRAME_START };
                Piece { slot: *slot, start, end: frame_end }
            });
            ring.receive(socket.as_fd(), pieces.collect());
        }
        if !ring.is_sending() && !unanswered.is_empty() {
            let count = unanswered.len();
            let bytes = ring.slot(answers);
            for (index, number) in unanswered.drain(..).enumerate() {
                bytes[index * ANSWER_BYTES..][..ANSWER_BYTES].copy_from_slice(&number.to_le_bytes());
            }
            ring.send(socket.as_fd(), vec![Piece { slot: answers, start: 0, end: count * ANSWER_BYTES }]);
        }
        ring.wait(&mut done)?;
        for event in done.drain(..) {
            match event {
                Done::Sent => {}
                Done::Received { bytes: 0 } => return Ok(()),
                Done::Received { mut bytes } => {
                    while bytes > 0 {
                        let slot = *empty.first().expect("what was received lies in the slots that were offered");
                        let here = bytes.min(frame_end - filled_to);
                        bytes -= here;
                        filled_to += here;
                        if filled_to < frame_end {
                            break;
                        }
                        filled_to = FRAME_START;
                        empty.remove(0);
                        let header = &ring.slot(slot)[FRAME_START..DATA_START];
                        let number =
                            |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
                        let offset = number(0);
                        numbers[slot] = number(8);
                        ring.write(file.as_fd(), slot, block, offset);
                    }
                }
                Done::Written { slot, bytes } => {
                    assert_eq!(bytes, block, "a write to the peer's file was short");
                    unanswered.push(numbers[slot]);
                    empty.push(slot);
                }
            }
        }
    }
}
