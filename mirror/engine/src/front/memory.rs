//! Page-aligned memory for data on its way: mapped lazily, so that only what is used is resident.

use std::io;
use std::ptr::NonNull;

/// Page and direct I/O alignment, in bytes.
pub(crate) const PAGE_BYTES: usize = 4096;
/// `include/uapi/asm-generic/mman-common.h`.
const MADV_DONTNEED_LOCKED: libc::c_int = 24;

/// One anonymous private mapping.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
    /// Stay mapped for ever: the kernel may still write here.
    leaked: bool,
}

// SAFETY: a `Region` is the only owner of its mapping; it has no thread affinity.
unsafe impl Send for Region {}

impl Region {
    /// Maps `len` bytes (rounded up to whole pages) that read as zeroes.
    pub(crate) fn map(len: usize) -> io::Result<Region> {
        let len = len.next_multiple_of(PAGE_BYTES);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if ptr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(ptr.cast()).expect("mmap never returns null without MAP_FIXED");
        Ok(Region { base, len, leaked: false })
    }

    /// Leaves the memory mapped when the value is dropped, because the kernel may still write into it. Losing address
    /// space is harmless; another allocation in its place would be overwritten.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
    }

    /// Address of byte `offset`, which has to lie inside.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len, "offset {offset} outside a region of {} bytes", self.len);
        // SAFETY: the offset was just checked to lie inside the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Bytes `offset..offset + len`.
    ///
    /// # Safety
    /// Nobody, the kernel included, may write them while the slice lives.
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "slice outside the region");
        // SAFETY: inside the mapping, as just checked; the caller excludes writers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), len) }
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Safety
    /// Nobody, the kernel included, may use that part of the region now.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset.checked_add(bytes.len()).is_some_and(|end| end <= self.len), "write outside the region");
        // SAFETY: inside the mapping, as just checked; source and target cannot overlap, because no reference into
        // the region may exist now.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len()) };
    }

    /// Moves `from..from + len` to the start.
    ///
    /// # Safety
    /// Nobody, the kernel included, may use that part of the region, or its start, now.
    pub(crate) unsafe fn move_to_start(&self, from: usize, len: usize) {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "move outside the region");
        // SAFETY: inside the mapping, as just checked; `copy` allows overlap.
        unsafe { std::ptr::copy(self.base.as_ptr().add(from), self.base.as_ptr(), len) };
    }

    /// Makes the pages of `offset..offset + len` resident and writable, without changing what they hold. Kernels before Linux 5.14 do not do
    /// this: there they come as they are touched.
    pub(crate) fn populate(&self, offset: usize, len: usize) {
        assert!(offset.is_multiple_of(PAGE_BYTES) && offset + len <= self.len, "pages outside the region");
        // SAFETY: whole pages inside our own mapping; their content stays.
        unsafe { libc::madvise(self.base.as_ptr().add(offset).cast(), len, libc::MADV_POPULATE_WRITE) };
    }

    /// Gives the pages of `offset..offset + len` back to the kernel; they read as zeroes afterwards.
    ///
    /// # Safety
    /// Nobody, the kernel included, may use that part of the region now.
    pub(crate) unsafe fn release_pages(&self, offset: usize, len: usize) {
        assert!(offset.is_multiple_of(PAGE_BYTES) && offset + len <= self.len, "release outside the region");
        let release = |advice| {
            // SAFETY: whole pages inside our own mapping, unused as the caller says.
            unsafe { libc::madvise(self.base.as_ptr().add(offset).cast(), len, advice) }
        };
        // Locked pages are given back by a call of their own (Linux 5.18); where neither works the pages stay resident,
        // which costs memory and nothing else.
        if release(MADV_DONTNEED_LOCKED) != 0 {
            release(libc::MADV_DONTNEED);
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // SAFETY: the mapping is ours and nothing borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// How many bytes of each fixed-size buffer have been touched, and what may be given back.
///
/// Buffers are large (a whole maximal request) but mostly used for a block or two. Without this, a burst of large
/// requests would leave every buffer resident for ever.
#[derive(Debug)]
pub(crate) struct ResidentBudget {
    touched: Vec<usize>,
    total: usize,
    budget: usize,
}

impl ResidentBudget {
    pub(crate) fn new(buffers: usize, budget: usize) -> ResidentBudget {
        ResidentBudget { touched: vec![0; buffers], total: 0, budget }
    }

    /// Buffer `index` was used up to `len` bytes.
    pub(crate) fn touch(&mut self, index: usize, len: usize) {
        let old = self.touched[index];
        if len > old {
            self.touched[index] = len;
            self.total += len - old;
        }
    }

    /// Whether buffer `index` is resident up to `len` bytes, as far as it was told.
    pub(crate) fn is_touched(&self, index: usize, len: usize) -> bool {
        self.touched[index] >= len
    }

    /// Buffer `index` is free again: bytes to give back now (0: keep them for the next request).
    pub(crate) fn release(&mut self, index: usize) -> usize {
        let touched = self.touched[index];
        // A small buffer is not worth a system call.
        if self.total <= self.budget || touched <= 16 * PAGE_BYTES {
            return 0;
        }
        self.touched[index] = 0;
        self.total -= touched;
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_read_as_zeroes() {
        let region = Region::map(3 * PAGE_BYTES).unwrap();
        // SAFETY: nobody else uses the region.
        unsafe {
            region.write(0, &[7; 3 * PAGE_BYTES]);
            region.release_pages(PAGE_BYTES, PAGE_BYTES);
            assert_eq!(region.slice(PAGE_BYTES, PAGE_BYTES), [0; PAGE_BYTES]);
            assert_eq!(region.slice(2 * PAGE_BYTES, 1), [7]);
        }
    }

    #[test]
    fn large_buffers_are_given_back_only_beyond_the_budget() {
        let mut budget = ResidentBudget::new(3, (1 << 20) + 4096);
        budget.touch(0, 1 << 20);
        assert_eq!(budget.release(0), 0);
        budget.touch(1, 1 << 20);
        budget.touch(2, 4096);
        assert_eq!(budget.release(2), 0);
        assert_eq!(budget.release(1), 1 << 20);
        assert_eq!(budget.release(0), 0);
    }
}
