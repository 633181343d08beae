//! Which nodes live, by the renewals of their Leases that this program saw, on its own clock.
//!
//! Clocks of nodes do not matter. Neither does how old a Lease is when this program first sees it: a leader that has just started
//! knows nothing, and waits as long as for a renewal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;

/// What tells two renewals apart.
type Renewal = (Option<Timestamp>, Option<String>);

/// The last renewal seen of a node's Lease.
#[derive(Debug)]
struct Beat {
    renewal: Renewal,
    /// When it was first seen.
    at: Instant,
    /// Another one was seen before it.
    heard: bool,
}

/// The last renewal seen, per node.
#[derive(Debug, Default)]
pub struct Beats {
    seen: BTreeMap<String, Beat>,
}

impl Beats {
    /// The node's Lease was seen so.
    pub fn hear(&mut self, node: &str, renewal: Renewal, now: Instant) {
        let known = self.seen.get(node);
        // Seen again, not renewed: a watch that began anew lists everything.
        if known.is_none_or(|known| known.renewal != renewal) {
            let heard = known.is_some();
            self.seen.insert(node.to_owned(), Beat { renewal, at: now, heard });
        }
    }

    /// Nodes whose Lease was not renewed for `after`.
    #[must_use]
    pub fn stale(&self, after: Duration, now: Instant) -> BTreeSet<String> {
        let stale = self.seen.iter().filter(|(_, beat)| now.saturating_duration_since(beat.at) >= after);
        stale.map(|(node, _)| node.clone()).collect()
    }

    /// Nodes whose Lease this program never saw renewed: they may live, or may have died before it began. Nothing is done that only
    /// a node that lives allows.
    #[must_use]
    pub fn unheard(&self) -> BTreeSet<String> {
        let unheard = self.seen.iter().filter(|(_, beat)| !beat.heard);
        unheard.map(|(node, _)| node.clone()).collect()
    }

    /// When the next of those that are fresh would become stale.
    #[must_use]
    pub fn next_stale(&self, after: Duration, now: Instant) -> Option<Instant> {
        self.seen.values().map(|beat| beat.at + after).filter(|at| *at > now).min()
    }

    /// How many nodes were ever heard.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seen.len()
    }

    /// How many of them were heard within `window`.
    #[must_use]
    pub fn heard_within(&self, window: Duration, now: Instant) -> usize {
        self.seen.values().filter(|beat| now.saturating_duration_since(beat.at) < window).count()
    }

    /// The node does not exist any more.
    pub fn forget(&mut self, node: &str) {
        self.seen.remove(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_stale_by_this_programs_clock_only() {
        let (mut beats, start) = (Beats::default(), Instant::now());
        let renewal = |number: i64| (Timestamp::from_second(number).ok(), Some(number.to_string()));
        let at = |seconds| start + Duration::from_secs(seconds);
        let after = Duration::from_secs(6);
        // However old it says that it is.
        beats.hear("a", renewal(1), at(0));
        assert!(beats.stale(after, at(5)).is_empty());
        // Listed again without having been renewed.
        beats.hear("a", renewal(1), at(5));
        assert_eq!(beats.stale(after, at(6)), BTreeSet::from(["a".to_owned()]));
        assert_eq!(beats.unheard(), BTreeSet::from(["a".to_owned()]));
        beats.hear("a", renewal(2), at(7));
        assert!(beats.unheard().is_empty(), "it was renewed");
        assert!(beats.stale(after, at(12)).is_empty());
        assert_eq!(beats.next_stale(after, at(12)), Some(at(13)));
    }
}
