//! The engine's metrics in Prometheus text. `docs/metrics.md` lists the names; they are stable.

use std::sync::atomic::Ordering;

use lockstep_core::DiskState;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::engine::{Engine, VolumeState};
use crate::event_loop::{LoopCommand, LoopCounters};
use crate::lease_port::LeaseRequests;
use crate::pending::pending;
use crate::volume::VolumeStatus;

type Labels = Vec<(&'static str, String)>;

/// Collects samples of one scrape into families.
struct Sheet {
    registry: Registry,
}

impl Sheet {
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        self.registry.register(name, help, counter);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.registry.register(name, help, gauge);
    }

    fn counters(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).inc_by(value);
        }
        self.registry.register(name, help, family);
    }

    fn gauges(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in samples {
            family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.registry.register(name, help, family);
    }
}

impl Engine {
    /// All metrics in Prometheus text. Asks each loop; waits for the busiest.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let mut sheet = Sheet { registry: Registry::with_prefix("lockstep") };
        self.put_connections(&mut sheet);
        put_loops(&mut sheet, &self.loop_counters());
        let entries = self.list();
        let failed = entries.iter().filter(|entry| matches!(entry.state, VolumeState::Failed(_))).count();
        sheet.gauge("volumes", "Volumes on this node", entries.len() as u64);
        sheet.gauge("volumes_failed", "Volumes whose files cannot be used", failed as u64);
        let asked: Vec<_> = entries.iter().filter_map(|entry| self.status(&entry.name).ok()).collect();
        let statuses: Vec<VolumeStatus> = asked.into_iter().filter_map(|status| status.wait()).collect();
        put_core_counters(&mut sheet, &statuses);
        put_shell_counters(&mut sheet, &statuses);
        put_states(&mut sheet, &statuses);
        if let Some(leases) = &self.shared.leases {
            put_leases(&mut sheet, &leases.requests());
        }
        let mut text = String::new();
        encode(&mut text, &sheet.registry).expect("writing to a string does not fail");
        text
    }

    fn loop_counters(&self) -> Vec<LoopCounters> {
        let asked: Vec<_> = (self.shared.loops.iter())
            .map(|each| {
                let (done, counters) = pending();
                each.send(LoopCommand::Counters { done });
                counters
            })
            .collect();
        asked.into_iter().filter_map(|counters| counters.wait()).collect()
    }

    fn put_connections(&self, sheet: &mut Sheet) {
        let counters = &self.shared.counters;
        let rows = [
            ("connections_accepted", "Connections accepted", &counters.accepted),
            (
                "connections_hostile",
                "Connections refused: not the protocol, another version, or without the key",
                &counters.hostile,
            ),
            ("connections_crowded", "Connections closed because too many were being greeted", &counters.crowded),
            ("payloads_damaged", "Payloads with a wrong checksum; each ended its connection", &counters.damaged),
            ("exit_reports", "Reports of other nodes' supervisors", &counters.reports),
        ];
        for (name, help, value) in rows {
            sheet.counter(name, help, value.load(Ordering::Relaxed));
        }
    }
}

fn put_loops(sheet: &mut Sheet, loops: &[LoopCounters]) {
    let rows: [(&str, &str, fn(&LoopCounters) -> u64); 4] = [
        ("loop_turns", "Turns of the event loop", |each| each.turns),
        ("loop_enters", "System calls of the event loop's ring", |each| each.enters),
        ("loop_submissions", "Entries submitted to the ring", |each| each.submitted),
        ("loop_completions", "Completions of the ring", |each| each.completions),
    ];
    let labels = |index: usize| vec![("loop", index.to_string())];
    for (name, help, value) in rows {
        sheet.counters(name, help, loops.iter().enumerate().map(|(index, each)| (labels(index), value(each))));
    }
    let bytes = loops.iter().enumerate().map(|(index, each)| (labels(index), each.buffer_bytes));
    sheet.gauges("loop_buffer_bytes", "Bytes of the loop's buffers in use", bytes);
}

fn of_volume(status: &VolumeStatus) -> Labels {
    vec![("volume", status.name.clone())]
}

fn put_core_counters(sheet: &mut Sheet, statuses: &[VolumeStatus]) {
    let rows: [(&str, &str, fn(&VolumeStatus) -> u64); 17] = [
        ("front_reads", "Reads of the front end", |s| s.core.counters.front_reads),
        ("front_writes", "Writes, zeroes and discards of the front end", |s| s.core.counters.front_writes),
        ("front_flushes", "Flushes of the front end", |s| s.core.counters.front_flushes),
        ("front_errors", "Requests of the front end that failed", |s| s.core.counters.front_errors),
        ("sent_writes", "Frames sent that carry writes", |s| s.core.counters.sent_writes),
        ("sent_heartbeats", "Heartbeats and their answers sent", |s| s.core.counters.sent_heartbeats),
        ("sent_other", "All other frames sent", |s| s.core.counters.sent_other),
        ("peer_writes", "Writes of peers applied", |s| s.core.counters.peer_writes),
        ("peer_reads", "Reads served for peers", |s| s.core.counters.peer_reads),
        ("remote_reads", "Reads that a peer served", |s| s.core.counters.remote_reads),
        ("stale_refused", "Frames refused as stale", |s| s.core.counters.stale_refused),
        ("old_session_dropped", "Frames of an older session dropped", |s| s.core.counters.old_session_dropped),
        ("resync_copied_bytes", "Bytes that resync copied here", |s| s.core.counters.resync_copied_bytes),
        ("resync_compared_bytes", "Bytes that resync compared", |s| s.core.counters.resync_compared_bytes),
        ("swaps", "Configurations that this node decided", |s| s.core.counters.swaps),
        ("grants_taken", "Ranges granted to this node", |s| s.core.grants.as_ref().map_or(0, |grants| grants.taken)),
        ("grants_given", "Ranges given back for others", |s| s.core.grants.as_ref().map_or(0, |grants| grants.given)),
    ];
    for (name, help, value) in rows {
        sheet.counters(name, help, statuses.iter().map(|status| (of_volume(status), value(status))));
    }
}

