//! What callers write: names, sizes, numbers of replicas. Parsed once, here, into values that need no second look.

use crate::failure::Failure;

/// Longest name of a volume, and of each part of a node's name: it becomes a file name, a device name and (later) a label of Kubernetes.
pub const NAME_BYTES_MAX: usize = 63;

/// Logical and physical block of every volume.
pub const BLOCK_BYTES: u64 = 4096;

/// Largest volume: far above any pool, and far below where 64-bit sums of sizes could overflow.
pub const VOLUME_BYTES_MAX: u64 = 1 << 50;

/// Checks a name of a volume.
///
/// # Errors
/// Wrong input, saying which rule the name breaks.
pub fn check_name(field: &str, name: &str) -> Result<(), Failure> {
    let wrong = |reason: String| Err(Failure::wrong_input(field, name, reason));
    if name.is_empty() {
        return wrong(format!("is empty; 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-' are needed"));
    }
    if name.len() > NAME_BYTES_MAX {
        return wrong(format!("is {} bytes long; at most {NAME_BYTES_MAX} are possible", name.len()));
    }
    if let Some(bad) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return wrong(format!("contains {bad:?}; only a-z, 0-9 and '-' are possible"));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return wrong("starts or ends with '-'".to_owned());
    }
    Ok(())
}

/// Longest name of a node of Kubernetes.
pub const NODE_NAME_BYTES_MAX: usize = 253;

/// Checks a name of a node: like a volume's, or several such joined by dots, as Kubernetes names nodes.
///
/// # Errors
/// Wrong input, saying which rule the name breaks.
pub fn check_node_name(field: &str, name: &str) -> Result<(), Failure> {
    if name.len() > NODE_NAME_BYTES_MAX {
        let reason = format!("is {} bytes long; at most {NODE_NAME_BYTES_MAX} are possible", name.len());
        return Err(Failure::wrong_input(field, name, reason));
    }
    name.split('.')
        .try_for_each(|label| check_name(field, label))
        .map_err(|failure| Failure::wrong_input(field, name, failure.message))
}

/// Checks the size of a volume.
///
/// # Errors
/// Wrong input, with what would be right.
pub fn check_size(size_bytes: u64) -> Result<(), Failure> {
    let wrong = |reason: String| Err(Failure::wrong_input("size", show_exact(size_bytes), reason));
    if size_bytes == 0 {
        return wrong("must be at least 4 KiB (4096 bytes)".to_owned());
    }
    if !size_bytes.is_multiple_of(BLOCK_BYTES) {
        let below = size_bytes - size_bytes % BLOCK_BYTES;
        let right = match below {
            0 => format!("{BLOCK_BYTES} bytes would be"),
            below => format!("{below} or {} bytes would be", below.saturating_add(BLOCK_BYTES)),
        };
        return wrong(format!("must be a multiple of 4 KiB (4096 bytes): {right}"));
    }
    if size_bytes > VOLUME_BYTES_MAX {
        return wrong(format!("is more than {}", show_bytes(VOLUME_BYTES_MAX)));
    }
    Ok(())
}

/// Parses a size as a person writes it: `1GiB`, `512 MiB`, `1000000` (bytes).
///
/// # Errors
/// Wrong input for what is not a size.
pub fn parse_size(text: &str) -> Result<u64, Failure> {
    let parsed: Result<bytesize::ByteSize, _> = text.trim().parse();
    parsed.map(|size| size.as_u64()).map_err(|_| {
        Failure::wrong_input("size", text, "is not a size; write a number with a unit, like 1GiB, 512MiB or 4096B")
    })
}

/// A number of bytes as a person reads it, exact where it is not round.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift {
            if bytes.is_multiple_of(1 << shift) {
                return format!("{} {unit}", bytes >> shift);
            }
            // Tenths by integers: no rounding up to a size that the value does not reach.
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

/// A number of bytes without any rounding.
#[must_use]
pub fn show_exact(bytes: u64) -> String {
    let text = show_bytes(bytes);
    if text.contains('.') { format!("{bytes} B") } else { text }
}

/// Lower-case hex digits of `bytes`.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of an even number of hex digits.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{check_name, check_node_name, check_size, from_hex, parse_size, show_bytes, show_exact, to_hex};

    #[test]
    fn a_node_is_named_as_in_kubernetes() {
        let longest = ["x".repeat(63), "x".repeat(63), "x".repeat(63), "x".repeat(61)].join(".");
        for good in ["a", "worker-1.example.org", &longest] {
            assert!(check_node_name("node", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a..b", "a.", "-a.b", "a/b", "A", &format!("{longest}x"), &"x".repeat(64)] {
            let failure = check_node_name("node", bad).expect_err(bad);
            assert_eq!(failure.value.as_deref(), Some(bad));
        }
    }

    #[test]
    fn names_keep_to_their_alphabet_and_length() {
        for good in ["v", "v1", "pg-data-0", &"x".repeat(63)] {
            assert!(check_name("volume", good).is_ok(), "{good}");
        }
        for (bad, reason) in [
            ("", "is empty"),
            ("a/b", "contains '/'"),
            ("..", "contains '.'"),
            ("V1", "contains 'V'"),
            ("-v", "starts or ends"),
            (&"x".repeat(64), "is 64 bytes long"),
        ] {
            let message = check_name("volume", bad).expect_err(bad).to_string();
            assert!(message.contains(reason), "{message:?} lacks {reason:?}");
        }
    }

    #[test]
    fn sizes_say_what_would_be_right() {
        assert!(check_size(1 << 30).is_ok());
        let failure = check_size(0).expect_err("nothing");
        assert_eq!(failure.field.as_deref(), Some("size"));
        assert!(check_size(5000).expect_err("odd").message.contains("4096 or 8192"));
        assert!(check_size(100).expect_err("odd").message.ends_with(": 4096 bytes would be"));
        assert!(check_size(u64::MAX - 4095).is_err());
    }

    #[test]
    fn sizes_are_parsed_with_binary_and_decimal_units() {
        assert_eq!(parse_size("1GiB").expect("is one"), 1 << 30);
        assert_eq!(parse_size("512 MiB").expect("is one"), 512 << 20);
        assert_eq!(parse_size("1GB").expect("is one"), 1_000_000_000);
        assert_eq!(parse_size("4096").expect("is one"), 4096);
        assert_eq!(parse_size("0").expect("is one"), 0);
        assert!(parse_size("much").is_err());
        assert!(parse_size("-1").is_err());
    }

    #[test]
    fn bytes_are_shown_with_units() {
        assert_eq!(show_bytes(0), "0 B");
        assert_eq!(show_bytes(4096), "4 KiB");
        assert_eq!(show_bytes((1 << 30) + (1 << 29)), "1.5 GiB");
        assert_eq!(show_exact(5000), "5000 B");
        assert_eq!(show_exact(1 << 30), "1 GiB");
    }

    #[test]
    fn hex_goes_both_ways() {
        assert_eq!(from_hex(&to_hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
    }
}
