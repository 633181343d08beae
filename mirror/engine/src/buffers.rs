//! Memory for data on its way: page-aligned slabs of a loop, and the memory of front ends, under one kind of name.
//!
//! A buffer is counted: the core's interest is one reference (until `Effect::Release`), each disk operation and each
//! unsent frame that names it is another. The last one gives it back: to its slab, or to the front end that owns it. In
//! steady state nothing is allocated: slabs grow to the load's peak and are kept, except that the pages of large buffers
//! are given back beyond a budget.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use crate::front::FrontReply;
use lockstep_core::BufId;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Sizes of buffers, in bytes. What is larger is mapped for itself.
const CLASS_BYTES: [usize; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Slabs are mapped in units of this: untouched parts cost address space only.
const SLAB_BYTES: usize = 4 << 20;
/// Classes from here on give their pages back once more than [`RESIDENT_BYTES`] are resident in them.
const LARGE_CLASS: usize = 2;
/// Bytes of large free buffers that stay resident for the next request.
const RESIDENT_BYTES: usize = 16 << 20;

/// A buffer of a loop. The same number is the core's [`BufId`] for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Buffer {
    slot: u32,
    /// 31 bits: tells a slot's uses apart, so that a name that was used too long is noticed.
    generation: u32,
}

impl Buffer {
    /// The core's name for it.
    pub(crate) fn id(self) -> BufId {
        BufId(u64::from(self.generation) << 32 | u64::from(self.slot))
    }

    /// The buffer that the shell named `id`; ids from [`BufId::CORE`] on are not the shell's.
    pub(crate) fn from_id(id: BufId) -> Option<Buffer> {
        let [a, b, c, d, e, f, g, h] = id.0.to_be_bytes();
        (id.0 < BufId::CORE)
            .then_some(Buffer { slot: u32::from_be_bytes([e, f, g, h]), generation: u32::from_be_bytes([a, b, c, d]) })
    }
}

/// Where a buffer's memory goes when nobody needs it any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Home {
    Slab(usize),
    Mapping(usize),
    Front(FrontSlot),
    Free,
}

/// The request of a front end whose memory a buffer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrontSlot {
    /// Index of the front end in its loop.
    pub(crate) front: u32,
    /// Its tag.
    pub(crate) tag: u32,
}

#[derive(Debug)]
struct Entry {
    memory: NonNull<u8>,
    len: usize,
    home: Home,
    references: u32,
    /// How many of the references are frames that are not sent yet.
    unsent: u32,
    generation: u32,
    /// Account that is charged with its length: what came in for one volume.
    account: Option<u32>,
    /// CRC32C of the whole content, once somebody asked for it.
    crc: Option<u32>,
}

/// All buffers of one loop.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    entries: Vec<Entry>,
    free_entries: Vec<u32>,
    free_memory: [Vec<FreeMemory>; CLASS_BYTES.len()],
    slabs: Vec<NonNull<u8>>,
    handed_out: usize,
    resident_large: usize,
    accounts: Vec<usize>,
    freed_fronts: Vec<FrontSlot>,
}

#[derive(Debug)]
struct FreeMemory {
    memory: NonNull<u8>,
    resident: bool,
}

impl Buffers {
    /// Room for `len` bytes, with one reference.
    ///
    /// What is handed out is bounded by who asks: front ends by their own memory, links by their account, the core by its
    /// windows. Memory that cannot be mapped ends the process, as that of any allocation does.
    pub(crate) fn take(&mut self, len: usize) -> Buffer {
        let Some(class) = CLASS_BYTES.iter().position(|bytes| *bytes >= len) else {
            let bytes = len.next_multiple_of(CLASS_BYTES[0]);
            self.handed_out += bytes;
            return self.enter(map(bytes), len, Home::Mapping(bytes));
        };
        if self.free_memory[class].is_empty() {
            self.grow(class);
        }
        let free = self.free_memory[class].pop().expect("a class that has just grown has a free buffer");
        if free.resident && class >= LARGE_CLASS {
            self.resident_large -= CLASS_BYTES[class];
        }
        self.handed_out += CLASS_BYTES[class];
        self.enter(free.memory, len, Home::Slab(class))
    }

