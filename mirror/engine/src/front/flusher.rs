//! Protection of a thread that serves a block device from waiting for that very device.

use std::io;

/// `include/uapi/linux/prctl.h`, Linux 5.6.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that the calling thread writes out other people's dirty pages: its own allocations then never wait
/// for a writeback, which might be to the device that it serves, and it is not throttled as an ordinary writer.
///
/// # Errors
/// EPERM without CAP_SYS_RESOURCE: to be reported and lived with.
pub fn become_io_flusher() -> io::Result<()> {
    // SAFETY: sets a flag of the calling thread; all arguments are plain numbers.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
