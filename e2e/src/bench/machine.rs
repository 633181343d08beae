//! What the machine and a process say of themselves, and its one switch that the benchmark sets.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

use crate::cleanup::{Cleanup, Undo};

/// Busy time of all processors together since the start of the machine. Kernel threads work for loop and FUSE, so that
/// the time of a process would say little.
pub fn busy_time() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let ticks = parse_busy_ticks(&text).context("parse /proc/stat")?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the clock has ticks")?;
    let per_second = u64::try_from(per_second).context("ticks a second")?;
    Ok(Duration::from_micros(ticks * 1_000_000 / per_second))
}

/// user, nice, system, (idle, iowait,) irq, softirq; a guest's time is in user already.
fn parse_busy_ticks(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    (fields.len() >= 7).then(|| fields[0] + fields[1] + fields[2] + fields[5] + fields[6])
}

/// The memory of a process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident now.
    pub resident_bytes: u64,
    /// The most that was ever resident.
    pub peak_bytes: u64,
}

/// Asks the kernel for a process's memory.
pub fn memory_of(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    };
    let (resident, peak) = (field("VmRSS:"), field("VmHWM:"));
    Ok(Memory {
        resident_bytes: resident.with_context(|| format!("{path} has no VmRSS"))?,
        peak_bytes: peak.with_context(|| format!("{path} has no VmHWM"))?,
    })
}

/// Turns FUSE over io_uring on for the machine; its former state comes back when dropped, or on a signal.
pub fn enable_fuse_uring(cleanup: &Cleanup) -> Result<Undo> {
    let switch = PathBuf::from("/sys/module/fuse/parameters/enable_uring");
    let before = fs::read_to_string(&switch).with_context(|| format!("read {}", switch.display()))?;
    let undo = {
        let switch = switch.clone();
        cleanup.defer(move || {
            if let Err(error) = fs::write(&switch, before.trim()) {
                eprintln!("{} keeps its new value: {error}", switch.display());
            }
        })
    };
    fs::write(&switch, "Y").with_context(|| format!("write {}", switch.display()))?;
    Ok(undo)
}

/// Name of the kernel and number of processors: absolute figures mean little without them.
pub fn description() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Linux {}, {processors} processors", kernel.trim())
}

/// The number that a pid file holds.
pub fn read_pid(path: &Path) -> Result<u32> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let first = text.split_whitespace().next().unwrap_or_default();
    first.parse().with_context(|| format!("{} holds {text:?}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{memory_of, parse_busy_ticks};

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let text = "cpu  10 20 30 1000 2000 4 5 600 7 8\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse_busy_ticks(text), Some(69));
        assert_eq!(parse_busy_ticks("cpu  1 2"), None);
    }

    #[test]
    fn own_memory_is_known() {
        let memory = memory_of(std::process::id()).unwrap();
        assert!(memory.resident_bytes > 0 && memory.peak_bytes >= memory.resident_bytes);
    }
}
