//! Whether a staged volume may be published at one more path: the table of the specification, as a function.

use crate::capability::{AccessMode, Capability};
use crate::path::AbsolutePath;

/// A volume at a target path, as it is or as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where.
    pub target_path: AbsolutePath,
    /// How it is used there.
    pub capability: Capability,
    /// The pod must not write.
    pub readonly: bool,
}

/// What to do with a request that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is published so already. Look whether that still works.
    Same,
    /// Publish it.
    New,
}

/// Why a volume may not be published so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is published at this path in another way.
    #[error("the volume is published at {target_path} already, with another {difference}")]
    OtherThere {
        /// That path.
        target_path: AbsolutePath,
        /// In what it differs.
        difference: &'static str,
    },
    /// It is published at another path, and one of the two says that there be one only.
    #[error("the volume is published at {target_path}, and {mode} allows one path only")]
    OnlyOnePath {
        /// That path.
        target_path: AbsolutePath,
        /// The mode of the one that does.
        mode: AccessMode,
    },
}

/// What the specification says about a request, given what is published of the volume on this node.
///
/// | target path | capability and readonly | |
/// |---|---|---|
/// | same | same | [`Decision::Same`] |
/// | same | other | [`Refusal::OtherThere`] |
/// | other | SINGLE_NODE_WRITER or SINGLE_NODE_SINGLE_WRITER, either side | [`Refusal::OnlyOnePath`] |
/// | other | any other modes | [`Decision::New`] |
///
/// # Errors
/// Why not.
pub fn decide(existing: &[Publication], request: &Publication) -> Result<Decision, Refusal> {
    if let Some(there) = existing.iter().find(|it| it.target_path == request.target_path) {
        return match difference(there, request) {
            None => Ok(Decision::Same),
            Some(difference) => Err(Refusal::OtherThere { target_path: there.target_path.clone(), difference }),
        };
    }
    let Some(other) = existing.first() else { return Ok(Decision::New) };
    // Whoever was promised to be alone stays alone, whatever the next one asks.
    let alone = std::iter::once(request).chain(existing).find(|it| is_of_one_path(it.capability.mode()));
    match alone {
        None => Ok(Decision::New),
        Some(alone) => {
            Err(Refusal::OnlyOnePath { target_path: other.target_path.clone(), mode: alone.capability.mode() })
        }
    }
}

fn difference(there: &Publication, request: &Publication) -> Option<&'static str> {
    if there.capability.mode() != request.capability.mode() {
        Some("access mode")
    } else if there.capability.access() != request.capability.access() {
        Some("file system or mount options")
    } else if there.readonly != request.readonly {
        Some("readonly")
    } else {
        None
    }
}

const fn is_of_one_path(mode: AccessMode) -> bool {
    match mode {
        AccessMode::SingleNodeWriter | AccessMode::SingleNodeSingleWriter => true,
        AccessMode::SingleNodeReaderOnly
        | AccessMode::MultiNodeReaderOnly
        | AccessMode::MultiNodeSingleWriter
        | AccessMode::MultiNodeMultiWriter
        | AccessMode::SingleNodeMultiWriter => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Decision, Publication, Refusal, decide};
    use crate::capability::{Access, AccessMode, Capability, Filesystem, Mount, MountFlags};
    use crate::path::AbsolutePath;

    fn at(path: &str, mode: AccessMode) -> Publication {
        let capability = Capability::new(Access::Block, mode).expect("blocks have any mode");
        Publication { target_path: AbsolutePath::parse(path).expect(path), capability, readonly: false }
    }

    #[test]
    fn the_first_publication_is_of_any_mode() {
        for mode in AccessMode::ALL {
            assert_eq!(decide(&[], &at("/a", mode)), Ok(Decision::New), "{mode}");
        }
    }

    #[test]
    fn the_same_again_is_the_same_and_another_way_at_the_same_path_is_refused() {
        for mode in AccessMode::ALL {
            let there = at("/a", mode);
            assert_eq!(decide(std::slice::from_ref(&there), &there), Ok(Decision::Same), "{mode}");
            let readonly = Publication { readonly: true, ..there.clone() };
            let refused = decide(std::slice::from_ref(&there), &readonly).expect_err("readonly differs");
            assert!(matches!(refused, Refusal::OtherThere { difference: "readonly", .. }), "{refused}");
            for other in AccessMode::ALL.into_iter().filter(|other| *other != mode) {
                let refused = decide(std::slice::from_ref(&there), &at("/a", other)).expect_err("the mode differs");
                assert!(matches!(refused, Refusal::OtherThere { difference: "access mode", .. }), "{refused}");
            }
        }
    }

    #[test]
    fn mount_options_are_part_of_what_has_to_be_the_same() {
        let mounted = |flags: &[&str]| {
            let flags = MountFlags::new(flags.iter().map(|flag| (*flag).to_owned()).collect());
            let access = Access::Mount(Mount { filesystem: Filesystem::Xfs, flags });
            let capability = Capability::new(access, AccessMode::SingleNodeMultiWriter).expect("one node");
            Publication { capability, ..at("/a", AccessMode::SingleNodeWriter) }
        };
        assert_eq!(decide(&[mounted(&["noatime"])], &mounted(&["noatime"])), Ok(Decision::Same));
        assert!(decide(&[mounted(&["noatime"])], &mounted(&[])).is_err());
    }

    #[test]
    fn a_second_path_is_refused_where_either_side_is_to_be_alone() {
        use AccessMode as M;
        let alone = [M::SingleNodeWriter, M::SingleNodeSingleWriter];
        for first in AccessMode::ALL {
            for second in AccessMode::ALL {
                let decided = decide(&[at("/a", first)], &at("/b", second));
                match decided {
                    Err(Refusal::OnlyOnePath { target_path, mode }) => {
                        assert!(alone.contains(&first) || alone.contains(&second), "{first} then {second}");
                        assert!(alone.contains(&mode) && target_path.to_string() == "/a");
                    }
                    other => {
                        assert_eq!(other, Ok(Decision::New), "{first} then {second}");
                        assert!(!alone.contains(&first) && !alone.contains(&second), "{first} then {second}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_path_is_looked_for_among_all() {
        let existing = [at("/a", AccessMode::SingleNodeMultiWriter), at("/b", AccessMode::SingleNodeMultiWriter)];
        assert_eq!(decide(&existing, &at("/b", AccessMode::SingleNodeMultiWriter)), Ok(Decision::Same));
        assert_eq!(decide(&existing, &at("/c", AccessMode::SingleNodeMultiWriter)), Ok(Decision::New));
        assert!(decide(&existing, &at("/c", AccessMode::SingleNodeSingleWriter)).is_err());
    }
}
