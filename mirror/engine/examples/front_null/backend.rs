//! The smallest possible engine: one ring, one front end, and memory instead of replicas. Shared by the example and by
//! the tests of the front ends.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use io_uring::{IoUring, Submitter, opcode, squeue, types};
use lockstep_engine::front::{
    Completion, FrontEnd, FrontFailure, FrontOp, FrontReply, FrontRequest, FrontState, SqeBase,
};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What happens to data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    /// Kept in memory.
    Ram,
    /// Writes are forgotten, reads return what happens to be in the buffer: the front end and nothing else.
    Nothing,
}

/// What came in.
#[derive(Debug, Default)]
pub struct Counters {
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub fua: AtomicU64,
    pub flushes: AtomicU64,
    pub discards: AtomicU64,
    pub zeroes: AtomicU64,
    pub bytes_written: AtomicU64,
    /// Entries into the kernel.
    pub enters: AtomicU64,
    /// Most requests that one batch brought.
    pub batch_max: AtomicU64,
}

/// What another thread may ask of the loop.
#[derive(Debug)]
pub enum Command {
    Resize(u64),
    Stop,
    /// From now on, fail everything with this.
    Fail(Option<FrontFailure>),
}

/// A running loop.
#[derive(Debug)]
pub struct Backend {
    pub counters: Arc<Counters>,
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    thread: JoinHandle<io::Result<()>>,
}

const BASE_FRONT: u32 = 7;
const BASE_WAKE: u64 = 1 << 60;

impl Backend {
    /// Runs a loop in a thread of its own. `start` makes the front end there, because the ring belongs to its thread;
    /// what else it returns is handed back.
    pub fn spawn<T: Send + 'static>(
        size_bytes: u64,
        store: Store,
        start: impl FnOnce(SqeBase, u16, &Submitter<'_>) -> io::Result<(FrontEnd, T)> + Send + 'static,
    ) -> io::Result<(Backend, T)> {
        let (commands, inbox) = channel();
        let (ready_sender, ready) = channel();
        let wake = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?);
        let counters = Arc::new(Counters::default());
        let (thread_wake, thread_counters) = (wake.clone(), counters.clone());
        let thread = std::thread::Builder::new().name("front-loop".into()).spawn(move || {
            let ring = IoUring::<squeue::Entry128>::builder()
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_cqsize(4096)
                .build(512)?;
            let (front, extra) = match start(SqeBase::new(BASE_FRONT), 1, &ring.submitter()) {
                Ok(started) => started,
                Err(error) => {
                    let _ = ready_sender.send(Err(error));
                    return Ok(());
                }
            };
            let _ = ready_sender.send(Ok(extra));
            let memory = Memory::new(size_bytes, store);
            Loop { ring, front, memory, inbox, wake: thread_wake, counters: thread_counters, failing: None }.run()
        })?;
        let extra = ready.recv().map_err(io::Error::other)??;
        Ok((Backend { counters, commands, wake, thread }, extra))
    }

    pub fn command(&self, command: Command) {
        self.commands.send(command).expect("the loop runs");
        self.wake.write(1).expect("an eventfd takes a one");
    }

    /// Waits until the front end has closed.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().expect("the loop does not panic")
    }
}

struct Loop {
    ring: IoUring<squeue::Entry128>,
    front: FrontEnd,
    memory: Memory,
    inbox: Receiver<Command>,
    wake: Arc<EventFd>,
    counters: Arc<Counters>,
    failing: Option<FrontFailure>,
}

