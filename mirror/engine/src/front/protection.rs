//! Protection of a process that serves a block device from waiting for that very device. Best effort: whoever lacks the
//! capabilities reports it and goes on.

use std::fs;
use std::io;

/// `include/uapi/linux/prctl.h`, Linux 5.6.
const PR_SET_IO_FLUSHER: libc::c_int = 57;
/// Bit of `CapEff` in `/proc/self/status`.
const CAP_IPC_LOCK: u32 = 14;

/// Tells the kernel that the calling thread writes out other people's dirty pages: its own allocations then never wait
/// for a writeback, which might be to the device that it serves, and it is not throttled as an ordinary writer.
///
/// # Errors
/// EPERM without CAP_SYS_RESOURCE.
pub fn become_io_flusher() -> io::Result<()> {
    // SAFETY: sets a flag of the calling thread; all arguments are plain numbers.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps every page that the process ever touches in memory: a page of the engine on a swap device, or a page of its
/// program on a file system, might be behind the device that it serves. Pages never touched cost nothing.
///
/// # Errors
/// EPERM without CAP_IPC_LOCK: below the limit that holds then, the lock would turn later allocations into failures.
pub fn lock_memory() -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    if effective & (1 << CAP_IPC_LOCK) == 0 {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    // SAFETY: a property of the whole address space; all arguments are plain numbers.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
