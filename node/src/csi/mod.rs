//! The CSI node port: volumes attached, mounted and shown to pods on this host.
//!
//! ```text
//! stage      record -> attach -> name the device -> record -> (mkfs | fsck) -> mount -> grow
//! publish    record -> make the target -> (loop device for reading only) -> bind -> protect
//! unpublish  unbind -> (loop device) -> remove the target
//! unstage    unmount -> detach -> remove the device's name -> remove the record
//! ```
//!
//! Every step looks first whether it is done already, so that a call may be repeated after this process was killed anywhere. What is
//! mounted counts only if its device is the one that the volume has *now* and answers: `stale` says when it does not, and what then.

pub mod agent_attach;
pub mod attach_port;
mod expansion;
mod health;
mod mounting;
mod publishing;
mod record;
mod serve;
mod staging;
mod stale;
pub mod step;
mod unmounting;
mod unpublishing;
mod unstaging;
mod usage;
pub mod users;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use lockstep_api::names::{TOPOLOGY_DRIVER, TOPOLOGY_NODE};
use lockstep_csi::health::{StorageHealth, VolumeHealth};
use lockstep_csi::node_port::{
    DescribeError, ExpandError, ExpandOnNode, HealthError, HealthQuery, NodeDescription, NodePort, PublishError,
    PublishVolume, StageError, StageVolume, UnpublishError, UnpublishVolume, UnstageError, UnstageVolume, Usage,
    UsageError, VolumeAt,
};
use lockstep_csi::readiness::Readiness;
use lockstep_csi::topology::Topology;
use lockstep_csi::volume::VolumeId;

pub use serve::{KubeletDir, ServePluginError, serve};

use attach_port::Attach;
use step::StepWatch;
use users::Users;

/// How many volumes a node can have staged at once. Each has a loop device, of which there may be any number, and memory of the engine for
/// the data of requests under way: 24 MiB at most, so that 128 volumes under full load are 3 GiB.
pub const VOLUMES_MAX: u32 = 128;

/// Where the node port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node's name: its id for CSI, at most 192 bytes.
    pub node: String,
    /// Where the volumes' devices get names. Nobody else's names may be there, and the path must be another on every node of a machine that
    /// carries several: loop devices over these names are taken for this node's own. The file system must allow device nodes.
    pub device_dir: PathBuf,
}

/// The node port over whoever attaches volumes.
#[derive(Debug)]
pub struct CsiNode<A> {
    attach: A,
    place: Place,
    steps: StepWatch,
    users: Option<Users>,
}

impl<A: Attach> CsiNode<A> {
    /// The port at `place`.
    pub fn new(attach: A, place: Place) -> Self {
        Self { attach, place, steps: StepWatch::default(), users: None }
    }

    /// The same, and it is written down for whom volumes are published.
    #[must_use]
    pub fn with_users(self, users: Users) -> Self {
        Self { users: Some(users), ..self }
    }

    /// The same, and `steps` is told of every step.
    #[must_use]
    pub fn with_steps(self, steps: StepWatch) -> Self {
        Self { steps, ..self }
    }

    /// The name of a volume's device.
    fn device_path(&self, volume: &VolumeId) -> PathBuf {
        self.place.device_dir.join(volume.as_str())
    }
}

impl<A: Attach> NodePort for CsiNode<A> {
    async fn readiness(&self) -> Readiness {
        self.attach.readiness().await
    }

    async fn describe(&self) -> Result<NodeDescription, DescribeError> {
        let segments = [(TOPOLOGY_DRIVER, "true"), (TOPOLOGY_NODE, self.place.node.as_str())];
        let segments: BTreeMap<String, String> =
            segments.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        Ok(NodeDescription {
            node_id: self.place.node.clone(),
            volumes_max: Some(VOLUMES_MAX),
            topology: Topology { segments },
        })
    }

    async fn stage_volume(&self, request: StageVolume, within: Duration) -> Result<(), StageError> {
        self.stage(&request, within).await
    }

    async fn unstage_volume(&self, request: UnstageVolume, within: Duration) -> Result<(), UnstageError> {
        self.unstage(&request, within).await
    }

    async fn publish_volume(&self, request: PublishVolume, within: Duration) -> Result<(), PublishError> {
        self.publish(&request, within).await
    }

    async fn unpublish_volume(&self, request: UnpublishVolume, _within: Duration) -> Result<(), UnpublishError> {
        self.unpublish(&request).await
    }

    async fn usage(&self, at: VolumeAt) -> Result<Usage, UsageError> {
        self.observe_usage(&at).await
    }

    async fn expand_volume(&self, request: ExpandOnNode, within: Duration) -> Result<u64, ExpandError> {
        self.expand(&request, within).await
    }

    async fn volume_health(&self, query: HealthQuery) -> Result<Vec<VolumeHealth>, HealthError> {
        self.observe_volume_health(&query).await
    }

    async fn storage_health(&self) -> Result<Vec<StorageHealth>, HealthError> {
        self.observe_storage_health().await
    }
}
