//! Where a list goes on: after an id, which need not exist any more.

use super::Refusal;
use crate::controller_port::{Listed, Page};
use crate::volume::VolumeId;

/// No id contains a colon: nothing else can be taken for a token.
const PREFIX: &str = "after:";

/// Parses the two fields of a list's request.
///
/// # Errors
/// A negative number, or a token that was not given out here.
pub(crate) fn parse_page(entries_max: i32, token: &str) -> Result<Page, Refusal> {
    let entries_max = usize::try_from(entries_max)
        .map_err(|_| Refusal::Wrong { field: "max_entries", reason: format!("is negative ({entries_max})") })?;
    let after = match token {
        "" => None,
        token => {
            let id = token.strip_prefix(PREFIX).and_then(VolumeId::parse);
            Some(id.ok_or(Refusal::Token)?)
        }
    };
    Ok(Page { after, entries_max: (entries_max > 0).then_some(entries_max) })
}

/// The token with which a list goes on after these entries; empty where it ends.
pub(crate) fn next<T>(listed: &Listed<T>) -> String {
    match listed.entries.last() {
        Some((id, _)) if listed.more => format!("{PREFIX}{id}"),
        Some(_) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::{next, parse_page};
    use crate::controller_port::{Listed, Page};
    use crate::volume::VolumeId;

    #[test]
    fn a_token_is_parsed_back() {
        let id = VolumeId::parse("pvc-7").expect("an id");
        let listed = Listed { entries: vec![(id.clone(), ())], more: true };
        assert_eq!(parse_page(3, &next(&listed)).expect("ours"), Page { after: Some(id), entries_max: Some(3) });
        assert_eq!(next(&Listed { more: false, ..listed }), "");
        assert_eq!(next(&Listed::<()> { entries: vec![], more: true }), "");
    }

    #[test]
    fn other_tokens_and_negative_numbers_are_refused() {
        for bad in ["invalid-token", "after:", "after:A", "after:../x", "1", "pvc-7"] {
            assert_eq!(parse_page(0, bad).expect_err(bad).code(), Code::Aborted, "{bad}");
        }
        assert_eq!(parse_page(-1, "").expect_err("negative").code(), Code::InvalidArgument);
        assert_eq!(parse_page(0, "").expect("everything"), Page::default());
    }
}
