//! A pool that is a directory.

use std::io;
use std::path::Path;

use super::OpenPoolError;
use super::marker::{FILE_NAME, Marker};

/// How many foreign names an error lists.
const FOREIGN_NAMES_MAX: usize = 5;

/// Opens the pool, making it if there is nothing.
pub(super) fn ensure_open(path: &Path, own: &Marker) -> Result<(), OpenPoolError> {
    match std::fs::metadata(path) {
        Ok(there) if there.is_dir() => {}
        Ok(_) => return Err(OpenPoolError::refused(path, "it is not a directory")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(OpenPoolError::host(path, "make the directory"))?;
        }
        Err(error) => return Err(OpenPoolError::host(path, "look at it")(error)),
    }
    if let Some(marker) = Marker::read(path)? {
        return marker.check_directory(path, own);
    }
    let foreign = observe_foreign(path).map_err(OpenPoolError::host(path, "list it"))?;
    if !foreign.is_empty() {
        let more = foreign.len().saturating_sub(FOREIGN_NAMES_MAX);
        let mut names = foreign[..foreign.len() - more].join(", ");
        if more > 0 {
            names.push_str(&format!(" and {more} more"));
        }
        return Err(OpenPoolError::refused(path, format!("the directory has files that are not Lockstep's: {names}")));
    }
    own.write(path)
}

/// Names of what is there, but for what a fresh file system has by itself and what a killed predecessor of this very
/// function may have left.
fn observe_foreign(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name == format!("{FILE_NAME}.new");
        let empty_lost_found =
            name == "lost+found" && std::fs::read_dir(entry.path()).is_ok_and(|mut entries| entries.next().is_none());
        if !ours && !empty_lost_found {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
