use lockstep_core::{Net, NodeId, VolumeId};
use proptest::prelude::*;

use super::*;
use crate::wire::{ProtocolVersion, VersionRange};

fn call() -> Call {
    Call {
        purpose: Purpose::Volume(VolumeId([7; 16])),
        net: Net::Dedicated,
        ends: Ends { from: NodeId(1), to: NodeId(2) },
    }
}

fn key(text: &str) -> ClusterKey {
    ClusterKey::derive(text.as_bytes())
}

/// Runs both halves against each other, `piece` bytes at a time, and returns what each saw last.
fn greet(
    dialer_key: ClusterKey,
    acceptor_key: ClusterKey,
    node: NodeId,
    piece: usize,
) -> (Result<Dialing, Greet>, Result<Accepting, Greet>) {
    let (mut to_acceptor, mut to_dialer) = (Vec::new(), Vec::new());
    let mut dialer = Dialer::dial(dialer_key, &call(), &[1; 32], &mut to_acceptor);
    let mut acceptor = Some(Acceptor::new(acceptor_key, node, [2; 32]));
    let mut dialed = Ok(Dialing::More);
    let mut accepted = Ok(Accepting::More);
    while !(to_acceptor.is_empty() && to_dialer.is_empty()) {
        for bytes in std::mem::take(&mut to_acceptor).chunks(piece) {
            let Some(half) = acceptor.as_mut() else { break };
            accepted = half.receive(&mut &bytes[..], &mut to_dialer);
            match accepted {
                Ok(Accepting::Called(_)) => {
                    let half = acceptor.take().expect("it is there");
                    assert_eq!(half.accept(&mut to_dialer), ProtocolVersion::V2);
                }
                Err(_) => acceptor = None,
                Ok(Accepting::More) => {}
            }
        }
        for bytes in std::mem::take(&mut to_dialer).chunks(piece) {
            dialed = dialer.receive(&mut &bytes[..], &mut to_acceptor);
            if dialed.is_err() {
                break;
            }
        }
        if dialed.is_err() {
            break;
        }
    }
    (dialed, accepted)
}

#[test]
fn both_ends_agree_when_they_know_the_key() {
    for piece in [1, 7, 1000] {
        let (dialed, accepted) = greet(key("k"), key("k"), NodeId(2), piece);
        assert_eq!(dialed, Ok(Dialing::Greeted(ProtocolVersion::V2)));
        assert_eq!(accepted, Ok(Accepting::Called(call())));
    }
}

#[test]
fn another_key_is_found_out_by_the_dialer_first() {
    let (dialed, accepted) = greet(key("k"), key("other"), NodeId(2), 1000);
    assert_eq!((dialed, accepted), (Err(Greet::BadProof), Ok(Accepting::More)));
}

#[test]
fn a_dialer_without_the_key_is_refused() {
    let (mut out, mut answer) = (Vec::new(), Vec::new());
    let mut acceptor = Acceptor::new(key("k"), NodeId(2), [2; 32]);
    let _dialer = Dialer::dial(key("k"), &call(), &[1; 32], &mut out);
    assert_eq!(acceptor.receive(&mut &out[..], &mut answer), Ok(Accepting::More));
    // The acceptor's own proof, sent back, is not the dialer's: proofs are bound to the role.
    let reflected = answer[CHALLENGE_HEAD_BYTES..].to_vec();
    answer.clear();
    assert_eq!(acceptor.receive(&mut &reflected[..], &mut answer), Err(Greet::BadProof));
    assert_eq!(answer, verdict(Some(Refused::Key)));
}

