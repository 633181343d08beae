//! The node's operating system: mounts, loop devices, device nodes, locks. Every change looks first and is idempotent.

pub mod addresses;
pub mod device_node;
pub mod lock;
pub mod loops;
pub mod mounts;
pub mod tool;
