//! Fixed newstyle negotiation, as a state machine over bytes.
//!
//! ```text
//! ClientFlags -> Options -> (EXPORT_NAME | GO) Transmission
//!                        -> (ABORT | nonsense) Closed
//! ```

use super::abi::{self, info, option, option_reply, transmission};

/// Longest data of an option that is looked at. A name has at most 4096 bytes; a client that claims more than this is
/// not talked to any longer.
const OPTION_BYTES_MAX: usize = 8 << 10;
const OPTION_HEAD_BYTES: usize = 16;
const NAME_BYTES_MAX: usize = 4096;

/// What is exported, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Export {
    pub name: String,
    pub size_bytes: u64,
    pub read_only: bool,
    pub multi_conn: bool,
    /// Largest request.
    pub max_io_bytes: u32,
}

/// Where the negotiation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    ClientFlags,
    Options,
    /// Requests may come.
    Transmission,
    /// Send what is queued, then close.
    Closed,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Handshake {
    phase: Phase,
    no_zeroes: bool,
    structured: bool,
}

/// What the server says first.
pub(super) fn greeting() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(18);
    bytes.extend(abi::GREETING_MAGIC.to_be_bytes());
    bytes.extend(abi::OPTION_MAGIC.to_be_bytes());
    bytes.extend((abi::FLAG_FIXED_NEWSTYLE | abi::FLAG_NO_ZEROES).to_be_bytes());
    bytes
}

