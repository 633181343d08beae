//! The file that says whose a pool is.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::OpenPoolError;
use crate::host::durable::{self, Readers};

/// The marker's name in the pool's directory.
pub const FILE_NAME: &str = "lockstep-pool.toml";

/// Versions of the marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MarkerVersion {
    /// Cluster's fingerprint and node.
    #[serde(rename = "1")]
    V1,
}

/// Whose a pool is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Of the marker itself.
    pub version: MarkerVersion,
    /// Fingerprint of the cluster's key.
    pub cluster: String,
    /// The node's id.
    pub node_id: u32,
    /// The node's name, for people.
    pub node: String,
    /// The pool is a whole device, and not the directory that it is mounted over. Each may have been the node's pool before the
    /// other was, and replicas that went to the wrong one are gone with the next mount or restart.
    #[serde(default)]
    pub device: bool,
}

impl Marker {
    /// The marker of the pool at `path`, if it has one.
    ///
    /// # Errors
    /// It cannot be read, or is not a marker.
    pub fn read(path: &Path) -> Result<Option<Self>, OpenPoolError> {
        let text = match std::fs::read_to_string(path.join(FILE_NAME)) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(OpenPoolError::host(path, "read its marker")(error)),
        };
        toml::from_str(&text).map(Some).map_err(|error| {
            OpenPoolError::refused(path, format!("its marker {FILE_NAME} cannot be read: {}", error.message()))
        })
    }

    /// Whether the pool at `path`, which carries this marker, is that of `own`.
    ///
    /// # Errors
    /// It is another cluster's or node's.
    pub fn check(&self, path: &Path, own: &Self) -> Result<(), OpenPoolError> {
        if self.cluster == own.cluster && self.node_id == own.node_id {
            return Ok(());
        }
        let whose = format!("it is the pool of node {} (id {}) of cluster {}", self.node, self.node_id, self.cluster);
        Err(OpenPoolError::refused(path, format!("{whose}, not of node {} of cluster {}", own.node, own.cluster)))
    }

    /// Whether it is that of `own`, and the directory itself.
    ///
    /// # Errors
    /// It is another's, or a device's that is mounted over the directory.
    pub fn check_directory(&self, path: &Path, own: &Self) -> Result<(), OpenPoolError> {
        self.check(path, own)?;
        if self.device {
            let found = "a device that was this node's pool is mounted there: unmount it, or make it the pool again";
            return Err(OpenPoolError::refused(path, found));
        }
        Ok(())
    }

    /// Makes this the marker of the pool at `path`, durably.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&self, path: &Path) -> Result<(), OpenPoolError> {
        let text = toml::to_string(self).expect("a marker has only TOML's own types");
        durable::write(&path.join(FILE_NAME), text.as_bytes(), Readers::Any)
            .map_err(OpenPoolError::host(path, "write its marker"))
    }
}