    /// The same, charged to an account until it is freed.
    pub(crate) fn take_charged(&mut self, len: usize, account: u32) -> Buffer {
        let buffer = self.take(len);
        self.entry_mut(buffer).account = Some(account);
        let index = account as usize;
        if self.accounts.len() <= index {
            self.accounts.resize(index + 1, 0);
        }
        self.accounts[index] += len;
        buffer
    }

    /// The same as [`Buffers::take`], all zero.
    pub(crate) fn take_zeroed(&mut self, len: usize) -> Buffer {
        let buffer = self.take(len);
        self.bytes_mut(buffer).fill(0);
        buffer
    }

    /// Bytes charged to an account now.
    pub(crate) fn charged_bytes(&self, account: u32) -> usize {
        self.accounts.get(account as usize).copied().unwrap_or(0)
    }

    /// Names `len` bytes of a front end's memory, with one reference. The front end keeps them until
    /// [`Buffers::take_freed_front`] gives the slot back.
    pub(crate) fn adopt(&mut self, memory: NonNull<u8>, len: usize, slot: FrontSlot) -> Buffer {
        self.enter(memory, len, Home::Front(slot))
    }

    /// One reference more.
    pub(crate) fn hold(&mut self, buffer: Buffer) {
        self.entry_mut(buffer).references += 1;
    }

    /// One reference less. The last one frees it.
    pub(crate) fn release(&mut self, buffer: Buffer) {
        let entry = self.entry_mut(buffer);
        entry.references -= 1;
        if entry.references > 0 {
            return;
        }
        let (memory, home, len) = (entry.memory, std::mem::replace(&mut entry.home, Home::Free), entry.len);
        let account = entry.account.take();
        entry.generation = (entry.generation + 1) & 0x7fff_ffff;
        self.free_entries.push(buffer.slot);
        if let Some(account) = account {
            self.accounts[account as usize] -= len;
        }
        match home {
            Home::Front(slot) => self.freed_fronts.push(slot),
            Home::Slab(class) => {
                self.handed_out -= CLASS_BYTES[class];
                let resident = self.keep_resident(class, memory);
                self.free_memory[class].push(FreeMemory { memory, resident });
            }
            Home::Mapping(bytes) => {
                self.handed_out -= bytes;
                unmap(memory, bytes);
            }
            Home::Free => unreachable!("a free buffer has no references"),
        }
    }

    /// One reference more, for a frame that names the buffer.
    pub(crate) fn hold_unsent(&mut self, buffer: Buffer) {
        self.hold(buffer);
        self.entry_mut(buffer).unsent += 1;
    }

    /// The frame is sent, or never will be.
    pub(crate) fn release_unsent(&mut self, buffer: Buffer) {
        self.entry_mut(buffer).unsent -= 1;
        self.release(buffer);
    }

    /// Moves the content of a front end's buffer that is still needed to memory of the loop, so that the front end can
    /// have its own back. Refused while a frame with it is being sent: the peer would find it damaged.
    ///
    /// An operation of the disk that is still under way keeps the old memory, which the front end may use for something
    /// else: then this replica gets other bytes than the write's. That write completed, or failed, without this replica,
    /// which is therefore not in sync, and has the block among those that it resyncs.
    pub(crate) fn evacuate(&mut self, buffer: Buffer) -> bool {
        let entry = self.entry(buffer);
        let Home::Front(slot) = entry.home else { return true };
        if entry.unsent > 0 {
            return false;
        }
        let (memory, len) = (entry.memory, entry.len);
        let refuge = self.take(len);
        // SAFETY: both are mapped, as long as this, and apart from each other; nothing writes into a write's data.
        unsafe { std::ptr::copy_nonoverlapping(memory.as_ptr(), self.entry(refuge).memory.as_ptr(), len) };
        let Entry { memory, home, .. } = *self.entry(refuge);
        self.free_entries.push(refuge.slot);
        let emptied = self.entry_mut(refuge);
        (emptied.references, emptied.home) = (0, Home::Free);
        let entry = self.entry_mut(buffer);
        (entry.memory, entry.home) = (memory, home);
        self.freed_fronts.push(slot);
        true
    }

