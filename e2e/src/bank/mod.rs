//! A real workload whose every acknowledged transaction is known outside the volume: SQLite, with synchronous commits.
//!
//! The transactions run in a process of their own ([`serve`]), so that one that hangs in a dead file system
//! can be left behind. It prints a line per commit that SQLite acknowledged; [`Bank`] keeps these lines, with the time at
//! which each came, on this side. Every transfer follows from the seed and its number, so that [`check`] can tell for each one
//! whether it is there to the last byte, and what every balance must be.

mod ledger;
mod process;
mod transfer;

pub use ledger::{Checked, check};
pub use process::{Bank, BankStart, serve};
pub use transfer::Transfer;
