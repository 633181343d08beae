//! What the cases run against.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_proto::csi::v1 as proto;
use proto::controller_client::ControllerClient;
use proto::identity_client::IdentityClient;
use proto::node_client::NodeClient;
use tonic::transport::Channel;

/// A running plugin, and what of it a case has to know.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where Controller and Identity are served.
    pub controller: Channel,
    /// Where Node and Identity are served: often the same.
    pub node: Channel,
    /// An empty directory, seen by plugin and cases under the same path, for staging and target paths.
    pub directory: PathBuf,
    /// Parameters with which volumes are made.
    pub parameters: BTreeMap<String, String>,
    /// Other parameters, as good, with which a volume is another one.
    pub other_parameters: BTreeMap<String, String>,
    /// A mutable parameter, with a value that a new volume does not have and can be given.
    pub mutable_parameter: (String, String),
    /// More bytes than all pools have together, and less than any volume's limit.
    pub no_room_bytes: i64,
    /// Name of the driver that the plugin has to be.
    pub driver: String,
}

impl Target {
    /// A client of the Controller service.
    #[must_use]
    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.controller.clone())
    }

    /// A client of the Node service.
    #[must_use]
    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.node.clone())
    }

    /// A client of each Identity service.
    #[must_use]
    pub fn identities(&self) -> [IdentityClient<Channel>; 2] {
        [IdentityClient::new(self.controller.clone()), IdentityClient::new(self.node.clone())]
    }

    /// A name that no other volume has, of this run or another.
    #[must_use]
    pub fn unique(&self, what: &str) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        format!("{what}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
    }

    /// A path below the target's directory.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join(name)
    }
}
