//! The side of the application: keeps the load's depth, writes the local file, sends to the peer, counts answers.

use std::collections::VecDeque;
use std::fs::File;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::Fault;
use crate::ring::{DATA_START, Done, Piece, Ring};

/// Offset in the file and the sender's number of the request, right before the data.
pub const HEADER_BYTES: usize = 16;
/// The number of the request that was written.
pub const ANSWER_BYTES: usize = 8;

#[derive(Clone, Copy)]
pub enum Pattern {
    Random,
    Sequential,
}

#[derive(Clone, Copy)]
pub struct Load {
    pub block: usize,
    pub depth: usize,
    pub duration: Duration,
    pub file_bytes: u64,
    pub pattern: Pattern,
}

/// Chooses blocks. The same seed each run: a floor is compared with loads of the same shape, not with itself.
struct Offsets {
    state: u64,
    blocks: u64,
    pattern: Pattern,
}

impl Offsets {
    fn next_block(&mut self) -> u64 {
        match self.pattern {
            Pattern::Sequential => self.state += 1,
            Pattern::Random => {
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
            }
        }
        self.state % self.blocks
    }
}

#[derive(Clone, Copy)]
struct Request {
    started: Instant,
    written: bool,
    answered: bool,
}

/// Runs the load; latencies in nanoseconds.
pub fn run(file: &File, socket: &TcpStream, load: &Load) -> Result<Vec<u64>, Fault> {
    // The last slot takes the answers.
    let mut ring = Ring::new(load.depth + 1, load.block)?;
    let answers = load.depth;
    let mut offsets =
        Offsets { state: 0x9e37_79b9_7f4a_7c15, blocks: load.file_bytes / load.block as u64, pattern: load.pattern };
    let mut requests: Vec<Option<Request>> = vec![None; load.depth];
    let mut unsent: VecDeque<usize> = VecDeque::new();
    let mut partial_answer: Vec<u8> = Vec::new();
    let mut latencies = Vec::new();
    let mut done = Vec::new();
    let start = Instant::now();
    loop {
        let over = start.elapsed() >= load.duration;
        #[expect(clippy::needless_range_loop, reason = "the slot is the name of the request, not only its place")]
        for slot in 0..load.depth {
            if over || requests[slot].is_some() || ring.is_used(slot) {
                continue;
            }
            let offset = offsets.next_block() * load.block as u64;
            let header = &mut ring.slot(slot)[DATA_START - HEADER_BYTES..DATA_START];
            header[..8].copy_from_slice(&offset.to_le_bytes());
            header[8..].copy_from_slice(&(slot as u64).to_le_bytes());
            requests[slot] = Some(Request { started: Instant::now(), written: false, answered: false });
            ring.write(file.as_fd(), slot, load.block, offset);
            unsent.push_back(slot);
        }
        if over && requests.iter().all(Option::is_none) {
            return Ok(latencies);
        }
        if !ring.is_sending() && !unsent.is_empty() {
            let piece = |slot| Piece { slot, start: DATA_START - HEADER_BYTES, end: DATA_START + load.block };
            ring.send(socket.as_fd(), unsent.drain(..).map(piece).collect());
        }
        if !ring.is_receiving() {
            ring.receive(socket.as_fd(), vec![Piece { slot: answers, start: 0, end: DATA_START }]);
        }
        ring.wait(&mut done)?;
        for event in done.drain(..) {
            match event {
                Done::Written { slot, bytes } => {
                    assert_eq!(bytes, load.block, "a write to the local file was short");
                    let request = requests[slot].as_mut().expect("a write belongs to a request");
                    request.written = true;
                }
                Done::Sent => {}
                Done::Received { bytes } => {
                    if bytes == 0 {
                        return Err("the peer closed the connection".into());
                    }
                    partial_answer.extend_from_slice(&ring.slot(answers)[..bytes]);
                    let whole = partial_answer.len() / ANSWER_BYTES * ANSWER_BYTES;
                    for answer in partial_answer.drain(..whole).collect::<Vec<u8>>().chunks_exact(ANSWER_BYTES) {
                        let slot = u64::from_le_bytes(answer.try_into().expect("chunks of eight bytes"));
                        let request =
                            requests[usize::try_from(slot)?].as_mut().expect("an answer belongs to a request");
                        request.answered = true;
                    }
                }
            }
        }
        for slot in &mut requests {
            if let Some(request) = slot.take_if(|request| request.written && request.answered) {
                latencies.push(u64::try_from(request.started.elapsed().as_nanos())?);
            }
        }
    }
}