fn put_shell_counters(sheet: &mut Sheet, statuses: &[VolumeStatus]) {
    let rows: [(&str, &str, fn(&VolumeStatus) -> u64); 7] = [
        ("link_sent_bytes", "Bytes sent to peers", |s| s.sent_bytes),
        ("link_received_bytes", "Bytes received from peers", |s| s.received_bytes),
        ("link_sends", "Batches of frames sent", |s| s.sends),
        ("link_receives", "Batches of bytes received", |s| s.receives),
        ("link_received_frames", "Frames received", |s| s.received_frames),
        ("disk_errors", "Disk operations that failed", |s| s.disk_errors),
        ("meta_commits", "Group commits of metadata", |s| s.meta_commits),
    ];
    for (name, help, value) in rows {
        sheet.counters(name, help, statuses.iter().map(|status| (of_volume(status), value(status))));
    }
}

fn put_leases(sheet: &mut Sheet, requests: &[LeaseRequests]) {
    let rows: [(&str, &str, fn(&LeaseRequests) -> u64); 2] = [
        ("lease_requests", "Requests sent to the API server", |it| it.sent),
        ("lease_requests_failed", "Requests to the API server that were refused or had no answer", |it| it.failed),
    ];
    let labels = |it: &LeaseRequests| vec![("verb", it.verb.to_owned()), ("kind", it.kind.to_owned())];
    for (name, help, value) in rows {
        sheet.counters(name, help, requests.iter().map(|it| (labels(it), value(it))));
    }
}

fn put_states(sheet: &mut Sheet, statuses: &[VolumeStatus]) {
    let rows: [(&str, &str, fn(&VolumeStatus) -> u64); 11] = [
        ("grants_waiting", "Requests for grants that wait: everybody's on the granting node", |s| {
            s.core.grants.as_ref().map_or(0, |grants| grants.waiting.len() as u64)
        }),
        ("grant_wait_max_microseconds", "Longest wait of this node for a grant", |s| {
            s.core.grants.as_ref().map_or(0, |grants| grants.longest_wait / 1_000)
        }),
        ("epoch", "Epoch installed", |s| s.core.config.epoch.0),
        ("in_sync_replicas", "Replicas in sync", |s| s.core.config.in_sync.len() as u64),
        ("joining_replicas", "Replicas on their way into sync", |s| s.core.config.joining.len() as u64),
        ("replica_up_to_date", "1 if this node's replica is in sync", |s| {
            u64::from(s.core.disk == DiskState::UpToDate)
        }),
        ("replica_failed", "1 if this node's replica failed", |s| {
            u64::from(matches!(s.core.disk, DiskState::Failed(_)))
        }),
        ("attached", "1 if the volume is attached here", |s| u64::from(s.core.attached)),
        ("configuration_frozen", "1 while the configuration cannot change: its Lease is lost", |s| {
            u64::from(s.register_lost.is_some())
        }),
        ("frozen", "1 while requests wait for a quorum", |s| u64::from(s.core.frozen)),
        ("intent_regions", "Regions with write intent", |s| s.core.intent_regions),
    ];
    for (name, help, value) in rows {
        sheet.gauges(name, help, statuses.iter().map(|status| (of_volume(status), value(status))));
    }
    let with = |status: &VolumeStatus, key: &'static str, value: String| {
        let mut labels = of_volume(status);
        labels.push((key, value));
        labels
    };
    let dirty = statuses.iter().flat_map(|status| {
        let peers = status.core.dirty_blocks.iter();
        peers.map(move |(peer, blocks)| (with(status, "peer", peer.to_string()), blocks * 4096))
    });
    sheet.gauges("dirty_bytes", "Bytes that an absent peer lacks", dirty);
    let links = statuses.iter().flat_map(|status| {
        let each = status.links.iter();
        each.map(move |link| {
            let mut labels = with(status, "peer", link.peer.to_string());
            labels.push(("network", format!("{:?}", link.net).to_lowercase()));
            (labels, link.queued_bytes)
        })
    });
    sheet.gauges("link_queued_bytes", "Bytes that wait to be sent on a link that is up", links);
}
