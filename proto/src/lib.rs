//! Generated protocol buffers of Lockstep and nothing else.

/// The control protocol of one node: services `Node`, `Engine` and `Peer`.
pub mod node {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("lockstep.node.v1");
    }
}

/// The Container Storage Interface: services `Identity`, `Controller`, `Node`, `GroupController` and `SnapshotMetadata`. Messages
/// that hold secrets have no `Debug`.
pub mod csi {
    /// Version 1.13 of the specification.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// How a plugin registers with kubelet: service `Registration`.
pub mod pluginregistration {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("pluginregistration");
    }
}
