//! A ring and the memory that its operations use: slots that belong to the kernel while an operation names them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use io_uring::{IoUring, opcode, types};

/// The header stands right before the page that the data starts on, so that both are one piece of the stream and the
/// data is aligned for O_DIRECT.
pub const DATA_START: usize = 4096;

const ENTRIES: u32 = 256;

#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A piece of a slot.
#[derive(Clone, Copy)]
pub struct Piece {
    pub slot: usize,
    pub start: usize,
    pub end: usize,
}

/// What completed, with the number of bytes.
#[derive(Clone, Copy)]
pub enum Done {
    Written { slot: usize, bytes: usize },
    Sent,
    Received { bytes: usize },
}

/// One operation on a stream: the slots it names stay the kernel's until it completed.
struct Transfer {
    pieces: Vec<Piece>,
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

pub struct Ring {
    inner: IoUring,
    /// Leaked: whatever the kernel still does when this process ends, it finds its memory.
    memory: NonNull<u8>,
    slot_bytes: usize,
    /// Operations that name the slot.
    uses: Vec<u32>,
    sending: Option<Box<Transfer>>,
    receiving: Option<Box<Transfer>>,
}

const KIND_WRITE: u64 = 0;
const KIND_SEND: u64 = 1 << 32;
const KIND_RECEIVE: u64 = 2 << 32;

impl Ring {
    /// A ring with `slots` slots, each a page for the header and `block` bytes.
    pub fn new(slots: usize, block: usize) -> io::Result<Ring> {
        let inner = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_submit_all().build(ENTRIES)?;
        let slot_bytes = DATA_START + block.next_multiple_of(4096);
        let pages: Vec<Page> = (0..slots * slot_bytes / 4096).map(|_| Page([0x5a; 4096])).collect();
        let memory = NonNull::from(Vec::leak(pages)).cast();
        Ok(Ring { inner, memory, slot_bytes, uses: vec![0; slots], sending: None, receiving: None })
    }

    /// The bytes of a slot that no operation names.
    pub fn slot(&mut self, slot: usize) -> &mut [u8] {
        assert_eq!(self.uses[slot], 0, "the kernel uses slot {slot}");
        // SAFETY: inside the leaked area, initialised, not named by any operation, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.address(slot, 0), self.slot_bytes) }
    }

    /// True while an operation names it.
    pub fn is_used(&self, slot: usize) -> bool {
        self.uses[slot] > 0
    }

    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    pub fn is_receiving(&self) -> bool {
        self.receiving.is_some()
    }

    /// Writes `bytes` of the slot's data to the file.
    pub fn write(&mut self, file: BorrowedFd<'_>, slot: usize, bytes: usize, offset: u64) {
        assert!(DATA_START + bytes <= self.slot_bytes);
        let length = u32::try_from(bytes).expect("blocks are far below 4 GiB");
        let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), self.address(slot, DATA_START), length)
            .offset(offset)
            .build()
            .user_data(KIND_WRITE | slot as u64);
        self.uses[slot] += 1;
        self.push(&entry);
    }

    /// Sends the pieces, all of them; one send at a time.
    pub fn send(&mut self, socket: BorrowedFd<'_>, pieces: Vec<Piece>) {
        assert!(self.sending.is_none());
        let transfer = self.transfer(pieces);
        let entry = opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &raw const transfer.header)
            .flags(libc::MSG_WAITALL.cast_unsigned() | libc::MSG_NOSIGNAL.cast_unsigned())
            .build()
            .user_data(KIND_SEND);
        self.sending = Some(transfer);
        self.push(&entry);
    }

    /// Receives what there is into the pieces, in their order; one receive at a time.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, pieces: Vec<Piece>) {
        assert!(self.receiving.is_none());
        let mut transfer = self.transfer(pieces);
        let entry = opcode::RecvMsg::new(types::Fd(socket.as_raw_fd()), &raw mut transfer.header)
            .build()
            .user_data(KIND_RECEIVE);
        self.receiving = Some(transfer);
        self.push(&entry);
    }

    /// Submits what is queued, waits for a completion and appends all that there are to `out`.
    pub fn wait(&mut self, out: &mut Vec<Done>) -> io::Result<()> {
        self.inner.submit_and_wait(1)?;
        let completions: Vec<(u64, i32)> =
            self.inner.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (user_data, result) in completions {
            let bytes = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))?;
            out.push(match user_data {
                KIND_SEND => {
                    let transfer = self.sending.take();
                    self.give_back(transfer);
                    Done::Sent
                }
                KIND_RECEIVE => {
                    let transfer = self.receiving.take();
                    self.give_back(transfer);
                    Done::Received { bytes }
                }
                slot => {
                    let slot = usize::try_from(slot).expect("a slot's number came from a usize");
                    self.uses[slot] -= 1;
                    Done::Written { slot, bytes }
                }
            });
        }
        Ok(())
    }

    fn give_back(&mut self, transfer: Option<Box<Transfer>>) {
        for piece in transfer.iter().flat_map(|transfer| &transfer.pieces) {
            self.uses[piece.slot] -= 1;
        }
    }

    fn transfer(&mut self, pieces: Vec<Piece>) -> Box<Transfer> {
        let mut vectors = Vec::with_capacity(pieces.len());
        for piece in &pieces {
            assert!(piece.start <= piece.end && piece.end <= self.slot_bytes);
            self.uses[piece.slot] += 1;
            let base = self.address(piece.slot, piece.start).cast();
            vectors.push(libc::iovec { iov_base: base, iov_len: piece.end - piece.start });
        }
        // SAFETY: a msghdr of zeroes names no address, no buffers and no control data.
        let header = unsafe { std::mem::zeroed() };
        let mut transfer = Box::new(Transfer { pieces, vectors, header });
        transfer.header.msg_iov = transfer.vectors.as_mut_ptr();
        transfer.header.msg_iovlen = transfer.vectors.len();
        transfer
    }

    fn address(&self, slot: usize, start: usize) -> *mut u8 {
        assert!(slot < self.uses.len() && start <= self.slot_bytes);
        // SAFETY: inside the area, which has `uses.len()` slots of `slot_bytes`.
        unsafe { self.memory.as_ptr().add(slot * self.slot_bytes + start) }
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) {
        // SAFETY: data lies in the leaked area and is not lent while `uses` counts the operation; message headers and
        // vectors are boxed and kept until their completion.
        while unsafe { self.inner.submission().push(entry) }.is_err() {
            let _ = self.inner.submit();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // As with the slots: closing the ring ends operations, but not at once.
        std::mem::forget((self.sending.take(), self.receiving.take()));
    }
}
