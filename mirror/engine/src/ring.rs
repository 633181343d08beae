//! A thin cover over one io_uring: setup, the table of fixed files, submitting, waiting, draining.
//!
//! The ring takes 128-byte entries, because FUSE over io_uring needs them and one ring carries everything; ordinary
//! entries fit too. It belongs to one thread (`SINGLE_ISSUER`), and completions are worked off only inside `enter`
//! (`DEFER_TASKRUN`): no interrupt of the loop, and whole batches at once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::{IoUring, Submitter, cqueue, squeue, types};

/// Entries of the submission queue. A full queue is submitted early; nothing is lost.
const SUBMISSIONS: u32 = 512;
/// Entries of the completion queue. The kernel keeps what does not fit.
const COMPLETIONS: u32 = 4096;
/// Files that can be registered at a time: data and metadata of each volume, links, front ends.
const FIXED_FILES: u32 = 4096;

/// How long a wait for several completions holds out for the last of them. Longer than they take, so that the timer seldom
/// ends it; short for whoever has to wait because one does not come.
const PATIENCE_MICROS: u32 = 500;

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cqe {
    pub(crate) user_data: u64,
    /// Result, or a negative error number.
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl Cqe {
    /// True if the socket had more to read when the receive ended.
    pub(crate) fn sock_nonempty(&self) -> bool {
        cqueue::sock_nonempty(self.flags)
    }

    /// True if the same entry will complete again.
    pub(crate) fn has_more(&self) -> bool {
        cqueue::more(self.flags)
    }
}

/// A slot of the table of fixed files: an entry that names it spares the kernel the look-up of the descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FixedFile(u32);

impl FixedFile {
    /// As an operand of an entry.
    pub(crate) fn target(self) -> types::Fixed {
        types::Fixed(self.0)
    }
}

/// The ring of one event loop. Made and used by one thread.
pub(crate) struct Ring {
    inner: IoUring<squeue::Entry128, cqueue::Entry>,
    free_files: Vec<u32>,
    /// Entries queued since the last call that complete while they are submitted.
    prompt: u32,
    /// The kernel can wait for several completions, with patience (Linux 6.12).
    has_patience: bool,
    /// Calls of `enter`, for the metrics: batching shows in it.
    pub(crate) enters: u64,
    /// Entries submitted.
    pub(crate) submitted: u64,
}

impl Ring {
    /// A new ring for the calling thread.
    pub(crate) fn new() -> io::Result<Ring> {
        let inner = build()?;
        inner.submitter().register_files_sparse(FIXED_FILES)?;
        let free_files = (0..FIXED_FILES).rev().collect();
        // Older kernels refuse an argument whose spare bytes are not zero.
        let has_patience = enter(&inner.submitter(), 0, 0, PATIENCE_MICROS, None).is_ok();
        Ok(Ring { inner, free_files, prompt: 0, has_patience, enters: 0, submitted: 0 })
    }

    /// Puts a descriptor into the table. The table holds the file open until [`Ring::remove_file`].
    pub(crate) fn install_file(&mut self, file: BorrowedFd<'_>) -> io::Result<FixedFile> {
        let slot = self.free_files.pop().ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))?;
        if let Err(error) = self.inner.submitter().register_files_update(slot, &[file.as_raw_fd()]) {
            self.free_files.push(slot);
            return Err(error);
        }
        Ok(FixedFile(slot))
    }

    /// Takes a file out of the table. Operations under way keep it open until they end.
    pub(crate) fn remove_file(&mut self, file: FixedFile) {
        const NONE: RawFd = -1;
        if self.inner.submitter().register_files_update(file.0, &[NONE]).is_ok() {
            self.free_files.push(file.0);
        }
    }

    /// Queues an entry. Nothing reaches the kernel before [`Ring::submit_and_wait`], unless the queue is full.
    ///
    /// Whoever builds an entry owns the memory that it names, and keeps it in place until the completion.
    pub(crate) fn push(&mut self, entry: impl Into<squeue::Entry128>) {
        let entry = entry.into();
        loop {
            // SAFETY: memory named by the entry stays in place until its completion: buffers of `Buffers` and of the
            // front ends are freed only by the completion of all operations that were given them, and the other
            // operands live in slots that outlast their operation.
            if unsafe { self.inner.submission().push(&entry) }.is_ok() {
                self.submitted += 1;
                return;
            }
            self.enters += 1;
            // An error here (EAGAIN, EBUSY) is the kernel short of memory or of room for completions: try again.
            let _ = self.inner.submit();
        }
    }

    /// Queues an entry that completes while it is submitted, unless something is in its way: a small send, a reply to a
    /// front end. Its completion alone does not end the next wait: nothing follows from it but that memory is free.
    pub(crate) fn push_prompt(&mut self, entry: impl Into<squeue::Entry128>) {
        self.push(entry);
        self.prompt += 1;
    }

    /// Submits everything queued and waits for a completion, at most `timeout` (`None`: without end). One system call.
    ///
    /// `together`: so many more are expected without which the first is worth nothing. They, and those of prompt entries, are
    /// waited for too, but only for a moment.
    pub(crate) fn submit_and_wait(&mut self, timeout: Option<Duration>, together: u32) -> io::Result<()> {
        self.enters += 1;
        let queued = u32::try_from(self.inner.submission().len()).expect("the queue is short");
        let more = std::mem::take(&mut self.prompt) + together;
        let (wanted, patience) = if more > 0 && self.has_patience { (1 + more, PATIENCE_MICROS) } else { (1, 0) };
        match enter(&self.inner.submitter(), queued, wanted, patience, timeout) {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Submits everything queued without waiting.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.enters += 1;
        self.prompt = 0;
        // With deferred task work only an `enter` that asks for completions works them off.
        let flags = sys_enter::GETEVENTS;
        let queued = u32::try_from(self.inner.submission().len()).expect("the queue is short");
        // SAFETY: no argument is passed by address.
        let done = unsafe { self.inner.submitter().enter::<()>(queued, 0, flags, None) };
        match done {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends everything that is under way and can be ended; waits for it, but not for ever.
    pub(crate) fn cancel_all(&self) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(1);
        let done = self
            .inner
            .submitter()
            .register_sync_cancel(Some(types::Timespec::from(PATIENCE)), types::CancelBuilder::any());
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// For registrations: files, buffers.
    pub(crate) fn submitter(&self) -> Submitter<'_> {
        self.inner.submitter()
    }

    /// Moves all completions that have arrived to `out`.
    pub(crate) fn drain(&mut self, out: &mut Vec<Cqe>) {
        let completions = self.inner.completion();
        out.extend(completions.map(|entry| Cqe {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

/// Time is up; a signal; completions wait to be drained first; the kernel is short of memory for the moment.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

/// What the crate keeps to itself of `io_uring_enter(2)`.
mod sys_enter {
    pub(super) const GETEVENTS: u32 = 1;
    pub(super) const EXT_ARG: u32 = 8;

    /// `struct io_uring_getevents_arg`.
    #[repr(C)]
    pub(super) struct Argument {
        /// Address and length of a signal mask; none.
        pub(super) signals: u64,
        pub(super) signals_len: u32,
        /// Until it has passed, fewer completions than wanted do not end the wait; from then on one does.
        pub(super) patience_micros: u32,
        /// Address of a timespec; 0: none.
        pub(super) timeout: u64,
    }
}

/// Submits `queued` entries and waits for `wanted` completions.
fn enter(
    submitter: &Submitter<'_>,
    queued: u32,
    wanted: u32,
    patience_micros: u32,
    timeout: Option<Duration>,
) -> io::Result<usize> {
    let timespec = timeout.map(types::Timespec::from);
    let timeout = timespec.as_ref().map_or(0, |timespec| std::ptr::from_ref(timespec).addr() as u64);
    let argument = sys_enter::Argument { signals: 0, signals_len: 0, patience_micros, timeout };
    let flags = sys_enter::GETEVENTS | sys_enter::EXT_ARG;
    // SAFETY: the argument is the structure that the flag announces, and it and the timespec that it names outlive the call.
    unsafe { submitter.enter(queued, wanted, flags, Some(&argument)) }
}

fn build() -> io::Result<IoUring<squeue::Entry128, cqueue::Entry>> {
    let newest = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS);
    match newest {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // Kernels before 6.1: completions interrupt the loop where they like.
            IoUring::builder().setup_submit_all().setup_cqsize(COMPLETIONS).build(SUBMISSIONS)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{Cqe, Ring};
    use io_uring::{opcode, types};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    #[test]
    fn more_entries_than_the_queue_holds_all_complete() {
        let mut ring = Ring::new().unwrap();
        for number in 0..2000 {
            ring.push(opcode::Nop::new().build().user_data(number));
        }
        let mut done: Vec<Cqe> = Vec::new();
        while done.len() < 2000 {
            ring.submit_and_wait(None, 0).unwrap();
            ring.drain(&mut done);
        }
        assert!(done.iter().map(|cqe| cqe.user_data).eq(0..2000));
    }

    #[test]
    fn waiting_ends_at_the_timeout() {
        let mut ring = Ring::new().unwrap();
        let start = Instant::now();
        ring.submit_and_wait(Some(Duration::from_millis(5)), 0).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(5));
    }

    fn waited_for(ring: &mut Ring, together: u32) -> Vec<u64> {
        let mut done: Vec<Cqe> = Vec::new();
        ring.submit_and_wait(Some(Duration::from_secs(10)), together).unwrap();
        ring.drain(&mut done);
        done.iter().map(|cqe| cqe.user_data).collect()
    }

    fn timer(after: &types::Timespec) -> io_uring::squeue::Entry {
        // Not a failure when the time has come: that is what it is for.
        opcode::Timeout::new(after).flags(types::TimeoutFlags::ETIME_SUCCESS).build()
    }

    #[test]
    fn a_prompt_entry_alone_does_not_end_a_wait() {
        let mut ring = Ring::new().unwrap();
        let soon = types::Timespec::from(Duration::from_micros(100));
        ring.push_prompt(opcode::Nop::new().build().user_data(1));
        ring.push(timer(&soon).user_data(2));
        let done = waited_for(&mut ring, 0);
        assert!(done == [1, 2] || !ring.has_patience, "{done:?}");
    }

    #[test]
    fn what_does_not_come_together_is_not_waited_for_long() {
        let mut ring = Ring::new().unwrap();
        let late = types::Timespec::from(Duration::from_secs(5));
        ring.push(opcode::Nop::new().build().user_data(1));
        ring.push(timer(&late).user_data(2));
        let start = Instant::now();
        assert_eq!(waited_for(&mut ring, 1), [1]);
        assert!(start.elapsed() < Duration::from_secs(4));
        ring.cancel_all().unwrap();
    }

    #[test]
    fn a_fixed_file_is_written_until_it_is_removed() {
        let mut ring = Ring::new().unwrap();
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = ring.install_file(here.as_fd()).unwrap();
        let bytes = [7u8; 3];
        let mut done = Vec::new();
        for round in 0..2 {
            ring.push(opcode::Write::new(file.target(), bytes.as_ptr(), 3).build());
            ring.submit_and_wait(None, 0).unwrap();
            ring.drain(&mut done);
            if round == 0 {
                ring.remove_file(file);
            }
        }
        assert_eq!(done.iter().map(|cqe| cqe.result).collect::<Vec<_>>(), [3, -libc::EBADF]);
        drop(there);
    }
}
