//! Who this node is to the others: a number made once and kept with the node's state. A node that lost it is another node.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::random_bytes;
use crate::host::durable::{self, Readers};

/// The file's name in the state directory.
const FILE_NAME: &str = "identity.json";

/// A node's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Identity {
    /// Never 0.
    pub(crate) node_id: u32,
}

/// Why a node does not know who it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The file is there and cannot be read. It is not made anew: the node would be another.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The file is not what this program writes.
    #[error("{} is not a node's identity", .0.display())]
    Parse(PathBuf),
    /// It cannot be made.
    #[error("cannot make {}", .0.display())]
    Make(PathBuf, #[source] io::Error),
}

impl Identity {
    /// The identity in this state directory, if there is one.
    pub(crate) fn read(state: &Path) -> Result<Option<Self>, IdentityError> {
        let path = state.join(FILE_NAME);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(IdentityError::Read(path, error)),
        };
        let identity: Option<Self> = serde_json::from_slice(&text).ok();
        identity.filter(|identity| identity.node_id != 0).map(Some).ok_or(IdentityError::Parse(path))
    }

    /// Makes one that is none of `taken`, durably: before anybody is told.
    pub(crate) fn make(state: &Path, taken: &BTreeSet<u32>) -> Result<Self, IdentityError> {
        let path = state.join(FILE_NAME);
        let make = || -> io::Result<Self> {
            let identity = loop {
                let node_id = u32::from_le_bytes(random_bytes()?);
                if node_id != 0 && !taken.contains(&node_id) {
                    break Self { node_id };
                }
            };
            durable::write(&path, &serde_json::to_vec(&identity)?, Readers::Any)?;
            Ok(identity)
        };
        make().map_err(|error| IdentityError::Make(path.clone(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::{FILE_NAME, Identity, IdentityError};
    use std::collections::BTreeSet;

    #[test]
    fn an_identity_is_made_once_and_never_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Identity::read(dir.path()).expect("nothing is there"), None);
        let made = Identity::make(dir.path(), &BTreeSet::new()).expect("made");
        assert_eq!(Identity::read(dir.path()).expect("readable"), Some(made));
        for wrong in ["", "{\"nodeId\":0}", "{\"nodeId\":-1}", "{\"nodeId\":1,\"x\":2}"] {
            std::fs::write(dir.path().join(FILE_NAME), wrong).expect("writable");
            assert!(matches!(Identity::read(dir.path()), Err(IdentityError::Parse(_))), "{wrong:?}");
        }
    }
}
