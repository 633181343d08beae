//! The benchmark: Lockstep against what the disk can do at best, and against qemu-storage-daemon as a mirror.
//!
//! A figure is a ratio of two things that were measured in the same round; its median over the rounds is compared with
//! the level that is promised. What else a promise is about (the longest wait, bytes of a resync, memory, frames) is
//! measured on playgrounds of its own, one section each: a section that fails leaves the others alone.

pub mod bed;
pub mod case;
pub mod comparison;
pub mod faults;
pub mod figures;
pub mod leases;
pub mod levels;
pub mod machine;
pub mod probe;
pub mod promises;
pub mod qemu;
pub mod relay;
pub mod report;
pub mod resync;
pub mod sharing;
pub mod throughput;
