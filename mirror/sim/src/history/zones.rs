//! The fast checker, for histories in which every write has a value of its own (Gibbons and Korach, "Testing shared
//! memories", 1997).
//!
//! A write and the reads that returned its value form a *cluster*. `ended` is the earliest completion in the cluster, `begun` the
//! latest invocation. If some operation of cluster X ended before some operation of cluster Y began, then X's value was there before Y's.
//! The history is linearizable exactly if no read comes before its write and no two clusters each come before the other.
//! A cluster with `ended < begun` occupies that *zone* alone; zones may not overlap, and a cluster whose own interval
//! is the other way round may not lie inside a zone: after sorting the zones, each of both is a look at one neighbour.

use super::{BlockHistory, Call, Contradiction, End, Moment, Operation, Value, Violation};
use std::collections::BTreeMap;

/// A value's write and reads, reduced to the two operations that decide.
#[derive(Clone, Copy)]
struct Cluster {
    /// The operation that completed first.
    ended: Operation,
    /// The operation that was invoked last.
    begun: Operation,
    /// Whether the value must have been there at some moment.
    took_effect: bool,
}

impl Cluster {
    fn of_write(write: Operation) -> Self {
        Cluster { ended: write, begun: write, took_effect: matches!(write.end, End::Completed(_)) }
    }

    fn add_read(&mut self, read: Operation) {
        if read.end.bound() < self.ended.end.bound() {
            self.ended = read;
        }
        if read.invoked > self.begun.invoked {
            self.begun = read;
        }
        self.took_effect = true;
    }

    fn is_zone(&self) -> bool {
        self.ended.end.bound() < self.begun.invoked
    }

    /// Whether something of this cluster ended before something of `other` began.
    fn comes_before(&self, other: &Cluster) -> bool {
        self.ended.end.bound() < other.begun.invoked
    }
}

/// Checks a history whose writes all have different values, none of them the initial one.
pub fn check_by_zones(history: &BlockHistory) -> Result<(), Violation> {
    let clusters = clusters_of(history)?;
    let (mut zones, points): (Vec<Cluster>, Vec<Cluster>) =
        clusters.into_values().filter(|cluster| cluster.took_effect).partition(Cluster::is_zone);
    zones.sort_by_key(|zone| zone.ended.end.bound());

    for pair in zones.windows(2) {
        if let [first, second] = pair {
            refuse_each_before_other(first, second)?;
        }
    }
    for point in &points {
        // Zones are disjoint by now, so that of those that end something before the point begins only the last can
        // still begin something after the point has ended.
        let later = zones.partition_point(|zone| zone.comes_before(point));
        if let Some(zone) = later.checked_sub(1).and_then(|index| zones.get(index)) {
            refuse_each_before_other(zone, point)?;
        }
    }
    Ok(())
}

fn clusters_of(history: &BlockHistory) -> Result<BTreeMap<Value, Cluster>, Violation> {
    // The initial value is a write that ended before everything: recorders count moments from 1.
    let initial = Operation {
        call: Call::Write(history.initial),
        invoked: Moment(0),
        end: End::Completed(Moment(0)),
        origin: u32::MAX,
    };
    let mut clusters = BTreeMap::from([(history.initial, Cluster::of_write(initial))]);
    for operation in &history.operations {
        if let Call::Write(value) = operation.call {
            clusters.insert(value, Cluster::of_write(*operation));
        }
    }
    // The write itself has to be looked up again for the reads below: a cluster keeps only what ended first.
    let writes: BTreeMap<Value, Operation> = clusters.iter().map(|(value, cluster)| (*value, cluster.ended)).collect();
    for operation in &history.operations {
        let (Call::Read(value), End::Completed(completed)) = (operation.call, operation.end) else {
            continue;
        };
        let (Some(cluster), Some(write)) = (clusters.get_mut(&value), writes.get(&value)) else {
            return Err(Violation::ReadUnwritten { read: *operation });
        };
        if completed < write.invoked {
            return Err(Violation::ReadBeforeWrite { read: *operation, write: *write });
        }
        cluster.add_read(*operation);
    }
    Ok(clusters)
}

fn refuse_each_before_other(first: &Cluster, second: &Cluster) -> Result<(), Violation> {
    if first.comes_before(second) && second.comes_before(first) {
        return Err(Violation::EachBeforeOther(Box::new(Contradiction {
            older: first.ended,
            newer: second.begun,
            newer_seen: second.ended,
            older_seen: first.begun,
        })));
    }
    Ok(())
}
