//! The end that was called.

use lockstep_core::NodeId;

use super::{
    CALL_BYTES, CHALLENGE_HEAD_BYTES, Call, ClusterKey, Collected, Greet, Nonce, PROOF_BYTES, Refused, Role,
    challenge_head, verdict,
};
use crate::wire::ProtocolVersion;

/// How far the acceptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepting {
    /// Wants more bytes.
    More,
    /// The caller knows the key and calls this node. The shell looks whether it wants the connection, and says so by
    /// [`Acceptor::accept`] or [`Acceptor::refuse`].
    Called(Call),
}

/// The acceptor's half of a greeting.
///
/// ```text
/// AwaitCall --call--> AwaitProof --proof right--> Called --accept--> frames
///     no common version: refused; proof wrong, another node: refused
/// ```
#[derive(Clone, Debug)]
pub struct Acceptor {
    key: ClusterKey,
    node: NodeId,
    nonce: Nonce,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    AwaitCall(Collected<CALL_BYTES>),
    AwaitProof(Box<AwaitProof>),
    Called(Call, ProtocolVersion),
}

#[derive(Clone, Debug)]
struct AwaitProof {
    call_bytes: [u8; CALL_BYTES],
    call: Call,
    version: ProtocolVersion,
    head: [u8; CHALLENGE_HEAD_BYTES],
    proof: Collected<PROOF_BYTES>,
}

impl Acceptor {
    /// Awaits a call to `node`.
    #[must_use]
    pub const fn new(key: ClusterKey, node: NodeId, nonce: Nonce) -> Acceptor {
        Acceptor { key, node, nonce, state: State::AwaitCall(Collected::new()) }
    }

    /// Takes the greeting's bytes off the front of `input`, and appends to `out` what has to be sent, in the case of
    /// an error too.
    ///
    /// # Errors
    /// If the greeting failed.
    pub fn receive(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Accepting, Greet> {
        loop {
            match &mut self.state {
                State::AwaitCall(collected) => {
                    if !collected.fill(input) {
                        return Ok(Accepting::More);
                    }
                    let call = collected.bytes;
                    self.state = State::AwaitProof(Box::new(self.on_call(&call, out)?));
                }
                State::AwaitProof(await_proof) => {
                    if !await_proof.proof.fill(input) {
                        return Ok(Accepting::More);
                    }
                    let (call, version) = (await_proof.call, await_proof.version);
                    if let Err(reason) = await_proof.check(&self.key, self.node) {
                        out.extend_from_slice(&verdict(Some(reason)));
                        return Err(if reason == Refused::Key { Greet::BadProof } else { Greet::RefusedHere(reason) });
                    }
                    self.state = State::Called(call, version);
                }
                State::Called(call, _) => return Ok(Accepting::Called(*call)),
            }
        }
    }

    /// Accepts the call: `out` gets the last bytes of the greeting. Frames of the version that is returned follow.
    ///
    /// # Panics
    /// Before [`Accepting::Called`].
    pub fn accept(self, out: &mut Vec<u8>) -> ProtocolVersion {
        let State::Called(_, version) = self.state else { unreachable!("accept follows Called") };
        out.extend_from_slice(&verdict(None));
        version
    }

    /// Refuses the call: `out` gets the reason, then the connection is closed.
    pub fn refuse(self, reason: Refused, out: &mut Vec<u8>) {
        out.extend_from_slice(&verdict(Some(reason)));
    }

    fn on_call(&self, bytes: &[u8; CALL_BYTES], out: &mut Vec<u8>) -> Result<AwaitProof, Greet> {
        let theirs = Call::decode_versions(bytes)?;
        let Some(version) = ProtocolVersion::SUPPORTED.agree(theirs) else {
            out.extend_from_slice(&challenge_head(0, Some(Refused::Version), &[0; 32]));
            out.extend_from_slice(&[0; PROOF_BYTES]);
            return Err(Greet::RefusedHere(Refused::Version));
        };
        let call = Call::decode(bytes)?;
        let head = challenge_head(version as u8, None, &self.nonce);
        out.extend_from_slice(&head);
        out.extend_from_slice(self.key.proof(Role::Acceptor, bytes, &head).as_bytes());
        Ok(AwaitProof { call_bytes: *bytes, call, version, head, proof: Collected::new() })
    }
}

impl AwaitProof {
    fn check(&self, key: &ClusterKey, node: NodeId) -> Result<(), Refused> {
        // The comparison of BLAKE3 hashes takes the same time wherever they differ.
        if key.proof(Role::Dialer, &self.call_bytes, &self.head) != blake3::Hash::from_bytes(self.proof.bytes) {
            return Err(Refused::Key);
        }
        if self.call.ends.to == node { Ok(()) } else { Err(Refused::WrongNode) }
    }
}
