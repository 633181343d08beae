//! Threads that write, read and flush against one attachment.

use super::BLOCK_BYTES;
use super::buffer::AlignedBuffer;
use super::recorder::{Lane, Recorder};
use super::stamp::Content;
use super::target::{Connection, Target};
use crate::random::Random;
use crate::wait;
use anyhow::{Context, Result, bail};
use lockstep_sim::history::Moment;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The largest write and read: 16 blocks.
const OPERATION_BLOCKS_MAX: u64 = 16;
/// Blocks per read when everything is read back: 1 MiB.
const SCAN_BLOCKS: u64 = 256;
/// Between two attempts to open a target that fails.
const REOPEN_INTERVAL: Duration = Duration::from_millis(20);

/// What the threads do.
#[derive(Clone, Copy, Debug)]
pub struct LoadProfile {
    /// How many threads, each with one operation in flight: the depth.
    pub threads: usize,
    /// This share of operations goes to few blocks, so that they meet.
    pub hot_percent: u64,
    /// How many blocks are hot; spread over the whole range.
    pub hot_blocks: u64,
    /// This share of operations are reads.
    pub read_percent: u64,
    /// This share of operations are flushes.
    pub flush_percent: u64,
    /// This share of operations is larger than a block.
    pub large_percent: u64,
}

impl Default for LoadProfile {
    fn default() -> Self {
        LoadProfile {
            threads: 6,
            hot_percent: 50,
            hot_blocks: 64,
            read_percent: 35,
            flush_percent: 3,
            large_percent: 15,
        }
    }
}

/// What a session has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// Completed writes.
    pub writes: u64,
    /// Completed reads.
    pub reads: u64,
    /// Completed flushes.
    pub flushes: u64,
    /// Operations without a known outcome, and failed reads and flushes.
    pub errors: u64,
}

impl SessionCounts {
    /// Everything that completed.
    pub fn completed(self) -> u64 {
        self.writes + self.reads + self.flushes
    }
}

#[derive(Default)]
struct Counters {
    writes: AtomicU64,
    reads: AtomicU64,
    flushes: AtomicU64,
    errors: AtomicU64,
}

/// The load against one attachment. Dropping it tells the threads to stop, and does not wait for them.
pub struct LoadSession {
    shared: Arc<Shared>,
    lanes: Vec<Arc<Lane>>,
    threads: Vec<thread::JoinHandle<()>>,
}

