//! For which pods volumes are published here: a file a volume, so that who watches over them knows it also after a restart.
//!
//! What is written down is more than what is true for a moment: a pod is noted before its volume is bound, and struck out after that is
//! gone. Whoever reads it asks the API server about each.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use lockstep_csi::node_port::Pod;
use lockstep_csi::volume::VolumeId;
use serde::{Deserialize, Serialize};

use crate::host::durable::{self, Readers};

/// Ends the names of the files.
const SUFFIX: &str = ".json";

/// A pod for which a volume is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: another pod of the name is not meant.
    pub uid: String,
}

/// Where it is written down.
#[derive(Clone, Debug)]
pub struct Users {
    dir: PathBuf,
}

/// A file's version 1: users by their target paths.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    version: u32,
    targets: BTreeMap<PathBuf, User>,
}

impl Users {
    /// In this directory, which is made when it is needed.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    fn file(&self, volume: &str) -> PathBuf {
        self.dir.join(format!("{volume}{SUFFIX}"))
    }

    fn read(&self, volume: &str) -> io::Result<Written> {
        match std::fs::read(self.file(volume)) {
            // What is not understood says nothing.
            Ok(bytes) => {
                Ok(serde_json::from_slice(&bytes).ok().filter(|it: &Written| it.version == 1).unwrap_or_default())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Written::default()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, volume: &str, targets: BTreeMap<PathBuf, User>) -> io::Result<()> {
        let file = self.file(volume);
        if targets.is_empty() {
            return durable::remove_if_there(&file).map(drop);
        }
        std::fs::create_dir_all(&self.dir)?;
        durable::write(&file, &serde_json::to_vec(&Written { version: 1, targets })?, Readers::Any)
    }

    /// Notes for whom a volume is published at a target path.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn note(&self, volume: &VolumeId, target: &Path, pod: &Pod) -> io::Result<()> {
        let mut targets = self.read(volume.as_str())?.targets;
        let user = User { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() };
        if targets.get(target) == Some(&user) {
            return Ok(());
        }
        targets.insert(target.to_owned(), user);
        self.write(volume.as_str(), targets)
    }

    /// Strikes a target path out.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn forget(&self, volume: &VolumeId, target: &Path) -> io::Result<()> {
        let mut targets = self.read(volume.as_str())?.targets;
        if targets.remove(target).is_none() {
            return Ok(());
        }
        self.write(volume.as_str(), targets)
    }

    /// The pods of a volume.
    ///
    /// # Errors
    /// Of the file system.
    pub fn of(&self, volume: &str) -> io::Result<Vec<User>> {
        Ok(self.read(volume)?.targets.into_values().collect())
    }

    /// Volumes that have any.
    ///
    /// # Errors
    /// Of the file system.
    pub fn volumes(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(SUFFIX).map(str::to_owned)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{User, Users};
    use lockstep_csi::node_port::Pod;
    use lockstep_csi::volume::VolumeId;
    use std::path::Path;

    #[test]
    fn pods_are_known_until_their_targets_are_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let users = Users::new(dir.path().join("users"));
        assert!(users.volumes().expect("none yet").is_empty());
        let volume = VolumeId::parse("pvc-1").expect("an id");
        let pod = |name: &str| Pod { namespace: "n".to_owned(), name: name.to_owned(), uid: format!("uid of {name}") };
        users.note(&volume, Path::new("/pods/1"), &pod("one")).expect("noted");
        users.note(&volume, Path::new("/pods/1"), &pod("one")).expect("again");
        users.note(&volume, Path::new("/pods/2"), &pod("two")).expect("noted");
        assert_eq!(users.volumes().expect("readable"), ["pvc-1"]);
        let again = Users::new(dir.path().join("users"));
        let names: Vec<String> = again.of("pvc-1").expect("readable").into_iter().map(|user| user.name).collect();
        assert_eq!(names, ["one", "two"]);
        again.forget(&volume, Path::new("/pods/1")).expect("struck out");
        let user = User { namespace: "n".to_owned(), name: "two".to_owned(), uid: "uid of two".to_owned() };
        assert_eq!(again.of("pvc-1").expect("readable"), [user]);
        again.forget(&volume, Path::new("/pods/2")).expect("struck out");
        again.forget(&volume, Path::new("/pods/2")).expect("nothing to do");
        assert!(users.volumes().expect("readable").is_empty());
    }
}
