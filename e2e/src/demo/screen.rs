//! What the person in front of the demo sees: a live table and progress bars on a terminal, plain lines elsewhere.

use comfy_table::{Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Without a terminal a progress says something new at most this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(2);
const SPINNER_INTERVAL: Duration = Duration::from_millis(100);

/// The terminal, or standard output as lines.
pub struct Screen {
    began: Instant,
    live: Option<Live>,
}

struct Live {
    bars: MultiProgress,
    table: ProgressBar,
}

/// One thing under way.
pub struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    plain_said: Mutex<Option<Instant>>,
    began: Instant,
}

impl Screen {
    /// Live if standard output is a terminal.
    pub fn new() -> Self {
        let live = std::io::stdout().is_terminal().then(|| {
            let bars = MultiProgress::new();
            let table = bars.add(ProgressBar::new_spinner());
            table.set_style(style("{msg}"));
            Live { bars, table }
        });
        Screen { began: Instant::now(), live }
    }

    /// Whether a table is worth drawing.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// A chapter of the story.
    pub fn step(&self, text: &str) {
        self.line(&format!("\n[{:6.1} s] {text}", self.began.elapsed().as_secs_f64()));
    }

    /// A fact.
    pub fn note(&self, text: &str) {
        self.line(&format!("           {text}"));
    }

    fn line(&self, text: &str) {
        match &self.live {
            // A terminal that went away takes no line; the demo goes on.
            Some(live) => drop(live.bars.println(text)),
            None => println!("{text}"),
        }
    }

    /// Draws the table of nodes anew.
    pub fn table(&self, header: &[&str], rows: &[Vec<String>]) {
        if let Some(live) = &self.live {
            live.table.set_message(format!("\n{}", render(header, rows)));
        }
    }

    /// Something that goes from 0 to `total` bytes.
    pub fn progress(&self, name: &str, total_bytes: u64) -> Progress {
        let bar = self.live.as_ref().map(|live| {
            let bar = live.bars.insert_before(&live.table, ProgressBar::new(total_bytes));
            bar.set_style(style("           {prefix:8} [{bar:30}] {bytes}/{total_bytes} {msg}").progress_chars("=> "));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(SPINNER_INTERVAL);
            bar
        });
        Progress { name: name.to_owned(), bar, plain_said: Mutex::new(None), began: self.began }
    }

    /// Takes the live parts away, so that what follows stays on the terminal.
    pub fn finish(&self) {
        if let Some(live) = &self.live {
            live.table.finish_and_clear();
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Screen::new()
    }
}

impl Progress {
    /// Where it is now.
    pub fn set(&self, done_bytes: u64, total_bytes: u64, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total_bytes);
            bar.set_position(done_bytes);
            bar.set_message(text.to_owned());
            return;
        }
        let Ok(mut said) = self.plain_said.lock() else { return };
        if said.is_none_or(|at| at.elapsed() >= PLAIN_INTERVAL) {
            *said = Some(Instant::now());
            println!(
                "[{:6.1} s] {}: {} of {} {text}",
                self.began.elapsed().as_secs_f64(),
                self.name,
                bytes(done_bytes),
                bytes(total_bytes)
            );
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A table as text.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(header.to_vec());
    table.add_rows(rows.iter().cloned());
    table.to_string()
}

/// A number of bytes for people.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// Milliseconds for people.
pub fn milliseconds(span: Duration) -> String {
    format!("{:.0} ms", span.as_secs_f64() * 1000.0)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this file are well formed")
}
