//! Calls between agents: each proves with the cluster's key who asks and who answers, over TCP that anybody may reach.
//!
//! The one who is asked gives a number that is good for one call; the one who asks seals it, its own number and the request
//! with the key; the answer is sealed with both numbers. Nothing can be replayed and no clocks are compared. Nothing is
//! encrypted: what agents tell each other is not secret.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::sync::Mutex;

use lockstep_proto::node::v1::{PeerReply, PeerRequest, SealedReply, SealedRequest};
use prost::Message as _;

use crate::cluster::Psk;

/// Bytes of a number used once.
const NUMBER_BYTES: usize = 32;

/// How many challenges may be open. Who asks for more and does not call pushes out the oldest, so that nobody can make an
/// agent remember without end.
const CHALLENGES_MAX: usize = 1024;

/// Why a sealed call is not accepted. The other end learns only that it was not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenSealError {
    /// The challenge was not given by us, or was used.
    #[error("its challenge is unknown or used")]
    Challenge,
    /// It was sealed with another key, for another purpose, or changed on its way.
    #[error("its seal is wrong: another cluster's key, or changed on the way")]
    Seal,
    /// The seal is right and the content is not a message: another version.
    #[error("its content is not a message of this version")]
    Content,
}

/// The key between agents.
pub struct SealKey([u8; 32]);

impl SealKey {
    /// Derived from the cluster's key for this purpose only.
    #[must_use]
    pub fn new(psk: &Psk) -> Self {
        Self(psk.derive("lockstep 2025-11 agent to agent calls v1"))
    }

    /// Every part is preceded by its length: no two different calls have the same bytes.
    fn mac(&self, direction: &str, node_id: u32, parts: [&[u8]; 3]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(direction.as_bytes()).update(&node_id.to_le_bytes());
        for part in parts {
            hasher.update(&u64::try_from(part.len()).expect("lengths fit").to_le_bytes()).update(part);
        }
        hasher.finalize()
    }

    /// Seals a request of node `from` for the node that gave `challenge`.
    #[must_use]
    pub fn seal_request(&self, from: u32, challenge: Vec<u8>, nonce: &Number, request: &PeerRequest) -> SealedRequest {
        let payload = request.encode_to_vec();
        let mac = self.mac("request", from, [&challenge, &nonce.0, &payload]);
        SealedRequest {
            from_node_id: from,
            challenge,
            client_nonce: nonce.0.to_vec(),
            payload,
            mac: mac.as_bytes().to_vec(),
        }
    }

    /// Opens the answer of node `by` to the request with these numbers.
    ///
    /// # Errors
    /// The answer is not one of that node to this very request.
    pub fn open_reply(
        &self,
        by: u32,
        challenge: &[u8],
        nonce: &Number,
        sealed: &SealedReply,
    ) -> Result<PeerReply, OpenSealError> {
        let mac = self.mac("reply", by, [challenge, &nonce.0, &sealed.payload]);
        // blake3's Hash compares in constant time.
        if !blake3::Hash::from_slice(&sealed.mac).is_ok_and(|theirs| theirs == mac) {
            return Err(OpenSealError::Seal);
        }
        PeerReply::decode(sealed.payload.as_slice()).map_err(|_| OpenSealError::Content)
    }

    /// Seals the answer of node `by`.
    #[must_use]
    pub fn seal_reply(&self, by: u32, request: &SealedRequest, reply: &PeerReply) -> SealedReply {
        let payload = reply.encode_to_vec();
        let mac = self.mac("reply", by, [&request.challenge, &request.client_nonce, &payload]);
        SealedReply { payload, mac: mac.as_bytes().to_vec() }
    }

    /// Opens a request to which `challenges` gave its challenge.
    ///
    /// # Errors
    /// The request does not come from a node of the cluster, or is not for us, or is a replay.
    pub fn open_request(&self, challenges: &Challenges, sealed: &SealedRequest) -> Result<PeerRequest, OpenSealError> {
        let parts = [sealed.challenge.as_slice(), &sealed.client_nonce, &sealed.payload];
        let mac = self.mac("request", sealed.from_node_id, parts);
        if !blake3::Hash::from_slice(&sealed.mac).is_ok_and(|theirs| theirs == mac) {
            return Err(OpenSealError::Seal);
        }
        if !challenges.take(&sealed.challenge) {
            return Err(OpenSealError::Challenge);
        }
        PeerRequest::decode(sealed.payload.as_slice()).map_err(|_| OpenSealError::Content)
    }
}

