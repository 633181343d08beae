//! The first message of a greeting: who calls whom, for what.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `LKSG` |
//! | 4, 5 | oldest and newest version spoken |
//! | 6 | purpose: 0 a volume, 1 a report of a supervisor |
//! | 7 | network: 0 dedicated, 1 ordinary |
//! | 8..24 | volume; 0 unless the purpose is a volume |
//! | 24..28, 28..32 | calling node, called node |
//! | 32..64 | nonce |
//! | 64..76 | 0 |

use lockstep_core::{Net, NodeId, VolumeId};

use super::{CALL_BYTES, CALL_MAGIC, Ends, Greet, NONCE_BYTES, Nonce};
use crate::wire::VersionRange;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Purpose {
    /// Frames of one volume, both ways.
    Volume(VolumeId),
    /// A supervisor reports the exit of its worker: one frame, [`lockstep_core::Message::ExitReport`], one way.
    ExitReport,
}

/// Who calls whom, for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// What for.
    pub purpose: Purpose,
    /// Over which network.
    pub net: Net,
    /// From which node to which.
    pub ends: Ends,
}

impl Call {
    pub(super) fn encode(&self, versions: VersionRange, nonce: &Nonce) -> [u8; CALL_BYTES] {
        let (purpose, volume) = match self.purpose {
            Purpose::Volume(volume) => (0, volume),
            Purpose::ExitReport => (1, VolumeId::default()),
        };
        let mut bytes = [0; CALL_BYTES];
        bytes[..4].copy_from_slice(&CALL_MAGIC);
        bytes[4] = versions.oldest;
        bytes[5] = versions.newest;
        bytes[6] = purpose;
        bytes[7] = match self.net {
            Net::Dedicated => 0,
            Net::Ordinary => 1,
        };
        bytes[8..24].copy_from_slice(&volume.0);
        bytes[24..28].copy_from_slice(&self.ends.from.0.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.ends.to.0.to_le_bytes());
        bytes[32..32 + NONCE_BYTES].copy_from_slice(nonce);
        bytes
    }

    /// The versions that the caller speaks: the only part that every version must be able to read.
    pub(super) fn decode_versions(bytes: &[u8; CALL_BYTES]) -> Result<VersionRange, Greet> {
        if bytes[..4] != CALL_MAGIC {
            return Err(Greet::BadMagic);
        }
        Ok(VersionRange { oldest: bytes[4], newest: bytes[5] })
    }

    pub(super) fn decode(bytes: &[u8; CALL_BYTES]) -> Result<Call, Greet> {
        let [_, _, _, _, _, _, purpose, net, rest @ ..] = *bytes;
        let (volume, rest) = rest.split_first_chunk().expect("a call has room for a volume");
        let (from, rest) = rest.split_first_chunk().expect("a call has room for its sender");
        let (to, rest) = rest.split_first_chunk().expect("a call has room for its receiver");
        if rest[NONCE_BYTES..].iter().any(|byte| *byte != 0) {
            return Err(Greet::BadField("reserved bytes of the call"));
        }
        let purpose = match (purpose, *volume) {
            (0, volume) => Purpose::Volume(VolumeId(volume)),
            (1, volume) if volume.iter().all(|byte| *byte == 0) => Purpose::ExitReport,
            _ => return Err(Greet::BadField("purpose")),
        };
        let net = match net {
            0 => Net::Dedicated,
            1 => Net::Ordinary,
            _ => return Err(Greet::BadField("network")),
        };
        let ends = Ends { from: NodeId(u32::from_le_bytes(*from)), to: NodeId(u32::from_le_bytes(*to)) };
        if ends.from == ends.to {
            return Err(Greet::BadField("a node that calls itself"));
        }
        Ok(Call { purpose, net, ends })
    }
}
