//! Bytes to core types and back: the wire protocol and the disk format of Lockstep.
