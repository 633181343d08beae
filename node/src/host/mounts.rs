//! What is mounted, from /proc/self/mountinfo.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// `major:minor` of the device.
    pub device: String,
    /// Its type, like `xfs` or `fuse.lockstep`.
    pub kind: String,
    /// What was mounted.
    pub source: String,
    /// What of that file system is seen at the point: `/`, or a part of it that was bound there.
    pub root: PathBuf,
    /// Options of this mount alone, like `ro` and `noatime`.
    pub options: Vec<String>,
}

impl Mount {
    /// Nothing can be written by way of this mount.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }
}

/// All mounts that this process sees, in the order in which they were made.
///
/// # Errors
/// /proc cannot be read.
pub fn observe_mounts() -> io::Result<Vec<Mount>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse_line).collect())
}

/// Takes the mount at `point` away, even if files on it are open: those stay usable until they are closed.
///
/// # Errors
/// The kernel refuses.
pub fn unmount_lazily(point: &Path) -> io::Result<()> {
    match umount2(point, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Fields of proc(5): id, parent, major:minor, root, mount point, options, optional fields, "-", type, source.
fn parse_line(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let device = before.nth(2)?.to_owned();
    let root = unescape(before.next()?);
    let point = unescape(before.next()?);
    let options = before.next()?.split(',').map(str::to_owned).collect();
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let source = after.next()?.to_owned();
    Some(Mount { point, device, kind, source, root, options })
}

/// Blank, tab, line feed and backslash are written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| bytes[at] == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::{observe_mounts, parse_line};
    use std::path::Path;

    #[test]
    fn a_line_is_parsed_with_its_escapes() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - fuse.lockstep lockstep rw,errors=continue";
        let mount = parse_line(line).expect("is a line");
        assert_eq!(mount.point, Path::new("/mnt 2"));
        assert_eq!((mount.device.as_str(), mount.kind.as_str()), ("98:0", "fuse.lockstep"));
        assert_eq!((mount.root.as_path(), mount.is_read_only()), (Path::new("/mnt1"), false));
        let line = "40 35 7:3 / /mnt3 ro,nosuid - ext4 /dev/loop3 rw";
        assert!(parse_line(line).expect("is a line").is_read_only());
    }

    #[test]
    fn something_is_mounted() {
        assert!(!observe_mounts().expect("readable").is_empty());
    }
}