    /// True if nothing but its first holder has a reference.
    pub(crate) fn is_sole(&self, buffer: Buffer) -> bool {
        self.entry(buffer).references == 1
    }

    /// A front end's request whose memory nobody uses any more. Call until `None`.
    pub(crate) fn take_freed_front(&mut self) -> Option<FrontSlot> {
        self.freed_fronts.pop()
    }

    /// The content as a front end's answer to a read. The caller keeps its reference until the front end gives the tag
    /// back.
    pub(crate) fn lend(&self, buffer: Buffer) -> FrontReply {
        let entry = self.entry(buffer);
        let len = u32::try_from(entry.len).expect("a read is far smaller than 4 GiB");
        // SAFETY: the memory stays mapped and unchanged as long as the caller keeps its reference.
        unsafe { FrontReply::elsewhere(entry.memory.as_ptr(), len) }
    }

    /// CRC32C of the whole content; computed at the first call. The content must not change any more.
    pub(crate) fn crc(&mut self, buffer: Buffer) -> u32 {
        if let Some(crc) = self.entry(buffer).crc {
            return crc;
        }
        let crc = lockstep_format::crc32c(self.bytes(buffer));
        self.entry_mut(buffer).crc = Some(crc);
        crc
    }

    /// Address of `offset..offset + len`, for an operation of the ring.
    pub(crate) fn address(&self, buffer: Buffer, offset: usize, len: usize) -> *mut u8 {
        let entry = self.entry(buffer);
        assert!(offset.checked_add(len).is_some_and(|end| end <= entry.len), "an operation reaches beyond its buffer");
        // SAFETY: the offset was just checked to lie inside the memory.
        unsafe { entry.memory.as_ptr().add(offset) }
    }

    /// Address and length, for an operation of the ring. Whoever submits it holds a reference until it completed.
    pub(crate) fn memory(&self, buffer: Buffer) -> (*mut u8, usize) {
        let entry = self.entry(buffer);
        (entry.memory.as_ptr(), entry.len)
    }

    /// The bytes. Not to be called while an operation that fills the buffer is under way.
    pub(crate) fn bytes(&self, buffer: Buffer) -> &[u8] {
        let entry = self.entry(buffer);
        // SAFETY: the entry has references, so that the memory is mapped; operations that write it have completed, as
        // the callers guarantee (they call this on completion, or before they submit).
        unsafe { std::slice::from_raw_parts(entry.memory.as_ptr(), entry.len) }
    }

    /// The bytes, to be filled. Not to be called while any operation on the buffer is under way.
    pub(crate) fn bytes_mut(&mut self, buffer: Buffer) -> &mut [u8] {
        let entry = self.entry_mut(buffer);
        // SAFETY: as above, and `&mut self` excludes every other reference that this type gives out.
        unsafe { std::slice::from_raw_parts_mut(entry.memory.as_ptr(), entry.len) }
    }

    /// Copies the content of `from` to the start of `to`, as far as both reach.
    pub(crate) fn copy(&mut self, to: Buffer, from: Buffer) {
        let (source, target) = (self.entry(from), self.entry(to));
        let len = source.len.min(target.len);
        // SAFETY: both are mapped and referenced, no operation on them is under way (the callers' guarantee), and two
        // buffers never share memory; `copy` allows even that.
        unsafe { std::ptr::copy(source.memory.as_ptr(), target.memory.as_ptr(), len) };
    }

