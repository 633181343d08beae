//! The CSI plugin of a node, and how far it has come with the only volume there, as this machine sees it in `/proc`: nobody is asked, so
//! that a look takes no time.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::statvfs::statvfs;
use serde_json::Value;

use crate::nodes;

/// Below it kubelet has a directory for each volume of ours that it staged.
const STAGED: &str = "var/lib/kubelet/plugins/kubernetes.io/csi/csi.lockstep.storage";

/// In such a directory: where the volume is mounted, and what the plugin wrote down of it.
const STAGING_PATH: &str = "globalmount";
const RECORD: &str = "globalmount.lockstep.json";

/// One run of a node's plugin.
#[derive(Debug)]
pub struct Plugin {
    /// What `/proc` has of the node's first process.
    node: PathBuf,
    process: u32,
    volume: String,
}

/// What is on the node of the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// It is written down that the volume is to be staged.
    pub recorded: bool,
    /// And which device it is.
    pub attached: bool,
    /// And where it is to be published.
    pub publishing: bool,
    /// The device has a name.
    pub named: bool,
    /// Size of its mounted file system, in bytes.
    pub staged: Option<u64>,
    /// It is written down for which pod it is published.
    pub noted: bool,
    /// The directory is there at which a pod sees it.
    pub target: bool,
    /// And it is mounted there.
    pub bound: bool,
}

impl Plugin {
    /// The one that runs on a node now.
    ///
    /// # Errors
    /// None does.
    pub fn find(node: &str, volume: &str) -> Result<Self> {
        let process = nodes::process_of(node, "lockstep-node", "kubernetes")?;
        Ok(Self { node: format!("/proc/{}", nodes::init_of(node)?).into(), process, volume: volume.to_owned() })
    }

    /// Kills it.
    ///
    /// # Errors
    /// It is gone already.
    pub fn kill(&self) -> Result<()> {
        nodes::kill_process(self.process)
    }

    /// Looks at the node.
    ///
    /// # Errors
    /// The node does not run.
    pub fn look(&self) -> Result<Traces> {
        let root = self.node.join("root");
        let mounts = fs::read_to_string(self.node.join("mountinfo")).context("the node's mounts")?;
        let mounted = |end: &str| mounts.lines().filter_map(|line| line.split(' ').nth(4)).find(|at| at.ends_with(end));
        let staged = mounted(&format!("/{STAGING_PATH}")).filter(|at| at.contains("/csi.lockstep.storage/"));
        let staged = staged.and_then(|at| statvfs(&root.join(at.trim_start_matches('/'))).ok());
        let target = format!("volumes/kubernetes.io~csi/{}/mount", self.volume);
        let record = find_below(&root.join(STAGED), RECORD).and_then(|path| fs::read(path).ok());
        let record: Option<Value> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let is_in_record = |is_so: fn(&Value) -> bool| record.as_ref().is_some_and(is_so);
        Ok(Traces {
            recorded: record.is_some(),
            attached: is_in_record(|record| record["device"].is_object()),
            publishing: is_in_record(|record| record["publications"].as_array().is_some_and(|all| !all.is_empty())),
            named: find_below(&root.join("dev/lockstep"), &format!("csi.d/{}", self.volume)).is_some(),
            staged: staged.map(|found| found.blocks() * found.fragment_size()),
            noted: root.join("var/lib/lockstep/users").join(format!("{}.json", self.volume)).exists(),
            target: find_below(&root.join("var/lib/kubelet/pods"), &target).is_some(),
            bound: mounted(&target).is_some(),
        })
    }

    /// Whether it runs this tool now.
    #[must_use]
    pub fn runs(&self, tool: &str) -> bool {
        let mut tree = Vec::new();
        nodes::collect_tree(self.process, &mut tree);
        let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        tree.iter().any(|pid| name(pid).trim_end() == tool)
    }
}

/// `rest` below one of the directories in `directory`.
fn find_below(directory: &Path, rest: &str) -> Option<PathBuf> {
    fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path().join(rest)).find(|path| path.exists())
}
