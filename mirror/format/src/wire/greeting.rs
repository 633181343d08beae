//! The greeting: how the two ends of a new connection prove to each other that they know the cluster's key, and agree
//! what the connection is for.
//!
//! ```text
//! dialer  -> acceptor   Call       magic, versions spoken, purpose, volume, network, from, to, nonce   76 bytes
//! acceptor -> dialer    Challenge  magic, version chosen, nonce, proof(acceptor, Call, Challenge)      72 bytes
//! dialer  -> acceptor   Proof      proof(dialer, Call, Challenge)                                      32 bytes
//! acceptor -> dialer    Verdict    accepted, or refused with the reason                                 8 bytes
//! ```
//!
//! A proof is BLAKE3 keyed with a key derived from the cluster's, over the role of its sender and every byte that both
//! have seen: it is good for one connection, one direction and one purpose, and cannot be reflected. Neither end learns
//! from the other whether a volume or a node exists before it has proven the key. Frames are *not* sealed: the
//! greeting keeps strangers out, it does not hide or protect bytes on the wire.
//!
//! Both machines are sans-io: bytes in, bytes out; nonces come from the shell, which also limits the time that a
//! greeting may take ([`GREETING_SECONDS_MAX`]).

mod acceptor;
mod call;
mod dialer;
#[cfg(test)]
mod tests;

pub use acceptor::{Accepting, Acceptor};
pub use call::{Call, Purpose};
pub use dialer::{Dialer, Dialing};

use lockstep_core::NodeId;
use thiserror::Error;

/// A greeting that takes longer is given up: two round trips, with room for a slow network.
pub const GREETING_SECONDS_MAX: u64 = 5;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

/// Random bytes, from the shell, never used twice.
pub type Nonce = [u8; NONCE_BYTES];

const CALL_MAGIC: [u8; 4] = *b"LKSG";
const CHALLENGE_MAGIC: [u8; 4] = *b"LKSC";
const VERDICT_MAGIC: [u8; 4] = *b"LKSV";
const CALL_BYTES: usize = 76;
const CHALLENGE_HEAD_BYTES: usize = 40;
const PROOF_BYTES: usize = 32;
const CHALLENGE_BYTES: usize = CHALLENGE_HEAD_BYTES + PROOF_BYTES;
const VERDICT_BYTES: usize = 8;

/// The key that greetings are proven with.
#[derive(Clone)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    /// Derives the key from the cluster's pre-shared secret.
    #[must_use]
    pub fn derive(secret: &[u8]) -> ClusterKey {
        ClusterKey(blake3::derive_key("lockstep mirror greeting 1", secret))
    }

    fn proof(&self, role: Role, call: &[u8], challenge: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&[role as u8]).update(call).update(challenge);
        hasher.finalize()
    }
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey")
    }
}

#[derive(Clone, Copy)]
enum Role {
    Dialer = 1,
    Acceptor = 2,
}

/// Why the acceptor refuses somebody who knows the key (or speaks no common version).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Error)]
#[repr(u8)]
pub enum Refused {
    /// The ends speak no common version.
    #[error("no common protocol version")]
    Version = 1,
    /// The acceptor is another node.
    #[error("the call is for another node")]
    WrongNode = 2,
    /// The acceptor does not know the dialer.
    #[error("the calling node is not of this cluster")]
    UnknownNode = 3,
    /// The acceptor has no such volume.
    #[error("no such volume here")]
    UnknownVolume = 4,
    /// The acceptor does not want this connection now.
    #[error("not wanted now")]
    NotNow = 5,
    /// The dialer's proof is wrong: another key.
    #[error("the proof is wrong: another key")]
    Key = 6,
}

impl Refused {
    fn from_number(number: u8) -> Option<Refused> {
        Some(match number {
            1 => Refused::Version,
            2 => Refused::WrongNode,
            3 => Refused::UnknownNode,
            4 => Refused::UnknownVolume,
            5 => Refused::NotNow,
            6 => Refused::Key,
            _ => return None,
        })
    }
}

/// Why a greeting failed. The connection is closed, after whatever was written for the other end is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Greet {
    /// The other end is something else.
    #[error("the other end does not greet as an engine of Lockstep")]
    BadMagic,
    /// A field that no sound peer sends.
    #[error("{0}: not understood")]
    BadField(&'static str),
    /// The other end does not know the key.
    #[error("the other end does not know the cluster's key")]
    BadProof,
    /// The other end refused.
    #[error("refused: {0}")]
    RefusedThere(Refused),
    /// This end refuses.
    #[error("refused here: {0}")]
    RefusedHere(Refused),
}

/// Collects a message of known length from pieces of a stream.
#[derive(Clone, Debug)]
struct Collected<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Collected<N> {
    const fn new() -> Self {
        Collected { bytes: [0; N], len: 0 }
    }

    /// Takes what is missing off the front of `input`; true once nothing is.
    fn fill(&mut self, input: &mut &[u8]) -> bool {
        let take = input.len().min(N - self.len);
        let (head, rest) = input.split_at(take);
        self.bytes[self.len..self.len + take].copy_from_slice(head);
        self.len += take;
        *input = rest;
        self.len == N
    }
}

fn verdict(refused: Option<Refused>) -> [u8; VERDICT_BYTES] {
    let mut bytes = [0; VERDICT_BYTES];
    bytes[..4].copy_from_slice(&VERDICT_MAGIC);
    bytes[4] = refused.map_or(0, |reason| reason as u8);
    bytes
}

/// Proof of the acceptor and its announcement, without the dialer's part.
fn challenge_head(version: u8, refused: Option<Refused>, nonce: &Nonce) -> [u8; CHALLENGE_HEAD_BYTES] {
    let mut bytes = [0; CHALLENGE_HEAD_BYTES];
    bytes[..4].copy_from_slice(&CHALLENGE_MAGIC);
    bytes[4] = version;
    bytes[5] = refused.map_or(0, |reason| reason as u8);
    bytes[8..].copy_from_slice(nonce);
    bytes
}

/// Which node greets which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    /// Who dialed.
    pub from: NodeId,
    /// Who accepted.
    pub to: NodeId,
}
