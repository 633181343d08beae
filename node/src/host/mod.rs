//! The node's operating system: mounts, loop devices, device nodes, locks. Every change looks first and is idempotent.

pub mod addresses;
pub mod block_device;
pub mod block_probe;
pub mod bounded_tool;
pub mod device_node;
pub mod durable;
pub mod filesystem;
pub mod fuse;
pub mod lock;
pub mod loops;
pub mod mounts;
pub mod tool;
