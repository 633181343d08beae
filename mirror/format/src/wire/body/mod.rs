//! Bodies of the messages, in the order of their fields; `docs/protocol.md` has the table.

mod decode;
mod encode;

pub(super) use decode::decode;
pub(super) use encode::encode;
