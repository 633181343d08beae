//! The end that opened the connection.

use super::{
    CALL_BYTES, CHALLENGE_BYTES, CHALLENGE_HEAD_BYTES, CHALLENGE_MAGIC, Call, ClusterKey, Collected, Greet, Nonce,
    PROOF_BYTES, Refused, Role, VERDICT_BYTES, VERDICT_MAGIC,
};
use crate::wire::ProtocolVersion;

/// How far the dialer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialing {
    /// Wants more bytes.
    More,
    /// Accepted: frames of this version may be sent, and follow.
    Greeted(ProtocolVersion),
}

/// The dialer's half of a greeting.
///
/// ```text
/// AwaitChallenge --challenge, proof right--> AwaitVerdict --accepted--> Done
/// ```
#[derive(Clone, Debug)]
pub struct Dialer {
    key: ClusterKey,
    call: [u8; CALL_BYTES],
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    AwaitChallenge(Collected<CHALLENGE_BYTES>),
    AwaitVerdict(ProtocolVersion, Collected<VERDICT_BYTES>),
    Done(ProtocolVersion),
}

impl Dialer {
    /// Starts a greeting: `out` gets the first bytes to send.
    #[must_use]
    pub fn dial(key: ClusterKey, call: &Call, nonce: &Nonce, out: &mut Vec<u8>) -> Dialer {
        let call = call.encode(ProtocolVersion::SUPPORTED, nonce);
        out.extend_from_slice(&call);
        Dialer { key, call, state: State::AwaitChallenge(Collected::new()) }
    }

    /// Takes the greeting's bytes off the front of `input`, and appends to `out` what has to be sent. What is left in
    /// `input` after [`Dialing::Greeted`] belongs to frames.
    ///
    /// # Errors
    /// If the greeting failed.
    pub fn receive(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Dialing, Greet> {
        loop {
            match &mut self.state {
                State::AwaitChallenge(collected) => {
                    if !collected.fill(input) {
                        return Ok(Dialing::More);
                    }
                    let challenge = collected.bytes;
                    let version = self.on_challenge(&challenge, out)?;
                    self.state = State::AwaitVerdict(version, Collected::new());
                }
                State::AwaitVerdict(version, collected) => {
                    if !collected.fill(input) {
                        return Ok(Dialing::More);
                    }
                    on_verdict(&collected.bytes)?;
                    self.state = State::Done(*version);
                }
                State::Done(version) => return Ok(Dialing::Greeted(*version)),
            }
        }
    }

    fn on_challenge(&self, challenge: &[u8; CHALLENGE_BYTES], out: &mut Vec<u8>) -> Result<ProtocolVersion, Greet> {
        let (head, proof) = challenge.split_at(CHALLENGE_HEAD_BYTES);
        if head[..4] != CHALLENGE_MAGIC {
            return Err(Greet::BadMagic);
        }
        // A refusal at this point (no common version) comes unproven: it only makes the dialer give up and try later,
        // which whoever can write on the connection can bring about anyway.
        if head[5] != 0 {
            let reason = Refused::from_number(head[5]).ok_or(Greet::BadField("reason of a refusal"))?;
            return Err(Greet::RefusedThere(reason));
        }
        let proof: [u8; PROOF_BYTES] = proof.try_into().map_err(|_| Greet::BadField("proof"))?;
        // The comparison of BLAKE3 hashes takes the same time wherever they differ.
        if self.key.proof(Role::Acceptor, &self.call, head) != blake3::Hash::from_bytes(proof) {
            return Err(Greet::BadProof);
        }
        let spoken = ProtocolVersion::SUPPORTED;
        let version = ProtocolVersion::from_number(head[4])
            .filter(|version| (spoken.oldest..=spoken.newest).contains(&(*version as u8)))
            .ok_or(Greet::BadField("version chosen"))?;
        out.extend_from_slice(self.key.proof(Role::Dialer, &self.call, head).as_bytes());
        Ok(version)
    }
}

fn on_verdict(verdict: &[u8; VERDICT_BYTES]) -> Result<(), Greet> {
    if verdict[..4] != VERDICT_MAGIC || verdict[5..] != [0; 3] {
        return Err(Greet::BadMagic);
    }
    match verdict[4] {
        0 => Ok(()),
        number => Err(Refused::from_number(number).map_or(Greet::BadField("reason of a refusal"), Greet::RefusedThere)),
    }
}
