//! The CSI node port of one node of a playground: real engines, real devices, real mounts.
#![allow(clippy::panic, reason = "tests fail by panicking; this module has none of the attributes that say so")]
// Each test program uses a part of it.
#![allow(dead_code)]

pub mod signatures;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lockstep_csi::capability::{Access, AccessMode, Capability, Filesystem, Mount, MountFlags};
use lockstep_csi::node_port::{
    ExpandError, ExpandOnNode, NodePort as _, PublishError, PublishVolume, StageError, StageVolume, UnpublishError,
    UnpublishVolume, UnstageError, UnstageVolume, Usage, UsageError, VolumeAt,
};
use lockstep_csi::path::AbsolutePath;
use lockstep_csi::volume::VolumeId;
use lockstep_node::csi::agent_attach::AgentAttach;
use lockstep_node::csi::step::StepWatch;
use lockstep_node::csi::{CsiNode, Place};
use lockstep_node::host::{loops, mounts};
use lockstep_node::state_dir::StateDir;

use crate::common::Ground;

/// What kubelet gives an operation.
pub const WITHIN: Duration = Duration::from_secs(50);

/// The port of one node, and the directories that kubelet would have there.
pub struct Host {
    runtime: tokio::runtime::Runtime,
    pub port: CsiNode<AgentAttach>,
    pub dir: PathBuf,
    pub device_dir: PathBuf,
}

impl Host {
    /// The port of a node of the playground, as if its program had just been started.
    pub fn of(ground: &Ground, node: &str) -> Self {
        Self::at(&ground.node_dir(node), &ground.beside(&format!("kubelet-{node}")), node)
    }

    /// The port of the node whose state directory this is, with kubelet's directory.
    pub fn at(state: &Path, dir: &Path, node: &str) -> Self {
        Self::watched(state, dir, node, StepWatch::default())
    }

    /// The same, and `watch` is told of every step.
    pub fn watched(state: &Path, dir: &Path, node: &str, watch: StepWatch) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        std::fs::create_dir_all(dir.join("pods")).expect("writable");
        std::fs::create_dir_all(dir.join("staging")).expect("writable");
        let device_dir = dir.join("dev");
        let place = Place { node: node.to_owned(), device_dir: device_dir.clone() };
        let attach = runtime.block_on(async { AgentAttach::new(StateDir::new(state)) });
        Self { port: CsiNode::new(attach, place).with_steps(watch), runtime, dir: dir.to_owned(), device_dir }
    }

    /// Kubelet makes the staging directory.
    pub fn staging(&self, volume: &str) -> AbsolutePath {
        let path = self.dir.join("staging").join(volume);
        std::fs::create_dir_all(&path).expect("writable");
        absolute(&path)
    }

    pub fn target(&self, name: &str) -> AbsolutePath {
        absolute(&self.dir.join("pods").join(name))
    }

    pub fn stage(&self, volume: &str, capability: &Capability) -> Result<(), StageError> {
        self.stage_within(volume, capability, WITHIN)
    }

    pub fn stage_within(&self, volume: &str, capability: &Capability, within: Duration) -> Result<(), StageError> {
        let request = StageVolume {
            id: id(volume),
            staging_path: self.staging(volume),
            capability: capability.clone(),
            context: BTreeMap::new(),
        };
        self.runtime.block_on(self.port.stage_volume(request, within))
    }

    pub fn unstage(&self, volume: &str) -> Result<(), UnstageError> {
        let request = UnstageVolume { id: id(volume), staging_path: self.staging(volume) };
        self.runtime.block_on(self.port.unstage_volume(request, WITHIN))
    }

    pub fn publish(
        &self,
        volume: &str,
        target: &str,
        capability: &Capability,
        readonly: bool,
    ) -> Result<(), PublishError> {
        let request = PublishVolume {
            id: id(volume),
            staging_path: self.staging(volume),
            target_path: self.target(target),
            capability: capability.clone(),
            readonly,
            context: BTreeMap::new(),
            pod: None,
        };
        self.runtime.block_on(self.port.publish_volume(request, WITHIN))
    }

    pub fn unpublish(&self, volume: &str, target: &str) -> Result<(), UnpublishError> {
        let request = UnpublishVolume { id: id(volume), target_path: self.target(target) };
        self.runtime.block_on(self.port.unpublish_volume(request, WITHIN))
    }

    pub fn usage(&self, volume: &str, path: &AbsolutePath) -> Result<Usage, UsageError> {
        self.runtime.block_on(self.port.usage(at(volume, path)))
    }

    pub fn expand(&self, volume: &str, path: &AbsolutePath, required: u64) -> Result<u64, ExpandError> {
        let required = i64::try_from(required).expect("small");
        let range = lockstep_csi::capacity::CapacityRange::parse(required, 0).expect("a range");
        let request = ExpandOnNode { at: at(volume, path), range, capability: None };
        self.runtime.block_on(self.port.expand_volume(request, WITHIN))
    }

    /// The volume's device, by the name that the port gave it.
    pub fn device(&self, volume: &str) -> PathBuf {
        self.device_dir.join(volume)
    }

    /// What is left of anything that was staged here: mounts, loop devices, device names, records.
    pub fn left_behind(&self) -> Vec<String> {
        let mut left: Vec<String> =
            crate::common::mounts_under(&self.dir).iter().map(|m| format!("mount {m:?}")).collect();
        left.extend(crate::common::loops_under(&self.dir).iter().map(|name| format!("loop device {name}")));
        for dir in [&self.device_dir, &self.dir.join("pods"), &self.dir.join("staging")] {
            let Ok(entries) = std::fs::read_dir(dir) else { continue };
            for entry in entries.flatten() {
                // The staging directory itself is kubelet's.
                if !(entry.path().is_dir() && entry.path().parent() == Some(&self.dir.join("staging"))) {
                    left.push(format!("file {:?}", entry.path()));
                }
            }
        }
        left
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // What a failed test leaves would keep the directory and the engine's devices.
        for _ in 0..4 {
            let Ok(mounted) = mounts::observe_mounts() else { break };
            for mount in mounted.iter().rev().filter(|mount| mount.point.starts_with(&self.dir)) {
                let _ = mounts::unmount_lazily(&mount.point);
            }
        }
        for left in loops::observe_under(&self.dir).unwrap_or_default() {
            let _ = loops::release(&left);
        }
    }
}