#[test]
fn a_recorded_proof_is_worth_nothing_later() {
    let mut first = (Vec::new(), Vec::new(), Vec::new());
    let mut dialer = Dialer::dial(key("k"), &call(), &[1; 32], &mut first.0);
    Acceptor::new(key("k"), NodeId(2), [2; 32]).receive(&mut &first.0[..], &mut first.1).expect("call is right");
    dialer.receive(&mut &first.1[..], &mut first.2).expect("challenge is right");
    let mut replayed = Acceptor::new(key("k"), NodeId(2), [3; 32]);
    let mut answer = Vec::new();
    replayed.receive(&mut &first.0[..], &mut answer).expect("call is right");
    assert_eq!(replayed.receive(&mut &first.2[..], &mut answer), Err(Greet::BadProof));
}

#[test]
fn a_call_for_another_node_is_refused_after_the_proof() {
    let (dialed, accepted) = greet(key("k"), key("k"), NodeId(3), 1000);
    assert_eq!(dialed, Err(Greet::RefusedThere(Refused::WrongNode)));
    assert_eq!(accepted, Err(Greet::RefusedHere(Refused::WrongNode)));
}

#[test]
fn a_peer_of_another_version_is_refused_with_the_reason() {
    let mut bytes = call().encode(VersionRange { oldest: 9, newest: 12 }, &[1; 32]);
    let mut answer = Vec::new();
    let mut acceptor = Acceptor::new(key("k"), NodeId(2), [2; 32]);
    assert_eq!(acceptor.receive(&mut &bytes[..], &mut answer), Err(Greet::RefusedHere(Refused::Version)));
    let mut dialer = Dialer::dial(key("k"), &call(), &[1; 32], &mut Vec::new());
    assert_eq!(dialer.receive(&mut &answer[..], &mut Vec::new()), Err(Greet::RefusedThere(Refused::Version)));

    // Whoever speaks newer ones too is spoken to in the newest that is common.
    bytes = call().encode(VersionRange { oldest: 1, newest: 12 }, &[1; 32]);
    let mut acceptor = Acceptor::new(key("k"), NodeId(2), [2; 32]);
    assert_eq!(acceptor.receive(&mut &bytes[..], &mut Vec::new()), Ok(Accepting::More));
}

#[test]
fn bytes_after_the_greeting_are_left_to_frames() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut dialer = Dialer::dial(key("k"), &call(), &[1; 32], &mut a);
    let mut acceptor = Acceptor::new(key("k"), NodeId(2), [2; 32]);
    acceptor.receive(&mut &a[..], &mut b).expect("call is right");
    a.clear();
    dialer.receive(&mut &b[..], &mut a).expect("challenge is right");
    b.clear();
    acceptor.receive(&mut &a[..], &mut b).expect("proof is right");
    acceptor.accept(&mut b);
    b.extend_from_slice(b"frames");
    let mut input = &b[..];
    assert_eq!(dialer.receive(&mut input, &mut a), Ok(Dialing::Greeted(ProtocolVersion::V2)));
    assert_eq!(input, b"frames");
}

proptest! {
    #[test]
    fn hostile_bytes_never_pass_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut out = Vec::new();
        let mut dialer = Dialer::dial(key("k"), &call(), &[1; 32], &mut out);
        prop_assert_ne!(dialer.receive(&mut &bytes[..], &mut out), Ok(Dialing::Greeted(ProtocolVersion::V2)));
        let mut acceptor = Acceptor::new(key("k"), NodeId(2), [2; 32]);
        prop_assert!(!matches!(acceptor.receive(&mut &bytes[..], &mut out), Ok(Accepting::Called(_))));
    }

    #[test]
    fn any_flipped_bit_of_a_greeting_is_found(at in 0usize..CALL_BYTES * 8) {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let mut dialer = Dialer::dial(key("k"), &call(), &[1; 32], &mut a);
        a[at / 8] ^= 1 << (at % 8);
        let mut acceptor = Acceptor::new(key("k"), NodeId(2), [2; 32]);
        if acceptor.receive(&mut &a[..], &mut b).is_ok() {
            prop_assert!(dialer.receive(&mut &b[..], &mut Vec::new()).is_err());
        }
    }
}
