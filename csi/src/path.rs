//! Paths that a caller names: where a volume is staged, published, looked for.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// Longest path, in bytes, without the closing zero: what the kernel takes.
pub const PATH_BYTES_MAX: usize = 4095;

/// An absolute path in the root file system of this process, without `..`: what a caller names stays below what it names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbsolutePath(Box<Path>);

/// Why a text is not such a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("is not absolute")]
    Relative,
    /// A component of it is `..`.
    #[error("goes up by '..'")]
    GoesUp,
    /// It contains a zero byte.
    #[error("contains a zero byte")]
    ZeroByte,
    /// More than [`PATH_BYTES_MAX`] bytes.
    #[error("is {bytes} bytes long; at most {PATH_BYTES_MAX} are possible")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

impl AbsolutePath {
    /// Parses a path as it came over the wire.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let path = Path::new(text);
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong { bytes: text.len() });
        }
        if text.contains('\0') {
            return Err(PathError::ZeroByte);
        }
        if !path.is_absolute() {
            return Err(PathError::Relative);
        }
        if path.components().any(|component| component == Component::ParentDir) {
            return Err(PathError::GoesUp);
        }
        // Slashes at the end and doubled ones are dropped: the same place has one spelling.
        Ok(Self(path.components().collect::<PathBuf>().into_boxed_path()))
    }
}

impl AsRef<Path> for AbsolutePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl std::ops::Deref for AbsolutePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{AbsolutePath, PATH_BYTES_MAX, PathError};

    #[test]
    fn absolute_paths_have_one_spelling() {
        for text in ["/a/b", "/a/b/", "/a//b", "/a/./b"] {
            let path = AbsolutePath::parse(text).expect(text);
            assert_eq!((&*path, path.to_string().as_str()), (std::path::Path::new("/a/b"), "/a/b"), "{text}");
        }
        assert!(AbsolutePath::parse(&format!("/{}", "x".repeat(PATH_BYTES_MAX - 1))).is_ok());
    }

    #[test]
    fn other_paths_are_refused() {
        assert_eq!(AbsolutePath::parse("a/b"), Err(PathError::Relative));
        assert_eq!(AbsolutePath::parse("/a/../b"), Err(PathError::GoesUp));
        assert_eq!(AbsolutePath::parse("/a\0b"), Err(PathError::ZeroByte));
        let long = format!("/{}", "x".repeat(PATH_BYTES_MAX));
        assert_eq!(AbsolutePath::parse(&long), Err(PathError::TooLong { bytes: PATH_BYTES_MAX + 1 }));
    }
}