    /// Bytes of slab memory in use now.
    pub(crate) fn handed_out_bytes(&self) -> usize {
        self.handed_out
    }

    fn enter(&mut self, memory: NonNull<u8>, len: usize, home: Home) -> Buffer {
        if let Some(slot) = self.free_entries.pop() {
            let entry = &mut self.entries[slot as usize];
            (entry.memory, entry.len, entry.home, entry.references) = (memory, len, home, 1);
            entry.crc = None;
            return Buffer { slot, generation: entry.generation };
        }
        let slot = u32::try_from(self.entries.len()).expect("fewer buffers than 2^32 fit the bound on their bytes");
        self.entries.push(Entry {
            memory,
            len,
            home,
            references: 1,
            unsent: 0,
            generation: 0,
            account: None,
            crc: None,
        });
        Buffer { slot, generation: 0 }
    }

    fn entry(&self, buffer: Buffer) -> &Entry {
        let entry = &self.entries[buffer.slot as usize];
        assert!(entry.references > 0 && entry.generation == buffer.generation, "{buffer:?} was released before");
        entry
    }

    fn entry_mut(&mut self, buffer: Buffer) -> &mut Entry {
        let entry = &mut self.entries[buffer.slot as usize];
        assert!(entry.references > 0 && entry.generation == buffer.generation, "{buffer:?} was released before");
        entry
    }

    /// Decides whether a freed buffer's pages stay; if not, gives them back.
    fn keep_resident(&mut self, class: usize, memory: NonNull<u8>) -> bool {
        let bytes = CLASS_BYTES[class];
        if class < LARGE_CLASS {
            return true;
        }
        if self.resident_large + bytes <= RESIDENT_BYTES {
            self.resident_large += bytes;
            return true;
        }
        // SAFETY: whole pages of our own slab, which nobody references. Failure leaves them resident, nothing else. Pages
        // that are locked in memory are given back by the first kind of advice only, which older kernels do not know.
        unsafe {
            if libc::madvise(memory.as_ptr().cast(), bytes, libc::MADV_DONTNEED_LOCKED) != 0 {
                libc::madvise(memory.as_ptr().cast(), bytes, libc::MADV_DONTNEED);
            }
        }
        false
    }

    fn grow(&mut self, class: usize) {
        let slab = map(SLAB_BYTES);
        // Huge pages where they can be had: direct I/O looks up every page of a buffer.
        // SAFETY: advice on our own mapping, which changes no content.
        let _ = unsafe { madvise(slab.cast(), SLAB_BYTES, MmapAdvise::MADV_HUGEPAGE) };
        self.slabs.push(slab);
        // The first ones are handed out first: a light load touches few pages.
        for index in (0..SLAB_BYTES / CLASS_BYTES[class]).rev() {
            // SAFETY: inside the mapping that was just made.
            let memory = unsafe { slab.add(index * CLASS_BYTES[class]) };
            self.free_memory[class].push(FreeMemory { memory, resident: false });
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // The loop has closed its ring before: no operation names this memory any more.
        for entry in &self.entries {
            if let Home::Mapping(bytes) = entry.home {
                unmap(entry.memory, bytes);
            }
        }
        for slab in &self.slabs {
            unmap(*slab, SLAB_BYTES);
        }
    }
}

fn map(bytes: usize) -> NonNull<u8> {
    let len = NonZeroUsize::new(bytes).expect("buffers are not empty");
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
    let memory = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) };
    memory.expect("mapping fails only when the address space or the number of mappings is used up").cast()
}

fn unmap(memory: NonNull<u8>, bytes: usize) {
    // SAFETY: one of our own mappings, to which no reference is left.
    let _ = unsafe { munmap(memory.cast(), bytes) };
}

