//! Memory that O_DIRECT takes.

use super::BLOCK_BYTES;

/// Zeroed bytes that begin at a multiple of the block size.
///
/// The vector behind is one block longer than asked for, and the slice begins at the first aligned byte in it.
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    offset: usize,
    length: usize,
}

impl AlignedBuffer {
    /// A buffer of this many bytes.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + BLOCK_BYTES];
        let offset = bytes.as_ptr().align_offset(BLOCK_BYTES);
        assert!(offset < BLOCK_BYTES, "the allocation has one block to spare for alignment");
        AlignedBuffer { bytes, offset, length }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.offset..self.offset + self.length]
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.offset..self.offset + self.length]
    }

    /// The first bytes of it.
    pub fn prefix(&self, length: usize) -> &[u8] {
        &self.bytes()[..length]
    }

    /// The first bytes of it, to be changed.
    pub fn prefix_mut(&mut self, length: usize) -> &mut [u8] {
        &mut self.bytes_mut()[..length]
    }
}

#[cfg(test)]
mod tests {
    use super::{AlignedBuffer, BLOCK_BYTES};

    #[test]
    fn begins_at_a_block() {
        for length in [BLOCK_BYTES, 16 * BLOCK_BYTES] {
            let mut buffer = AlignedBuffer::new(length);
            assert_eq!(buffer.bytes().as_ptr() as usize % BLOCK_BYTES, 0);
            assert_eq!(buffer.bytes_mut().len(), length);
        }
    }
}
