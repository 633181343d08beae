//! `user_data` of ring entries: who a completion belongs to.
//!
//! ```text
//! 63      56 55           32 31             0
//! | source  |    index      |     detail     |
//! ```
//!
//! The upper half names a source of the event loop and one of its objects (a link, a front end, a volume); the lower
//! half belongs to that object. A front end is given its upper half and chooses lower halves itself.

/// What kind of object an entry was submitted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Source {
    /// Nobody looks at the completion: cancellations, closes.
    Nobody = 0,
    /// The eventfd by which other threads wake the loop.
    Wake = 1,
    /// A listening socket. Index: listener.
    Listener = 2,
    /// A connection whose greeting is not finished. Index: slot; detail: generation.
    Greeting = 3,
    /// Bytes received on a link. Index: slot; detail: generation.
    LinkReceive = 4,
    /// Bytes sent on a link. Index: slot; detail: generation.
    LinkSend = 5,
    /// A disk operation. Index: volume; detail: slot of the operation.
    Disk = 6,
    /// A metadata write. Index: volume.
    Meta = 7,
    /// A front end. Index: front end; detail: its own.
    Front = 8,
}

impl Source {
    fn from_byte(byte: u8) -> Source {
        match byte {
            1 => Source::Wake,
            2 => Source::Listener,
            3 => Source::Greeting,
            4 => Source::LinkReceive,
            5 => Source::LinkSend,
            6 => Source::Disk,
            7 => Source::Meta,
            8 => Source::Front,
            _ => Source::Nobody,
        }
    }
}

/// One `user_data`, taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token {
    pub(crate) source: Source,
    pub(crate) index: u32,
    pub(crate) detail: u32,
}

impl Token {
    /// Objects of one source are numbered below this.
    pub(crate) const INDEX_END: u32 = 1 << 24;

    /// Of an entry whose completion nobody waits for.
    pub(crate) const NOBODY: Token = Token { source: Source::Nobody, index: 0, detail: 0 };

    pub(crate) fn new(source: Source, index: u32, detail: u32) -> Token {
        assert!(index < Token::INDEX_END, "index {index} of {source:?} does not fit 24 bits");
        Token { source, index, detail }
    }

    /// Bits 32..64: what a front end is given to build its own entries on.
    pub(crate) fn upper(self) -> u32 {
        u32::from(self.source as u8) << 24 | self.index
    }

    pub(crate) fn encode(self) -> u64 {
        u64::from(self.upper()) << 32 | u64::from(self.detail)
    }

    pub(crate) fn decode(user_data: u64) -> Token {
        let [source, a, b, c, d, e, f, g] = user_data.to_be_bytes();
        Token {
            source: Source::from_byte(source),
            index: u32::from_be_bytes([0, a, b, c]),
            detail: u32::from_be_bytes([d, e, f, g]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, Token};

    #[test]
    fn a_token_survives_user_data() {
        let token = Token::new(Source::Front, 0x00ab_cdef, 0x1234_5678);
        assert_eq!(Token::decode(token.encode()), token);
        assert_eq!(token.encode() >> 32, u64::from(token.upper()));
    }
}