#[cfg(test)]
mod tests {
    use super::{Buffer, Buffers, CLASS_BYTES, FrontSlot};
    use std::ptr::NonNull;

    #[test]
    fn the_last_reference_gives_the_memory_back() {
        let mut buffers = Buffers::default();
        let first = buffers.take(4096);
        let address = buffers.memory(first).0;
        buffers.hold(first);
        buffers.release(first);
        assert_eq!(buffers.handed_out_bytes(), 4096);
        buffers.release(first);
        assert_eq!(buffers.handed_out_bytes(), 0);
        let second = buffers.take(100);
        assert_eq!((buffers.memory(second).0, buffers.memory(second).1), (address, 100));
        assert_ne!(second.id(), first.id());
    }

    #[test]
    fn every_size_is_aligned_and_writable() {
        let mut buffers = Buffers::default();
        let lens: Vec<usize> = CLASS_BYTES.iter().flat_map(|bytes| [bytes - 1, *bytes, bytes + 1]).collect();
        let taken: Vec<Buffer> = lens.iter().map(|len| buffers.take(*len)).collect();
        for (buffer, len) in taken.iter().zip(&lens) {
            assert_eq!(buffers.memory(*buffer).0 as usize % 4096, 0);
            buffers.bytes_mut(*buffer).fill(0x5a);
            assert_eq!(buffers.bytes(*buffer).len(), *len);
        }
        assert!(taken.iter().all(|buffer| Buffer::from_id(buffer.id()) == Some(*buffer)));
        taken.into_iter().for_each(|buffer| buffers.release(buffer));
        assert_eq!(buffers.handed_out_bytes(), 0);
    }

    #[test]
    fn a_front_ends_memory_goes_back_to_its_tag() {
        let mut buffers = Buffers::default();
        let mut memory = [1u8; 8];
        let slot = FrontSlot { front: 3, tag: 9 };
        let foreign = buffers.adopt(NonNull::from(&mut memory).cast(), 8, slot);
        let target = buffers.take(8);
        buffers.copy(target, foreign);
        assert_eq!(buffers.bytes(target), [1; 8]);
        assert_eq!(buffers.take_freed_front(), None);
        buffers.release(foreign);
        assert_eq!(buffers.take_freed_front(), Some(slot));
    }

    #[test]
    fn a_front_end_gets_its_memory_back_while_the_content_is_still_needed() {
        let mut buffers = Buffers::default();
        let mut memory = [3u8; 8];
        let slot = FrontSlot { front: 1, tag: 2 };
        let foreign = buffers.adopt(NonNull::from(&mut memory).cast(), 8, slot);
        buffers.hold_unsent(foreign);
        assert!(!buffers.evacuate(foreign));
        buffers.release_unsent(foreign);
        assert!(buffers.evacuate(foreign));
        assert_eq!(buffers.take_freed_front(), Some(slot));
        memory.fill(9);
        assert_eq!(buffers.bytes(foreign), [3; 8]);
        buffers.release(foreign);
        assert_eq!((buffers.take_freed_front(), buffers.handed_out_bytes()), (None, 0));
    }

    #[test]
    fn an_account_is_charged_until_the_buffer_is_freed() {
        let mut buffers = Buffers::default();
        let (a, b) = (buffers.take_charged(4096, 2), buffers.take_charged(100, 2));
        assert_eq!((buffers.charged_bytes(2), buffers.charged_bytes(1)), (4196, 0));
        buffers.release(a);
        buffers.release(b);
        assert_eq!(buffers.charged_bytes(2), 0);
    }

    #[test]
    fn a_checksum_belongs_to_one_use_of_the_memory() {
        let mut buffers = Buffers::default();
        let first = buffers.take_zeroed(4096);
        let of_zeroes = buffers.crc(first);
        buffers.release(first);
        let second = buffers.take(4096);
        buffers.bytes_mut(second).fill(1);
        assert_ne!(buffers.crc(second), of_zeroes);
    }
}
