use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use lockstep_core::{BlockRange, Digest, DiskError, Input, IoId};

use super::{Disk, digest_block};
use crate::buffers::{Buffer, Buffers};
use crate::ring::Ring;
use crate::token::Token;

struct Bench {
    path: PathBuf,
    ring: Ring,
    buffers: Buffers,
    disk: Disk,
}

impl Bench {
    fn new(name: &str, blocks: u64) -> Bench {
        let path = std::env::temp_dir().join(format!("lockstep-disk-{name}-{}", std::process::id()));
        File::create(&path).unwrap().set_len(blocks * 4096).unwrap();
        Bench::over(path, true)
    }

    fn over(path: PathBuf, write: bool) -> Bench {
        let mut ring = Ring::new().unwrap();
        let file = OpenOptions::new().read(true).write(write).custom_flags(libc::O_DIRECT).open(&path).unwrap();
        let disk = Disk::new(file, 0, &mut ring).unwrap();
        Bench { path, ring, buffers: Buffers::default(), disk }
    }

    /// Runs until one operation has ended.
    fn end(&mut self) -> Input {
        let mut completions = Vec::new();
        loop {
            self.disk.submit(&mut self.ring);
            self.ring.submit_and_wait(None, 0).unwrap();
            self.ring.drain(&mut completions);
            for cqe in completions.drain(..) {
                let slot = Token::decode(cqe.user_data).detail;
                if let Some(input) = self.disk.on_completion(slot, cqe.result, &mut self.buffers) {
                    return input;
                }
            }
        }
    }

    fn filled(&mut self, blocks: u64, byte: u8) -> Buffer {
        let buffer = self.buffers.take(usize::try_from(blocks).unwrap() * 4096);
        self.buffers.bytes_mut(buffer).fill(byte);
        buffer
    }

    fn write(&mut self, range: BlockRange, byte: u8) {
        let buffer = self.filled(range.len(), byte);
        self.disk.write(IoId(1), range, (buffer, 0), false, &mut self.buffers);
        self.buffers.release(buffer);
        assert_eq!(self.end(), Input::DiskDone { io: IoId(1), result: Ok(()) });
    }

    fn read(&mut self, range: BlockRange) -> Result<Vec<u8>, DiskError> {
        let buffer = self.filled(range.len(), 0xee);
        self.disk.read(IoId(2), range, buffer, &mut self.buffers);
        let Input::DiskDone { result, .. } = self.end() else { panic!("a read ends with DiskDone") };
        let bytes = self.buffers.bytes(buffer).to_vec();
        self.buffers.release(buffer);
        result.map(|()| bytes)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn what_is_written_is_read_back_from_any_offset_of_the_buffer() {
    let mut bench = Bench::new("write", 1024);
    bench.write(BlockRange::new(3, 5), 7);
    let buffer = bench.filled(4, 9);
    bench.buffers.bytes_mut(buffer)[4096..8192].fill(1);
    bench.disk.write(IoId(5), BlockRange::new(4, 5), (buffer, 4096), true, &mut bench.buffers);
    assert_eq!(bench.end(), Input::DiskDone { io: IoId(5), result: Ok(()) });
    let read = bench.read(BlockRange::new(2, 6)).unwrap();
    let firsts: Vec<u8> = read.chunks(4096).map(|block| block[0]).collect();
    assert_eq!(firsts, [0, 7, 1, 0]);
    bench.buffers.release(buffer);
    assert_eq!(bench.buffers.handed_out_bytes(), 0);
    assert!(bench.disk.is_idle());
}

#[test]
fn zeroes_and_discards_read_as_zeroes() {
    let mut bench = Bench::new("zero", 4096);
    bench.write(BlockRange::new(0, 1024), 5);
    for (discard, durable, range) in [(true, false, BlockRange::new(10, 300)), (false, true, BlockRange::new(500, 900))]
    {
        bench.disk.zero(IoId(3), range, discard, durable, &mut bench.buffers);
        assert_eq!(bench.end(), Input::DiskDone { io: IoId(3), result: Ok(()) });
        assert!(bench.read(range).unwrap().iter().all(|byte| *byte == 0));
    }
    assert!(bench.read(BlockRange::new(300, 500)).unwrap().iter().all(|byte| *byte == 5));
    bench.disk.flush(IoId(4), &mut bench.buffers);
    assert_eq!(bench.end(), Input::DiskDone { io: IoId(4), result: Ok(()) });
}

#[test]
fn digests_are_those_of_each_block_over_several_pieces() {
    let mut bench = Bench::new("digest", 1024);
    bench.write(BlockRange::new(100, 101), 8);
    bench.disk.digest(IoId(6), BlockRange::new(1, 301), &mut bench.buffers);
    let Input::DiskDigests { io: IoId(6), result: Ok(digests) } = bench.end() else { panic!("digests are made") };
    let expected = |block: u64| digest_block(&[if block == 100 { 8 } else { 0 }; 4096]);
    assert_eq!(digests, (1..301).map(expected).collect::<Vec<Digest>>());
    assert_ne!(digests[99], digests[98]);
}

#[test]
fn reading_beyond_the_end_of_a_short_file_fails() {
    let mut bench = Bench::new("short", 8);
    assert_eq!(bench.read(BlockRange::new(6, 10)), Err(DiskError::Io));
    assert_eq!(bench.disk.errors, 1);
}

#[test]
fn a_failed_write_is_reported_once() {
    let good = Bench::new("failing", 8);
    let mut bench = Bench::over(good.path.clone(), false);
    let buffer = bench.filled(1, 1);
    bench.disk.write(IoId(1), BlockRange::new(0, 1), (buffer, 0), false, &mut bench.buffers);
    assert_eq!(bench.end(), Input::DiskDone { io: IoId(1), result: Err(DiskError::Io) });
    assert!(bench.disk.is_idle());
}
