//! What a block holds in the simulation: a number per sector instead of bytes.

use lockstep_core::Digest;

/// Sectors of 512 bytes in a block: what a power loss tears at.
pub const SECTORS: usize = 8;

/// Content of one block: one number per sector. All equal unless torn; zero is zeroes.
pub type Block = [u64; SECTORS];

/// Zeroes.
pub const ZERO: Block = [0; SECTORS];

/// Blocks of the largest simulated volume: the block's number is part of what a write leaves there.
pub const BLOCKS_MAX: u64 = 1 << 16;

/// What a write with this number leaves in this block: different for every write and block.
#[must_use]
pub fn stamped(write: u64, block: u64) -> Block {
    [write * BLOCKS_MAX + block; SECTORS]
}

/// The number of the write that left this sector, 0 for zeroes.
#[must_use]
pub fn write_of(sector: u64) -> u64 {
    sector / BLOCKS_MAX
}

/// True if all sectors come from the same write.
#[must_use]
pub fn is_whole(block: &Block) -> bool {
    block.iter().all(|sector| sector == &block[0])
}

/// A digest that differs where contents differ.
#[must_use]
pub fn digest(block: &Block) -> Digest {
    let mut halves = [0xcbf2_9ce4_8422_2325u64, 0x9ae1_6a3b_2f90_404f];
    for sector in block {
        for half in &mut halves {
            *half = (*half ^ sector).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
        halves[1] = halves[1].wrapping_add(halves[0]);
    }
    let mut digest = [0; 16];
    digest[..8].copy_from_slice(&halves[0].to_le_bytes());
    digest[8..].copy_from_slice(&halves[1].to_le_bytes());
    Digest(digest)
}
