//! Running other programs in tests: with a bound on their time, waited for by what they do, and undone afterwards.

pub mod cleanup;
pub mod command;
pub mod process;
pub mod wait;
