//! Little-endian numbers and counted lists over a slice or a vector.

use thiserror::Error;

/// Why bytes are not the value that they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DecodeValue {
    /// The bytes end within the value.
    #[error("the bytes end within a value")]
    Truncated,
    /// Bytes follow the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// A choice that does not exist.
    #[error("{what}: there is no choice {tag}")]
    UnknownTag {
        /// The field.
        what: &'static str,
        /// What was there.
        tag: u8,
    },
    /// A range that is empty, backwards, or beyond every volume.
    #[error("{start}..{end} is not a range of blocks")]
    BadRange {
        /// First block.
        start: u64,
        /// One past the last.
        end: u64,
    },
    /// Keys that do not rise: each value has one encoding.
    #[error("{0}: keys do not rise")]
    NotRising(&'static str),
    /// A number out of its bounds.
    #[error("{0}: out of bounds")]
    OutOfBounds(&'static str),
    /// A configuration that no volume can have.
    #[error("configuration: {0}")]
    BadConfig(&'static str),
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    BadText,
}

/// How a configuration is laid out, wherever one is kept or sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Layout {
    /// As it was first: all replicas are those that the volume was created with.
    Original,
    /// With the epochs in which replicas were added.
    #[default]
    Added,
}

/// Takes values off the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    layout: Layout,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, layout: Layout::Added }
    }

    /// Configurations in it are laid out like this.
    #[must_use]
    pub const fn laid_out(self, layout: Layout) -> Reader<'a> {
        Reader { layout, ..self }
    }

    /// How configurations in it are laid out.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// If fewer are left; the same holds for every other method.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeValue> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeValue::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next `len` bytes.
    pub fn slice(&mut self, len: usize) -> Result<&'a [u8], DecodeValue> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeValue::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, DecodeValue> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, DecodeValue> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, DecodeValue> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, DecodeValue> {
        self.array().map(u64::from_le_bytes)
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeValue> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeValue::UnknownTag { what, tag }),
        }
    }

    /// The number of items of a list. It is checked against the bytes that are there, so that memory for the list is
    /// never taken on the claim alone.
    pub fn count(&mut self, item_bytes_min: usize) -> Result<usize, DecodeValue> {
        let count = usize::try_from(self.u32()?).map_err(|_| DecodeValue::Truncated)?;
        match count.checked_mul(item_bytes_min) {
            Some(bytes) if bytes <= self.remaining() => Ok(count),
            _ => Err(DecodeValue::Truncated),
        }
    }

    /// A counted list.
    pub fn list<T>(
        &mut self,
        item_bytes_min: usize,
        mut item: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeValue>,
    ) -> Result<Vec<T>, DecodeValue> {
        let count = self.count(item_bytes_min)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Ends the reading: nothing may be left.
    pub fn finish(self) -> Result<(), DecodeValue> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeValue::Trailing(self.rest.len())) }
    }
}

/// Appends values to a vector that the caller keeps, so that a warm one is never allocated anew.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    layout: Layout,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        Writer { out, layout: Layout::Added }
    }

    /// Configurations in it are to be laid out like this.
    #[must_use]
    pub const fn laid_out(self, layout: Layout) -> Writer<'a> {
        Writer { layout, ..self }
    }

    /// How configurations in it are laid out.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A byte.
    pub fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// The number of items of a list.
    pub fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("a list in memory has fewer than 2^32 items"));
    }

    /// A counted list.
    pub fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Writer<'_>, &T)) {
        self.count(items.len());
        for each in items {
            item(self, each);
        }
    }
}
