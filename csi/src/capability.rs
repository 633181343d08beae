//! How a volume is to be used: as a file system or as a block device, by whom, from where.

use std::fmt;

/// The file systems that a volume may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filesystem {
    /// ext4, the default where the caller names none.
    Ext4,
    /// XFS.
    Xfs,
}

impl Filesystem {
    /// All of them, as messages list them.
    pub const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    /// The name that mount(8) and `csi.storage.k8s.io/fstype` use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Parses that name; nothing is the default.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::Ext4);
        }
        Self::ALL.into_iter().find(|filesystem| filesystem.as_str() == text)
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Options of a mount, in the caller's order, unchanged (`context=` of SELinux among them).
///
/// The specification says that they may hold what others must not see: they are printed as their number only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct MountFlags(Vec<String>);

impl MountFlags {
    /// The flags as they came.
    #[must_use]
    pub const fn new(flags: Vec<String>) -> Self {
        Self(flags)
    }

    /// The flags, to be given to mount(2) or mount(8).
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Debug for MountFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MountFlags({} hidden)", self.0.len())
    }
}

/// A file system, mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which one.
    pub filesystem: Filesystem,
    /// With which options.
    pub flags: MountFlags,
}

/// What the pod sees of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// A block device.
    Block,
    /// A directory.
    Mount(Mount),
}

/// Who may use the volume at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessMode {
    /// One node, for writing; at one path, unless the caller knows the two modes below.
    SingleNodeWriter,
    /// One node, for reading.
    SingleNodeReaderOnly,
    /// Any number of nodes, for reading.
    MultiNodeReaderOnly,
    /// Any number of nodes, of which one writes.
    MultiNodeSingleWriter,
    /// Any number of nodes, all of which write (active-active).
    MultiNodeMultiWriter,
    /// One node, one path (ReadWriteOncePod).
    SingleNodeSingleWriter,
    /// One node, any number of paths (ReadWriteOnce).
    SingleNodeMultiWriter,
}

impl AccessMode {
    /// Every mode, each once.
    pub const ALL: [Self; 7] = [
        Self::SingleNodeWriter,
        Self::SingleNodeReaderOnly,
        Self::MultiNodeReaderOnly,
        Self::MultiNodeSingleWriter,
        Self::MultiNodeMultiWriter,
        Self::SingleNodeSingleWriter,
        Self::SingleNodeMultiWriter,
    ];

    /// More than one node may have the volume staged at once.
    #[must_use]
    pub const fn is_multi_node(self) -> bool {
        match self {
            Self::MultiNodeReaderOnly | Self::MultiNodeSingleWriter | Self::MultiNodeMultiWriter => true,
            Self::SingleNodeWriter
            | Self::SingleNodeReaderOnly
            | Self::SingleNodeSingleWriter
            | Self::SingleNodeMultiWriter => false,
        }
    }

    /// Nobody writes.
    #[must_use]
    pub const fn is_read_only(self) -> bool {
        match self {
            Self::SingleNodeReaderOnly | Self::MultiNodeReaderOnly => true,
            Self::SingleNodeWriter
            | Self::MultiNodeSingleWriter
            | Self::MultiNodeMultiWriter
            | Self::SingleNodeSingleWriter
            | Self::SingleNodeMultiWriter => false,
        }
    }

    /// The name that the specification gives it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SingleNodeWriter => "SINGLE_NODE_WRITER",
            Self::SingleNodeReaderOnly => "SINGLE_NODE_READER_ONLY",
            Self::MultiNodeReaderOnly => "MULTI_NODE_READER_ONLY",
            Self::MultiNodeSingleWriter => "MULTI_NODE_SINGLE_WRITER",
            Self::MultiNodeMultiWriter => "MULTI_NODE_MULTI_WRITER",
            Self::SingleNodeSingleWriter => "SINGLE_NODE_SINGLE_WRITER",
            Self::SingleNodeMultiWriter => "SINGLE_NODE_MULTI_WRITER",
        }
    }
}

impl fmt::Display for AccessMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One way to use a volume. That of a file system is never of a multi-node mode: [`Capability::new`] refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    access: Access,
    mode: AccessMode,
}

/// A file system was wanted from several nodes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a file system cannot be mounted on several nodes at once, as {mode} asks: ext4 and xfs would destroy it; several nodes \
     share a volume as a raw block device (volumeMode: Block)"
)]
pub struct MultiNodeFilesystem {
    /// The mode that was asked for.
    pub mode: AccessMode,
}

impl Capability {
    /// A way to use a volume.
    ///
    /// # Errors
    /// A file system with a mode of several nodes.
    pub fn new(access: Access, mode: AccessMode) -> Result<Self, MultiNodeFilesystem> {
        match access {
            Access::Mount(_) if mode.is_multi_node() => Err(MultiNodeFilesystem { mode }),
            Access::Mount(_) | Access::Block => Ok(Self { access, mode }),
        }
    }

    /// What the pod sees.
    #[must_use]
    pub const fn access(&self) -> &Access {
        &self.access
    }

    /// Who may use the volume at once.
    #[must_use]
    pub const fn mode(&self) -> AccessMode {
        self.mode
    }

    /// The file system and its options, unless it is a block device.
    #[must_use]
    pub const fn mount(&self) -> Option<&Mount> {
        match &self.access {
            Access::Mount(mount) => Some(mount),
            Access::Block => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, AccessMode, Capability, Filesystem, Mount, MountFlags};

    fn mount() -> Access {
        Access::Mount(Mount { filesystem: Filesystem::Ext4, flags: MountFlags::default() })
    }

    #[test]
    fn file_systems_are_of_one_node_and_blocks_of_any() {
        use AccessMode as M;
        let multi = [M::MultiNodeReaderOnly, M::MultiNodeSingleWriter, M::MultiNodeMultiWriter];
        for mode in AccessMode::ALL {
            assert_eq!(Capability::new(mount(), mode).is_err(), multi.contains(&mode), "{mode}");
            assert!(Capability::new(Access::Block, mode).is_ok(), "{mode}");
        }
    }

    #[test]
    fn the_refusal_names_the_mode_and_what_would_be_right() {
        let refused = Capability::new(mount(), AccessMode::MultiNodeMultiWriter).expect_err("it is a file system");
        let text = refused.to_string();
        assert!(text.contains("MULTI_NODE_MULTI_WRITER") && text.contains("raw block"), "{text}");
    }

    #[test]
    fn the_default_file_system_is_ext4_and_others_are_unknown() {
        assert_eq!(Filesystem::parse(""), Some(Filesystem::Ext4));
        assert_eq!(Filesystem::parse("xfs"), Some(Filesystem::Xfs));
        for other in ["EXT4", "ext3", "btrfs", "ext4 "] {
            assert_eq!(Filesystem::parse(other), None, "{other}");
        }
    }

    #[test]
    fn mount_flags_are_not_printed() {
        let flags = MountFlags::new(vec!["password=open-sesame".to_owned()]);
        assert_eq!(format!("{flags:?}"), "MountFlags(1 hidden)");
    }
}
