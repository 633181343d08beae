//! Progress on standard error, for whatever takes longer than two seconds: live on a terminal, else a line now and then.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lockstep_proto::node::v1 as proto;

use super::output;
use crate::failure::Failure;
use crate::input::show_bytes;

/// Nothing is shown before: most commands are over by then.
const SHOW_AFTER: Duration = Duration::from_secs(2);

/// How often a line is printed where nobody watches a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How often a terminal is drawn while nothing changes.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// What is shown while a command runs.
pub(super) struct Progress {
    what: String,
    start: Instant,
    line_at: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(what: impl Into<String>) -> Self {
        let start = Instant::now();
        Self { what: what.into(), start, line_at: start + SHOW_AFTER, bar: None }
    }

    /// Waits for `work`, showing that it runs.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(DRAW_EVERY);
        loop {
            tokio::select! {
                result = &mut work => {
                    self.clear();
                    return result;
                }
                _ = tick.tick() => self.step("", None),
            }
        }
    }

    /// Shows what happens now, and how much of it is done if that is known.
    pub(super) fn step(&mut self, text: &str, amount: Option<Amount>) {
        if self.start.elapsed() < SHOW_AFTER {
            return;
        }
        let elapsed = format!("{:.0} s", self.start.elapsed().as_secs_f64());
        let separator = if text.is_empty() { "" } else { ": " };
        let mut line = format!("{}{separator}{text}", self.what);
        if let Some(amount) = amount {
            line.push_str(&format!(" {}", amount.show()));
        }
        line.push_str(&format!(" ({elapsed})"));
        if output::is_watched() {
            let bar = self.bar.get_or_insert_with(ProgressBar::new_spinner);
            if let Some(amount) = amount.filter(|amount| amount.total > 0) {
                bar.set_length(amount.total);
                bar.set_position(amount.done);
                bar.set_style(style("{spinner} [{bar:30}] {wide_msg}"));
            } else {
                bar.set_style(style("{spinner} {wide_msg}"));
            }
            bar.set_message(line);
            bar.tick();
        } else if Instant::now() >= self.line_at {
            self.line_at = Instant::now() + LINE_EVERY;
            eprintln!("{line}");
        }
    }

    /// Takes what is shown away.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants that are well formed")
}

/// How much of something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    pub done: u64,
    pub total: u64,
    pub bytes_per_second: u64,
    pub seconds_left: Option<u64>,
}

impl Amount {
    pub(super) fn of_verify(verify: &proto::Verify) -> Self {
        Self {
            done: verify.bytes_done,
            total: verify.bytes_total,
            bytes_per_second: verify.bytes_per_second,
            seconds_left: verify.seconds_left,
        }
    }

    pub(super) fn of_resync(resync: &proto::Resync) -> Self {
        Self {
            done: resync.bytes_done,
            total: resync.bytes_total,
            bytes_per_second: resync.bytes_per_second,
            seconds_left: resync.seconds_left,
        }
    }

    /// `12 MiB of 1 GiB, 100 MiB/s, 10 s left`.
    pub(super) fn show(&self) -> String {
        let mut text = format!("{} of {}", show_bytes(self.done), show_bytes(self.total));
        if self.bytes_per_second > 0 {
            text.push_str(&format!(", {}/s", show_bytes(self.bytes_per_second)));
        }
        if let Some(seconds) = self.seconds_left {
            text.push_str(&format!(", {seconds} s left"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Amount;

    #[test]
    fn amounts_have_units() {
        let amount = Amount { done: 12 << 20, total: 1 << 30, bytes_per_second: 100 << 20, seconds_left: Some(10) };
        assert_eq!(amount.show(), "12 MiB of 1 GiB, 100 MiB/s, 10 s left");
    }
}
