//! Signatures of things that must not be written over, put on a device byte by byte where no program for it may be installed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Logical blocks of our devices, in which partition tables count.
const BLOCK: usize = 4096;

fn put(device: &Path, bytes: &[u8], offset: u64) {
    let file = File::options().write(true).open(device).expect("there");
    file.write_all_at(bytes, offset).expect("writable");
    file.sync_all().expect("durable");
}

/// CRC-32 of IEEE 802.3, reflected, without the final inversion.
fn crc32(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
        crc
    })
}

/// A physical volume of LVM2, as libblkid recognises it: its label in the second sector, with a checksum.
pub fn lvm_label(device: &Path) {
    let mut sector = [0_u8; 512];
    sector[..8].copy_from_slice(b"LABELONE");
    sector[8..16].copy_from_slice(&1_u64.to_le_bytes());
    sector[20..24].copy_from_slice(&32_u32.to_le_bytes());
    sector[24..32].copy_from_slice(b"LVM2 001");
    sector[32..64].copy_from_slice(&[b'a'; 32]);
    let crc = crc32(0xf597_a6cf, &sector[20..]);
    sector[16..20].copy_from_slice(&crc.to_le_bytes());
    put(device, &sector, 512);
}

fn master_boot_record(kind: u8, first: u32, count: u32) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[446 + 4] = kind;
    sector[446 + 8..446 + 12].copy_from_slice(&first.to_le_bytes());
    sector[446 + 12..446 + 16].copy_from_slice(&count.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A partition table of one partition, as old as DOS.
pub fn dos_table(device: &Path) {
    put(device, &master_boot_record(0x83, 256, 10_000), 0);
}

/// A GUID partition table (UEFI specification, 5.3) without partitions.
pub fn gpt_table(device: &Path) {
    let mut end = File::open(device).expect("there");
    let bytes = std::io::Seek::seek(&mut end, std::io::SeekFrom::End(0)).expect("it has an end");
    let blocks = bytes / BLOCK as u64;
    put(device, &master_boot_record(0xee, 1, u32::MAX), 0);
    let entries = vec![0_u8; 128 * 128];
    let mut header = [0_u8; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..12].copy_from_slice(&0x0001_0000_u32.to_le_bytes());
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[24..32].copy_from_slice(&1_u64.to_le_bytes());
    header[32..40].copy_from_slice(&(blocks - 1).to_le_bytes());
    header[40..48].copy_from_slice(&6_u64.to_le_bytes());
    header[48..56].copy_from_slice(&(blocks - 6).to_le_bytes());
    header[56..72].copy_from_slice(&[7; 16]);
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&128_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&(!crc32(u32::MAX, &entries)).to_le_bytes());
    let crc = !crc32(u32::MAX, &header);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    put(device, &entries, 2 * BLOCK as u64);
    put(device, &header, BLOCK as u64);
}
