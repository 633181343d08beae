//! What a volume is called: by the caller, and by us.

use std::fmt;

/// Longest name that a caller may give, in bytes (the general size limit of a CSI string).
pub const NAME_BYTES_MAX: usize = 128;

/// Longest id, in bytes: it becomes the name of an object, of files and of a device.
pub const ID_BYTES_MAX: usize = 63;

/// What ids begin with that were made of a name's digest. No other id begins so, which keeps ids of different names apart.
const DIGEST_PREFIX: &str = "n-";

/// The name that a caller gave a volume to be made: 1 to [`NAME_BYTES_MAX`] bytes of any characters but control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeName(String);

/// Why a text is not a volume's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is none.
    #[error("is empty")]
    Empty,
    /// More than [`NAME_BYTES_MAX`] bytes.
    #[error("is {bytes} bytes long; at most {NAME_BYTES_MAX} are possible")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It contains a control character.
    #[error("contains a control character")]
    ControlCharacter,
}

impl VolumeName {
    /// Parses a name as it came over the wire.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text {
            "" => Err(NameError::Empty),
            _ if text.len() > NAME_BYTES_MAX => Err(NameError::TooLong { bytes: text.len() }),
            _ if text.chars().any(char::is_control) => Err(NameError::ControlCharacter),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// The name as it was given. It may hold any character: never a part of a path, never an argument of a program.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a volume of ours: 1 to [`ID_BYTES_MAX`] of `a-z`, `0-9` and `-`, neither first nor last a `-`.
///
/// Anything else that a caller names is a volume that does not exist: see [`VolumeId::parse`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(String);

impl VolumeId {
    /// Parses an id. `None`: no volume of ours can have it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let alphabet = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        let fits = (1..=ID_BYTES_MAX).contains(&text.len());
        let inside = !text.starts_with('-') && !text.ends_with('-');
        (fits && inside && text.chars().all(alphabet)).then(|| Self(text.to_owned()))
    }

    /// The id of the volume that `name` makes: the same for the same name, always, on every node; different for different names.
    ///
    /// A name that can be an id is one (so that people find `pvc-<uid>` again); of others, the id is made of a 128-bit digest.
    #[must_use]
    pub fn of_name(name: &VolumeName) -> Self {
        match Self::parse(name.as_str()) {
            Some(id) if !name.as_str().starts_with(DIGEST_PREFIX) => id,
            _ => {
                let digest = blake3::hash(name.as_str().as_bytes()).to_hex();
                Self(format!("{DIGEST_PREFIX}{}", &digest.as_str()[..32]))
            }
        }
    }

    /// The id as text: safe as a name of an object, of a file and of a device.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{ID_BYTES_MAX, NameError, VolumeId, VolumeName};

    fn id_of(name: &str) -> String {
        VolumeId::of_name(&VolumeName::parse(name).expect(name)).as_str().to_owned()
    }

    #[test]
    fn names_are_any_text_without_control_characters() {
        for good in ["a", "pvc-1", "Ünïcode 数据 / ..", &"x".repeat(128)] {
            assert_eq!(VolumeName::parse(good).expect(good).as_str(), good);
        }
        assert_eq!(VolumeName::parse(""), Err(NameError::Empty));
        assert_eq!(VolumeName::parse(&"x".repeat(129)), Err(NameError::TooLong { bytes: 129 }));
        for bad in ["a\nb", "a\u{7f}", "\u{85}", "\0"] {
            assert_eq!(VolumeName::parse(bad), Err(NameError::ControlCharacter), "{bad:?}");
        }
    }

    #[test]
    fn a_name_that_can_be_an_id_is_one() {
        assert_eq!(id_of("pvc-0d5c1e9f-6d5e-4e7a-9d0b-5b0a0c7f4f10"), "pvc-0d5c1e9f-6d5e-4e7a-9d0b-5b0a0c7f4f10");
        assert_eq!(id_of(&"x".repeat(ID_BYTES_MAX)).len(), ID_BYTES_MAX);
    }

    #[test]
    fn other_names_have_ids_of_their_own() {
        let names = ["A", "a b", "../../etc/passwd", "-a", "a-", "数据", &"x".repeat(128), &"x".repeat(127)];
        let ids: std::collections::BTreeSet<String> = names.iter().map(|name| id_of(name)).collect();
        assert_eq!(ids.len(), names.len());
        for id in &ids {
            assert_eq!(VolumeId::parse(id).expect(id).as_str(), id, "an id is parsed back");
            assert_ne!(&id_of(id), id, "a name that looks like a digest is not taken for one");
        }
    }

    #[test]
    fn what_cannot_be_an_id_is_nobodys() {
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", "ä", &"x".repeat(64)] {
            assert_eq!(VolumeId::parse(bad), None, "{bad:?}");
        }
    }
}
