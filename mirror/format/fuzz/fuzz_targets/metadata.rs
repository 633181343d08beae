//! Metadata: two areas as they are, then a snapshot and a batch with checksums that are right. Whatever is loaded can be
//! written and loaded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_core::{NodeId, VolumeId};
use lockstep_format::disk::{ALIGN, Owner, load};
use lockstep_format::{crc32c, crc32c_append};

const OWNER: Owner = Owner { volume: VolumeId([0xab; 16]), node: NodeId(1) };

fuzz_target!(|bytes: &[u8]| {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let _ = load(OWNER, [first, second]);

    // The first two bytes cut the rest into a snapshot and the updates of a batch.
    let Some((cut, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (snapshot, updates) = rest.split_at(usize::from(u16::from_le_bytes(*cut)).min(rest.len()));
    let mut area = area(snapshot, if bytes.len().is_multiple_of(2) { 1 } else { 2 });
    batch(updates, &mut area);
    if let Ok(journal) = load(OWNER, [&area, &[]]) {
        let wanted = journal.meta().clone();
        let (mut journal, mut bytes) = (journal.with_log_bytes(0), Vec::new());
        // The log may be shorter than the snapshot: commits until the other area's turn has come.
        let snapshot = loop {
            bytes.clear();
            if let Some(snapshot) = journal.commit(&[], &mut bytes).snapshot {
                break snapshot;
            }
        };
        let again = load(OWNER, [&bytes[..snapshot.bytes], &[]]).expect("what was loaded can be kept");
        assert_eq!(*again.meta(), wanted);
    }
});

/// An area as `docs/disk-format.md` says, with any content for a snapshot.
fn area(snapshot: &[u8], version: u8) -> Vec<u8> {
    let mut content = snapshot.to_vec();
    content.resize(content.len().next_multiple_of(ALIGN), 0);
    let mut bytes = b"LKSA".to_vec();
    bytes.extend_from_slice(&[version, 0, 0, 0]);
    bytes.extend_from_slice(&OWNER.volume.0);
    bytes.extend_from_slice(&OWNER.node.0.to_le_bytes());
    bytes.extend_from_slice(&crc32c(&content).to_le_bytes());
    bytes.extend_from_slice(&0u64.to_le_bytes());
    bytes.extend_from_slice(&(snapshot.len() as u64).to_le_bytes());
    bytes.resize(ALIGN - 4, 0);
    bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
    bytes.extend_from_slice(&content);
    bytes
}

/// Appends a batch with any content for updates; the first byte says how many they are.
fn batch(updates: &[u8], out: &mut Vec<u8>) {
    let Some((count, updates)) = updates.split_first() else { return };
    let mut content = updates.to_vec();
    content.resize((32 + updates.len()).next_multiple_of(ALIGN) - 32, 0);
    let mut head = 1u64.to_le_bytes().to_vec();
    head.extend_from_slice(&u32::try_from(updates.len()).expect("small").to_le_bytes());
    head.extend_from_slice(&u32::from(*count).to_le_bytes());
    head.extend_from_slice(&crc32c(&content).to_le_bytes());
    head.extend_from_slice(&0u32.to_le_bytes());
    let seed = crc32c_append(crc32c(&OWNER.volume.0), &OWNER.node.0.to_le_bytes());
    out.extend_from_slice(b"LKSB");
    out.extend_from_slice(&crc32c_append(seed, &head).to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(&content);
}