impl Loop {
    fn run(mut self) -> io::Result<()> {
        let mut woken = [0u8; 8];
        let mut watching = false;
        let mut completions = Vec::new();
        let mut requests = Vec::new();
        loop {
            let ring = &mut self.ring;
            self.front.poll_sqes(|sqe| push(ring, sqe.into()));
            if self.front.state() == FrontState::Closed {
                self.front.unregister(&self.ring.submitter())?;
                return Ok(());
            }
            if !watching {
                let read = opcode::Read::new(types::Fd(self.wake.as_raw_fd()), woken.as_mut_ptr(), 8).build();
                push(&mut self.ring, read.user_data(BASE_WAKE).into());
                watching = true;
            }
            // A signal, as of a child that ended, interrupts the wait and nothing else.
            let waited = self.ring.submit_and_wait(1);
            if !matches!(&waited, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                waited?;
            }
            self.counters.enters.fetch_add(1, Ordering::Relaxed);
            completions.extend(self.ring.completion().map(|cqe| (cqe.user_data(), Completion::from(&cqe))));
            for (user_data, cqe) in completions.drain(..) {
                if user_data == BASE_WAKE {
                    watching = false;
                    self.on_commands();
                } else {
                    self.front.on_completion(cqe, &mut requests);
                }
            }
            self.counters.batch_max.fetch_max(requests.len() as u64, Ordering::Relaxed);
            for request in requests.drain(..) {
                let reply = self.serve(request);
                self.front.reply(request.tag, reply);
            }
            while self.front.take_released().is_some() {}
        }
    }

    fn on_commands(&mut self) {
        for command in self.inbox.try_iter() {
            match command {
                Command::Resize(size_bytes) => {
                    self.memory.grow(size_bytes);
                    self.front.resize(size_bytes);
                }
                Command::Stop => self.front.stop(),
                Command::Fail(failure) => self.failing = failure,
            }
        }
    }

    fn serve(&mut self, request: FrontRequest) -> FrontReply {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let offset = request.offset_bytes as usize;
        let len = request.len_bytes as usize;
        if let Some(failure) = self.failing {
            return FrontReply::Failed(failure);
        }
        match request.op {
            FrontOp::Read => {
                count(&self.counters.reads);
                // SAFETY: the request is open and nobody else looks at its buffer.
                self.memory.read(offset, unsafe { request.data.as_mut_slice() });
            }
            FrontOp::Write { fua } => {
                count(&self.counters.writes);
                self.counters.bytes_written.fetch_add(request.len_bytes, Ordering::Relaxed);
                if fua {
                    count(&self.counters.fua);
                }
                // SAFETY: the request is open and nobody else looks at its buffer.
                self.memory.write(offset, unsafe { request.data.as_slice() });
            }
            FrontOp::Flush => drop(count(&self.counters.flushes)),
            FrontOp::Discard => drop(count(&self.counters.discards)),
            FrontOp::WriteZeroes { .. } => {
                count(&self.counters.zeroes);
                self.memory.zero(offset, len);
            }
        }
        FrontReply::Done
    }
}

fn push(ring: &mut IoUring<squeue::Entry128>, entry: squeue::Entry128) {
    // SAFETY: the front end keeps what its entries point to until they complete.
    while unsafe { ring.submission().push(&entry) }.is_err() {
        ring.submit().expect("a full submission queue can be submitted");
    }
}

struct Memory {
    bytes: Vec<u8>,
    store: Store,
}

impl Memory {
    fn new(size_bytes: u64, store: Store) -> Memory {
        let bytes = match store {
            Store::Ram => vec![0; size_bytes as usize],
            Store::Nothing => Vec::new(),
        };
        Memory { bytes, store }
    }

    fn grow(&mut self, size_bytes: u64) {
        if self.store == Store::Ram {
            self.bytes.resize(size_bytes as usize, 0);
        }
    }

    fn read(&self, offset: usize, target: &mut [u8]) {
        if self.store == Store::Ram {
            target.copy_from_slice(&self.bytes[offset..offset + target.len()]);
        }
    }

    fn write(&mut self, offset: usize, source: &[u8]) {
        if self.store == Store::Ram {
            self.bytes[offset..offset + source.len()].copy_from_slice(source);
        }
    }

    fn zero(&mut self, offset: usize, len: usize) {
        if self.store == Store::Ram {
            self.bytes[offset..offset + len].fill(0);
        }
    }
}