pub fn id(volume: &str) -> VolumeId {
    VolumeId::parse(volume).expect("an id")
}

pub fn absolute(path: &Path) -> AbsolutePath {
    AbsolutePath::parse(path.to_str().expect("text")).expect("absolute")
}

fn at(volume: &str, path: &AbsolutePath) -> VolumeAt {
    VolumeAt { id: id(volume), volume_path: path.clone(), staging_path: None }
}

/// A file system for one node, with options.
pub fn filesystem(filesystem: Filesystem, mode: AccessMode, flags: &[&str]) -> Capability {
    let flags = MountFlags::new(flags.iter().map(|flag| (*flag).to_owned()).collect());
    Capability::new(Access::Mount(Mount { filesystem, flags }), mode).expect("one node")
}

/// An ext4 as most claims have it.
pub fn ext4() -> Capability {
    filesystem(Filesystem::Ext4, AccessMode::SingleNodeMultiWriter, &[])
}

/// An XFS as most claims have it.
pub fn xfs() -> Capability {
    filesystem(Filesystem::Xfs, AccessMode::SingleNodeMultiWriter, &[])
}

/// A block device for one node.
pub fn block() -> Capability {
    Capability::new(Access::Block, AccessMode::SingleNodeMultiWriter).expect("blocks have any mode")
}

/// Makes a volume of the playground.
pub fn create(ground: &Ground, volume: &str, size: &str) {
    ground.json(&["--node", "a", "volume", "create", volume, "--size", size]);
}

/// Whether the node has the volume attached, as its engine says.
pub fn is_attached(ground: &Ground, node: &str, volume: &str) -> bool {
    let status = ground.json(&["--node", node, "volume", "status", volume]);
    status["this_node"]["attached"] != "no"
        && status["this_node"]["attached"] != "none"
        && !status["this_node"]["attached"].is_null()
}

/// The mount that is seen at a point.
pub fn mount_at(point: &Path) -> Option<mounts::Mount> {
    mounts::observe_mounts().expect("readable").into_iter().rev().find(|mount| mount.point == point)
}

/// Runs a program that has to succeed, and gives its output.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).env("LC_ALL", "C").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