/// A number that is used once.
#[derive(Clone, PartialEq, Eq)]
pub struct Number([u8; NUMBER_BYTES]);

impl Number {
    /// A fresh one.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn random() -> io::Result<Self> {
        random_bytes().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

/// Random bytes of the system.
///
/// # Errors
/// The system gives none.
pub fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The challenges that are open.
#[derive(Default)]
pub struct Challenges(Mutex<VecDeque<Number>>);

impl Challenges {
    /// Gives a challenge that is good for one call.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn give(&self) -> io::Result<Number> {
        let number = Number::random()?;
        let mut open = self.0.lock().expect("no holder panics");
        if open.len() == CHALLENGES_MAX {
            open.pop_front();
        }
        open.push_back(number.clone());
        Ok(number)
    }

    fn take(&self, bytes: &[u8]) -> bool {
        let mut open = self.0.lock().expect("no holder panics");
        match open.iter().position(|number| number.0 == bytes) {
            Some(at) => open.remove(at).is_some(),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CHALLENGES_MAX, Challenges, Number, OpenSealError, SealKey};
    use crate::cluster::Psk;
    use lockstep_proto::node::v1::{PeerReply, PeerRequest, peer_reply, peer_request};

    fn request() -> PeerRequest {
        PeerRequest { request: Some(peer_request::Request::Describe(Default::default())) }
    }

    fn reply() -> PeerReply {
        PeerReply { reply: Some(peer_reply::Reply::Register(Default::default())) }
    }

    #[test]
    fn a_sealed_call_is_opened_once() {
        let (key, challenges) = (SealKey::new(&Psk([7; 32])), Challenges::default());
        let (challenge, nonce) = (challenges.give().expect("random"), Number::random().expect("random"));
        let sealed = key.seal_request(1, challenge.to_vec(), &nonce, &request());
        assert_eq!(key.open_request(&challenges, &sealed), Ok(request()));
        assert_eq!(key.open_request(&challenges, &sealed), Err(OpenSealError::Challenge));
        let answer = key.seal_reply(2, &sealed, &reply());
        assert_eq!(key.open_reply(2, &sealed.challenge, &nonce, &answer), Ok(reply()));
        assert_eq!(key.open_reply(3, &sealed.challenge, &nonce, &answer), Err(OpenSealError::Seal));
    }

    #[test]
    fn whatever_is_changed_breaks_the_seal() {
        let (key, challenges) = (SealKey::new(&Psk([7; 32])), Challenges::default());
        let (challenge, nonce) = (challenges.give().expect("random"), Number::random().expect("random"));
        let sealed = key.seal_request(1, challenge.to_vec(), &nonce, &request());
        let other = SealKey::new(&Psk([8; 32])).seal_request(1, challenge.to_vec(), &nonce, &request());
        let changed = [
            super::SealedRequest { from_node_id: 2, ..sealed.clone() },
            super::SealedRequest { payload: vec![], ..sealed.clone() },
            super::SealedRequest { mac: vec![], ..sealed.clone() },
            super::SealedRequest { mac: vec![0; 32], ..sealed.clone() },
            super::SealedRequest { client_nonce: vec![], ..sealed.clone() },
            super::SealedRequest { mac: other.mac, ..sealed.clone() },
        ];
        for bad in changed {
            assert_eq!(key.open_request(&challenges, &bad), Err(OpenSealError::Seal));
        }
        assert!(key.open_request(&challenges, &sealed).is_ok(), "a forgery uses up no challenge");
    }

    #[test]
    fn open_challenges_are_bounded() {
        let (key, challenges) = (SealKey::new(&Psk([7; 32])), Challenges::default());
        let (first, nonce) = (challenges.give().expect("random"), Number::random().expect("random"));
        for _ in 0..CHALLENGES_MAX {
            challenges.give().expect("random");
        }
        let sealed = key.seal_request(1, first.to_vec(), &nonce, &request());
        assert_eq!(key.open_request(&challenges, &sealed), Err(OpenSealError::Challenge));
    }
}
