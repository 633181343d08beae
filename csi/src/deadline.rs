//! How long a caller still waits, as it says in the header of its call.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// How long an operation may take whose caller does not say: less than what kubelet and the sidecars usually wait.
const UNSAID: Duration = Duration::from_secs(50);

/// What is kept of a caller's time so that the answer still reaches it: a tenth, but no more than this.
const MARGIN_MAX: Duration = Duration::from_secs(1);

/// The time within which an operation should answer.
pub(crate) fn within(metadata: &MetadataMap) -> Duration {
    let said = metadata.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
    match said {
        None => UNSAID,
        Some(said) => said - MARGIN_MAX.min(said / 10),
    }
}

/// Parses at most eight digits and a unit, as the gRPC protocol says.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::metadata::MetadataMap;

    use super::{UNSAID, within};

    fn of(value: &str) -> Duration {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", value.parse().expect("a header's value"));
        within(&metadata)
    }

    #[test]
    fn a_part_of_the_callers_time_is_kept_for_the_answer() {
        assert_eq!(of("120S"), Duration::from_secs(119));
        assert_eq!(of("2M"), Duration::from_secs(119));
        assert_eq!(of("1000m"), Duration::from_millis(900));
        assert_eq!(of("100u"), Duration::from_micros(90));
        assert_eq!(of("99999999H"), Duration::from_secs(99_999_999 * 3600 - 1));
    }

    #[test]
    fn who_says_nothing_sensible_waits_as_usual() {
        assert_eq!(within(&MetadataMap::new()), UNSAID);
        for bad in ["", "S", "10", "-1S", "+1S", "1s", "123456789S", "1 S", "ä"] {
            let mut metadata = MetadataMap::new();
            if let Ok(value) = bad.parse() {
                metadata.insert("grpc-timeout", value);
            }
            assert_eq!(within(&metadata), UNSAID, "{bad:?}");
        }
    }
}
