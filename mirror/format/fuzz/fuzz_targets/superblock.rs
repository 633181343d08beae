//! Superblocks: as they are, and with a checksum that is right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_format::crc32c;
use lockstep_format::disk::{ALIGN, Superblock};

fuzz_target!(|bytes: &[u8]| {
    let _ = Superblock::decode(bytes);
    let mut block = [0; ALIGN];
    let len = bytes.len().min(ALIGN - 4);
    block[..len].copy_from_slice(&bytes[..len]);
    let crc = crc32c(&block[..ALIGN - 4]);
    block[ALIGN - 4..].copy_from_slice(&crc.to_le_bytes());
    if let Ok(superblock) = Superblock::decode(&block) {
        assert_eq!(superblock.encode(), block);
    }
});
