//! Generated protocol buffers of Lockstep and nothing else.

/// The control protocol of one node: services `Node`, `Engine` and `Peer`.
pub mod node {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("lockstep.node.v1");
    }
}