struct Shared {
    recorder: Arc<Recorder>,
    target: Target,
    profile: LoadProfile,
    connection: Mutex<Option<Arc<Connection>>>,
    counters: Counters,
    stop: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl LoadSession {
    /// Starts the threads.
    pub fn start(recorder: &Arc<Recorder>, target: Target, profile: LoadProfile, random: &mut Random) -> Self {
        let shared = Arc::new(Shared {
            recorder: recorder.clone(),
            target,
            profile,
            connection: Mutex::new(None),
            counters: Counters::default(),
            stop: AtomicBool::new(false),
            last_error: Mutex::new(None),
        });
        let lanes: Vec<Arc<Lane>> = (0..profile.threads).map(|_| recorder.lane()).collect();
        let threads = lanes
            .iter()
            .map(|lane| {
                let worker = Worker { shared: shared.clone(), lane: lane.clone(), random: random.fork() };
                thread::spawn(move || worker.run())
            })
            .collect();
        LoadSession { shared, lanes, threads }
    }

    /// What it has done so far.
    pub fn counts(&self) -> SessionCounts {
        let counters = &self.shared.counters;
        SessionCounts {
            writes: counters.writes.load(Ordering::Relaxed),
            reads: counters.reads.load(Ordering::Relaxed),
            flushes: counters.flushes.load(Ordering::Relaxed),
            errors: counters.errors.load(Ordering::Relaxed),
        }
    }

    /// The latest error of an operation.
    pub fn last_error(&self) -> Option<String> {
        self.shared.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this many more operations have completed.
    pub fn wait_progress(&self, operations: u64, bound: Duration) -> Result<()> {
        let goal = self.counts().completed() + operations;
        wait::until_true(&format!("{operations} more operations completed"), bound, || {
            Ok(self.counts().completed() >= goal)
        })
        .with_context(|| format!("{:?}, last error: {:?}", self.counts(), self.last_error()))
    }

    /// Its writer is fenced: what is unknown by now has happened or never will.
    pub fn fence(&self) {
        for lane in &self.lanes {
            lane.fence();
        }
    }

    /// When the first write to complete after this moment did so.
    pub fn first_completed_write(&self, from: Moment) -> Option<Moment> {
        self.lanes.iter().filter_map(|lane| lane.first_completed_write(from)).min()
    }

    /// Tells the threads to stop after the operation in hand.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Stops the threads and waits for them; an operation that does not end in time is an error.
    pub fn finish(self, bound: Duration) -> Result<SessionCounts> {
        self.stop();
        wait::until_true("every operation of the load has ended", bound, || {
            Ok(self.threads.iter().all(thread::JoinHandle::is_finished))
        })
        .with_context(|| {
            let stuck = self.threads.iter().filter(|thread| !thread.is_finished()).count();
            format!("{stuck} of {} operations hang", self.threads.len())
        })?;
        Ok(self.counts())
    }
}

impl Drop for LoadSession {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn connection(&self) -> Result<Arc<Connection>> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = connection.as_ref() {
            return Ok(open.clone());
        }
        let opened = Arc::new(self.target.open()?);
        *connection = Some(opened.clone());
        Ok(opened)
    }

    /// The next operation opens the target again.
    fn forget(&self, failed: &Arc<Connection>, error: &std::io::Error) {
        self.counters.errors.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.as_ref().is_some_and(|open| Arc::ptr_eq(open, failed)) {
            *connection = None;
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    random: Random,
}

impl Worker {
    fn run(mut self) {
        let mut buffer = AlignedBuffer::new(usize::try_from(OPERATION_BLOCKS_MAX).unwrap_or(16) * BLOCK_BYTES);
        while !self.shared.stop.load(Ordering::Relaxed) {
            let Ok(connection) = self.shared.connection() else {
                thread::sleep(REOPEN_INTERVAL);
                continue;
            };
            if let Err(error) = self.operate(&connection, &mut buffer) {
                self.shared.forget(&connection, &error);
                thread::sleep(REOPEN_INTERVAL);
            }
        }
    }

    fn operate(&mut self, connection: &Connection, buffer: &mut AlignedBuffer) -> std::io::Result<()> {
        let profile = self.shared.profile;
        if self.random.percent(profile.flush_percent) {
            return self.flush(connection);
        }
        let (first, blocks) = self.draw_range();
        if self.random.percent(profile.read_percent) {
            self.read(connection, buffer, first, blocks)
        } else {
            self.write(connection, buffer, first, blocks)
        }
    }

    fn draw_range(&mut self) -> (u64, u32) {
        let (profile, all) = (self.shared.profile, self.shared.recorder.blocks());
        let first = if self.random.percent(profile.hot_percent) {
            let step = (all / profile.hot_blocks.max(1)).max(1);
            self.random.below(profile.hot_blocks) * step % all
        } else {
            self.random.below(all)
        };
        let wanted = if self.random.percent(profile.large_percent) {
            2 + self.random.below(OPERATION_BLOCKS_MAX - 1)
        } else {
            1
        };
        let blocks = wanted.min(all - first).min(OPERATION_BLOCKS_MAX);
        (first, u32::try_from(blocks).unwrap_or(1))
    }

    fn write(
        &mut self,
        connection: &Connection,
        buffer: &mut AlignedBuffer,
        first: u64,
        blocks: u32,
    ) -> std::io::Result<()> {
        let length = blocks as usize * BLOCK_BYTES;
        // The stamp is drawn before the clock runs: filling the blocks is no part of the operation, but the invocation
        // that `begin_write` notes may well be early.
        let (ticket, stamp) = self.lane.begin_write(first, blocks);
        for (block, bytes) in (first..).zip(buffer.prefix_mut(length).chunks_mut(BLOCK_BYTES)) {
            stamp.encode(block, bytes);
        }
        match connection.write(first * BLOCK_BYTES as u64, buffer.prefix(length)) {
            Ok(()) => {
                self.lane.complete(ticket);
                self.shared.counters.writes.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.lane.fail(ticket);
                Err(error)
            }
        }
    }

    fn read(
        &mut self,
        connection: &Connection,
        buffer: &mut AlignedBuffer,
        first: u64,
        blocks: u32,
    ) -> std::io::Result<()> {
        let length = blocks as usize * BLOCK_BYTES;
        let ticket = self.lane.begin_read(first);
        if let Err(error) = connection.read(first * BLOCK_BYTES as u64, buffer.prefix_mut(length)) {
            self.lane.fail(ticket);
            return Err(error);
        }
        let completed = self.shared.recorder.now();
        let contents = parse_all(&self.shared.recorder, first, buffer.prefix(length));
        match contents {
            Some(contents) => self.lane.complete_read(ticket, completed, contents.into_iter()),
            None => self.lane.fail(ticket),
        }
        self.shared.counters.reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&mut self, connection: &Connection) -> std::io::Result<()> {
        let ticket = self.lane.begin_flush();
        match connection.flush() {
            Ok(()) => {
                self.lane.complete(ticket);
                self.shared.counters.flushes.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.lane.fail(ticket);
                Err(error)
            }
        }
    }
}

/// The contents of these blocks, or nothing if one of them is bad (which the recorder keeps).
fn parse_all(recorder: &Recorder, first: u64, bytes: &[u8]) -> Option<Vec<Content>> {
    let parsed = (first..).zip(bytes.chunks(BLOCK_BYTES)).map(|(block, bytes)| Content::parse(block, bytes));
    match parsed.collect() {
        Ok(contents) => Some(contents),
        Err(error) => {
            recorder.note(error);
            None
        }
    }
}

/// Reads all blocks of the load once, as recorded reads, and returns what they hold.
pub fn scan(recorder: &Recorder, target: &Target) -> Result<Vec<Content>> {
    let connection = target.open()?;
    connection.flush().context("flush before the scan")?;
    let lane = recorder.lane();
    let mut buffer = AlignedBuffer::new(usize::try_from(SCAN_BLOCKS)? * BLOCK_BYTES);
    let mut contents = Vec::new();
    let mut first = 0;
    while first < recorder.blocks() {
        let blocks = SCAN_BLOCKS.min(recorder.blocks() - first);
        let length = usize::try_from(blocks)? * BLOCK_BYTES;
        let ticket = lane.begin_read(first);
        connection
            .read(first * BLOCK_BYTES as u64, buffer.prefix_mut(length))
            .with_context(|| format!("read blocks {first}..{}", first + blocks))?;
        let completed = recorder.now();
        let Some(found) = parse_all(recorder, first, buffer.prefix(length)) else {
            bail!("a bad block within {first}..{}", first + blocks);
        };
        lane.complete_read(ticket, completed, found.iter().copied());
        contents.extend(found);
        first += blocks;
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::{LoadProfile, LoadSession, scan};
    use crate::load::{BLOCK_BYTES, Recorder, RecorderLimits, Target};
    use crate::random::Random;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::time::Duration;

    const BLOCKS: u64 = 512;
    const BOUND: Duration = Duration::from_secs(30);

    struct Plain {
        _dir: tempfile::TempDir,
        file: File,
        target: Target,
        recorder: Arc<Recorder>,
    }

    fn plain_file() -> Plain {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volume");
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        file.set_len(BLOCKS * BLOCK_BYTES as u64).unwrap();
        let recorder = Arc::new(Recorder::new(RecorderLimits { blocks: BLOCKS, found_max: 5 }));
        Plain { _dir: dir, file, target: Target::Device(path), recorder }
    }

    #[test]
    fn load_on_a_plain_file_has_a_valid_history() {
        let plain = plain_file();
        for round in 0..3 {
            let mut random = Random::new(round);
            let session =
                LoadSession::start(&plain.recorder, plain.target.clone(), LoadProfile::default(), &mut random);
            session.wait_progress(300, BOUND).unwrap();
            let counts = session.finish(BOUND).unwrap();
            assert_eq!(counts.errors, 0);
            let contents = scan(&plain.recorder, &plain.target).unwrap();
            assert!(plain.recorder.check().unwrap() > 300);
            plain.recorder.checkpoint(&contents);
        }
    }

    #[test]
    fn lost_write_is_found() {
        let plain = plain_file();
        let mut random = Random::new(1);
        let session = LoadSession::start(&plain.recorder, plain.target.clone(), LoadProfile::default(), &mut random);
        session.wait_progress(300, BOUND).unwrap();
        session.finish(BOUND).unwrap();
        let contents = scan(&plain.recorder, &plain.target).unwrap();
        let written = contents.iter().rposition(|content| content.value().0 != 0).unwrap();
        plain.file.write_all_at(&[0; BLOCK_BYTES], (written * BLOCK_BYTES) as u64).unwrap();
        scan(&plain.recorder, &plain.target).unwrap();
        assert!(plain.recorder.check().is_err());
    }

    #[test]
    fn damaged_block_is_found() {
        let plain = plain_file();
        plain.file.write_all_at(b"garbage", 7 * BLOCK_BYTES as u64).unwrap();
        scan(&plain.recorder, &plain.target).unwrap_err();
        assert!(plain.recorder.check().is_err());
    }
}
