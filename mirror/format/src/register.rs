//! A configuration by itself: what a register elsewhere (a Kubernetes Lease) holds.
//!
//! ```text
//! version u16 | configuration | CRC32C u32 of everything before it
//! ```
//! The version is the oldest that can say what the configuration says, so that nodes with an older program go on for as long as they can.
//! The checksum is for people: whoever edits the object by hand is told so, rather than obeyed in part.

use lockstep_core::Config;
use thiserror::Error;

use crate::bytes::{DecodeValue, Layout, Reader, Writer};
use crate::values::{layout_of, put_config, take_config};

/// Every version that this program reads, with what changed in it. It writes the newest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum RegisterVersion {
    /// The first.
    V1 = 1,
    /// With the epochs in which replicas were added.
    V2 = 2,
}

impl RegisterVersion {
    const fn layout(self) -> Layout {
        match self {
            RegisterVersion::V1 => Layout::Original,
            RegisterVersion::V2 => Layout::Added,
        }
    }

    const fn of(layout: Layout) -> RegisterVersion {
        match layout {
            Layout::Original => RegisterVersion::V1,
            Layout::Added => RegisterVersion::V2,
        }
    }
}

/// Why bytes are not what a register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DecodeRegister {
    /// A newer program wrote it, or it is something else.
    #[error("its version is {0}, which this program does not read")]
    Version(u16),
    /// The checksum is another one.
    #[error("its checksum is wrong: it was changed by hand, or cut")]
    Checksum,
    /// What is inside is no configuration.
    #[error("{0}")]
    Value(#[from] DecodeValue),
}

/// The bytes of a configuration.
#[must_use]
pub fn encode(config: &Config) -> Vec<u8> {
    let mut bytes = Vec::new();
    let layout = layout_of(config);
    let mut w = Writer::new(&mut bytes).laid_out(layout);
    w.u16(RegisterVersion::of(layout) as u16);
    put_config(&mut w, config);
    let checksum = crate::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The configuration in these bytes, checked.
///
/// # Errors
/// See [`DecodeRegister`].
pub fn decode(bytes: &[u8]) -> Result<Config, DecodeRegister> {
    let (content, checksum) = bytes.split_last_chunk::<4>().ok_or(DecodeValue::Truncated)?;
    let mut r = Reader::new(content);
    let version = match r.u16()? {
        1 => RegisterVersion::V1,
        2 => RegisterVersion::V2,
        version => return Err(DecodeRegister::Version(version)),
    };
    if crate::crc32c(content) != u32::from_le_bytes(*checksum) {
        return Err(DecodeRegister::Checksum);
    }
    let mut r = r.laid_out(version.layout());
    let config = take_config(&mut r)?;
    r.finish()?;
    if layout_of(&config) != version.layout() {
        return Err(DecodeValue::OutOfBounds("version: an older one says the same").into());
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::{DecodeRegister, decode, encode};
    use crate::strategies;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    proptest! {
        #[test]
        fn a_configuration_is_read_back(config in strategies::config()) {
            prop_assert_eq!(decode(&encode(&config)), Ok(config));
        }

        #[test]
        fn a_changed_byte_is_noticed(config in strategies::config(), at in any::<usize>(), bits in 1u8..) {
            let mut bytes = encode(&config);
            let at = at % bytes.len();
            bytes[at] ^= bits;
            assert!(decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn another_version_is_named() {
        assert_eq!(decode(&[9, 0, 0, 0, 0, 0]), Err(DecodeRegister::Version(9)));
    }
}