impl Handshake {
    pub(super) fn new() -> Handshake {
        Handshake { phase: Phase::ClientFlags, no_zeroes: false, structured: false }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether reads are answered in chunks.
    pub(super) fn is_structured(&self) -> bool {
        self.structured
    }

    /// Takes as many whole messages as `input` begins with; answers go to `output`. Returns the bytes used up. To be
    /// called again with the rest and more, until the phase is `Transmission` or `Closed`.
    pub(super) fn on_bytes(&mut self, input: &[u8], export: &Export, output: &mut Vec<u8>) -> usize {
        let mut used = 0;
        loop {
            let step = match self.phase {
                Phase::ClientFlags => self.on_client_flags(&input[used..]),
                Phase::Options => self.on_option(&input[used..], export, output),
                Phase::Transmission | Phase::Closed => return used,
            };
            match step {
                Some(len) => used += len,
                None => return used,
            }
        }
    }

    fn on_client_flags(&mut self, input: &[u8]) -> Option<usize> {
        let flags = u32::from_be_bytes(input.get(..4)?.try_into().ok()?);
        let known = u32::from(abi::FLAG_FIXED_NEWSTYLE | abi::FLAG_NO_ZEROES);
        // An unknown flag has to end the session; a client without fixed newstyle cannot be answered.
        let fixed = flags & u32::from(abi::FLAG_FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(abi::FLAG_NO_ZEROES) != 0;
        self.phase = if fixed && flags & !known == 0 { Phase::Options } else { Phase::Closed };
        Some(4)
    }

    fn on_option(&mut self, input: &[u8], export: &Export, output: &mut Vec<u8>) -> Option<usize> {
        let head = input.get(..OPTION_HEAD_BYTES)?;
        let magic = u64::from_be_bytes(head[..8].try_into().ok()?);
        let code = u32::from_be_bytes(head[8..12].try_into().ok()?);
        let len = u32::from_be_bytes(head[12..16].try_into().ok()?) as usize;
        if magic != abi::OPTION_MAGIC || len > OPTION_BYTES_MAX {
            self.phase = Phase::Closed;
            return Some(OPTION_HEAD_BYTES);
        }
        let data = input.get(OPTION_HEAD_BYTES..OPTION_HEAD_BYTES + len)?;
        self.answer_option(code, data, export, output);
        Some(OPTION_HEAD_BYTES + len)
    }

    fn answer_option(&mut self, code: u32, data: &[u8], export: &Export, output: &mut Vec<u8>) {
        match code {
            option::EXPORT_NAME => self.on_export_name(data, export, output),
            option::ABORT => {
                push_reply(output, code, option_reply::ACK, &[]);
                self.phase = Phase::Closed;
            }
            option::LIST if data.is_empty() => {
                let mut server = Vec::new();
                server.extend(be_len(export.name.len()));
                server.extend(export.name.as_bytes());
                push_reply(output, code, option_reply::SERVER, &server);
                push_reply(output, code, option_reply::ACK, &[]);
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                push_reply(output, code, option_reply::ACK, &[]);
            }
            option::LIST | option::STRUCTURED_REPLY => push_reply(output, code, option_reply::ERR_INVALID, &[]),
            option::INFO | option::GO => self.on_go(code, data, export, output),
            _ => push_reply(output, code, option_reply::ERR_UNSUPPORTED, &[]),
        }
    }

    /// The old way in: there is no error reply, an unknown name ends the session.
    fn on_export_name(&mut self, data: &[u8], export: &Export, output: &mut Vec<u8>) {
        if !is_name_of(data, export) {
            self.phase = Phase::Closed;
            return;
        }
        output.extend(export.size_bytes.to_be_bytes());
        output.extend(self.transmission_flags(export).to_be_bytes());
        if !self.no_zeroes {
            output.extend([0; 124]);
        }
        self.phase = Phase::Transmission;
    }

    fn on_go(&mut self, code: u32, data: &[u8], export: &Export, output: &mut Vec<u8>) {
        let Some((name, wanted)) = parse_go(data) else {
            return push_reply(output, code, option_reply::ERR_INVALID, &[]);
        };
        if !is_name_of(name, export) {
            return push_reply(output, code, option_reply::ERR_UNKNOWN, &[]);
        }
        let mut export_info = info::EXPORT.to_be_bytes().to_vec();
        export_info.extend(export.size_bytes.to_be_bytes());
        export_info.extend(self.transmission_flags(export).to_be_bytes());
        push_reply(output, code, option_reply::INFO, &export_info);
        if wanted.chunks_exact(2).any(|kind| kind == info::NAME.to_be_bytes()) {
            let mut name_info = info::NAME.to_be_bytes().to_vec();
            name_info.extend(export.name.as_bytes());
            push_reply(output, code, option_reply::INFO, &name_info);
        }
        // Sent whether asked for or not: whoever understands it saves himself requests that are refused.
        let mut size_info = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [4096, 4096, export.max_io_bytes] {
            size_info.extend(size.to_be_bytes());
        }
        push_reply(output, code, option_reply::INFO, &size_info);
        push_reply(output, code, option_reply::ACK, &[]);
        if code == option::GO {
            self.phase = Phase::Transmission;
        }
    }

    fn transmission_flags(&self, export: &Export) -> u16 {
        let mut flags = transmission::HAS_FLAGS | transmission::SEND_FLUSH | transmission::SEND_FUA;
        flags |= transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES;
        if export.read_only {
            flags |= transmission::READ_ONLY;
        }
        if export.multi_conn {
            flags |= transmission::CAN_MULTI_CONN;
        }
        if self.structured {
            flags |= transmission::SEND_DF;
        }
        flags
    }
}

/// The empty name is the default export.
fn is_name_of(name: &[u8], export: &Export) -> bool {
    name.is_empty() || name == export.name.as_bytes()
}

/// Name and list of wanted informations of INFO and GO.
fn parse_go(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let name_len = u32::from_be_bytes(data.get(..4)?.try_into().ok()?) as usize;
    if name_len > NAME_BYTES_MAX {
        return None;
    }
    let name = data.get(4..4 + name_len)?;
    let rest = &data[4 + name_len..];
    let count = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
    let wanted = &rest[2..];
    (wanted.len() == 2 * count).then_some((name, wanted))
}

fn be_len(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("names and replies are short").to_be_bytes()
}

fn push_reply(output: &mut Vec<u8>, code: u32, kind: u32, data: &[u8]) {
    output.extend(abi::OPTION_REPLY_MAGIC.to_be_bytes());
    output.extend(code.to_be_bytes());
    output.extend(kind.to_be_bytes());
    output.extend(be_len(data.len()));
    output.extend(data);
}
