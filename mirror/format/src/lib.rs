//! Bytes to core types and back: the wire protocol and the disk format of Lockstep.
//!
//! Pure functions over slices and vectors: no I/O, no clock, no randomness. Whatever comes from a peer or a disk passes
//! through here once and is a typed, checked value afterwards; hostile bytes give a typed error, never a panic and
//! never an allocation by the bytes' own claim.
//!
//! Where to look: [`wire`] has the greeting of a connection and the frames on it (`docs/protocol.md`),
//! [`disk`] what a node keeps of a volume (`docs/disk-format.md`), [`register`] a configuration that lies elsewhere.
#![forbid(unsafe_code)]

pub mod bytes;
pub mod disk;
pub mod register;
#[cfg(any(test, feature = "strategies"))]
pub mod strategies;
mod values;
pub mod wire;

/// CRC32C (Castagnoli) of `bytes`, in hardware where there is any.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Continues a CRC32C over further bytes: `crc32c_append(crc32c(a), b)` is that of `a` and `b` together.
#[must_use]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}
