//! The table that a person reads, and the JSON beside it.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::case::Case;
use super::comparison::{Comparison, Series, Subject};
use super::figures::Figures;
use super::levels::Line;

/// Everything that a run measured.
#[derive(Default)]
pub struct Report {
    /// The machine.
    pub machine: String,
    /// The loads.
    pub comparison: Comparison,
    /// Everything else, and the levels.
    pub lines: Vec<Line>,
    /// Sections that could not be measured, and why.
    pub failures: Vec<(String, String)>,
}

impl Report {
    /// The tables.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.machine);
        for series in [Series::OneDisk, Series::PeerOnTmpfs] {
            let rows = self.loads(series);
            if rows.row_count() > 0 {
                text += &format!("\n{}: medians (least .. most) of {} rounds\n{rows}\n", series.name(), self.rounds());
            }
        }
        text += &format!("\nfigures and levels: medians (least .. most)\n{}\n", self.levels());
        for (section, why) in &self.failures {
            text += &format!("\nnot measured: {section}: {why}\n");
        }
        let kept = self.lines.iter().filter(|line| line.holds() == Some(true)).count();
        let promised = self.lines.iter().filter(|line| line.level.is_some()).count();
        text += &format!("\n{kept} of {promised} levels hold\n");
        text
    }

    fn rounds(&self) -> usize {
        self.comparison.keys().map(|key| self.comparison.samples(key).len()).max().unwrap_or(0)
    }

    fn loads(&self, series: Series) -> Table {
        let mut table = new_table(["load", "subject", "rate", "mean", "p99", "CPU/request", "/ qemu", "/ floor"]);
        for case in Case::ALL {
            let subjects = self.comparison.keys().filter(|key| (key.0, key.1) == (series, case));
            for (index, key @ (_, _, subject)) in subjects.enumerate() {
                let mean_of = |figure| self.comparison.figures(key, figure).median().unwrap_or_default();
                let rate = if case.is_sequential() {
                    let rates = self.comparison.figures(key, |it| it.bytes_per_second / 1e6);
                    format!("{} MB/s", with_spread(&rates, 0))
                } else {
                    format!("{} /s", with_spread(&self.comparison.figures(key, |it| it.iops), 0))
                };
                table.add_row([
                    if index == 0 { case.name().to_owned() } else { String::new() },
                    subject.name().to_owned(),
                    rate,
                    format!("{:.0} us", mean_of(|it| it.mean_us)),
                    format!("{:.0} us", mean_of(|it| it.p99_us)),
                    format!("{:.0} us", mean_of(|it| it.cpu_us_per_request)),
                    self.ratio(series, case, subject, Subject::Qemu),
                    self.ratio(series, case, subject, Subject::Floor),
                ]);
            }
        }
        table
    }

    fn ratio(&self, series: Series, case: Case, own: Subject, base: Subject) -> String {
        let is_own = matches!(own, Subject::Lockstep | Subject::LockstepUring);
        let ratios = self.comparison.ratios(series, case, own, base);
        if is_own && ratios.median().is_some() { with_spread(&ratios, 2) } else { String::new() }
    }

    fn levels(&self) -> Table {
        let mut table = new_table(["figure", "measured", "unit", "level", ""]);
        for line in &self.lines {
            let verdict = match (line.level, line.figures.median()) {
                (None, _) => String::new(),
                (Some(_), None) => "MISS: not measured".to_owned(),
                (Some(level), Some(median)) => {
                    level.missed_by(median).map_or_else(|| "pass".to_owned(), |much| format!("MISS by {much}"))
                }
            };
            table.add_row([
                line.what.clone(),
                with_spread(&line.figures, if line.unit == "x" { 2 } else { 1 }),
                line.unit.to_owned(),
                line.level.map(|level| level.to_string()).unwrap_or_default(),
                verdict,
            ]);
        }
        table
    }

    /// The same as a value: every sample of every round.
    pub fn json(&self) -> Value {
        let loads: Vec<Value> = self
            .comparison
            .keys()
            .map(|key @ (series, case, subject)| {
                json!({
                    "series": series.name(), "case": case, "subject": subject.name(),
                    "rounds": self.comparison.samples(key),
                })
            })
            .collect();
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "what": line.what, "unit": line.unit, "rounds": line.figures, "median": line.figures.median(),
                    "level": line.level, "holds": line.holds(),
                })
            })
            .collect();
        json!({ "machine": self.machine, "loads": loads, "figures": lines, "not_measured": self.failures })
    }

    /// Writes the JSON into a directory, under the time's name; the path of the file.
    pub fn write_json(&self, directory: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is past 1970")?.as_secs();
        let path = directory.join(format!("bench-{seconds}.json"));
        let text = serde_json::to_string_pretty(&self.json())?;
        std::fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn with_spread(figures: &Figures, digits: usize) -> String {
    match (figures.median(), figures.spread()) {
        (Some(median), Some((least, most))) if figures.0.len() > 1 => {
            format!("{median:.digits$} ({least:.digits$} .. {most:.digits$})")
        }
        (Some(median), _) => format!("{median:.digits$}"),
        (None, _) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Figures, Line, Report, with_spread};
    use crate::bench::levels::Level;

    #[test]
    fn spread_is_shown_with_the_median() {
        assert_eq!(with_spread(&Figures(vec![3.0, 1.0, 2.0]), 1), "2.0 (1.0 .. 3.0)");
        assert_eq!(with_spread(&Figures(vec![3.0]), 0), "3");
        assert_eq!(with_spread(&Figures::default(), 0), "-");
    }

    #[test]
    fn misses_and_what_was_not_measured_are_told() {
        let line = |value: Vec<f64>| Line::promised("gap", "ms", Figures(value), Level::AtMost(200.0));
        let report = Report {
            lines: vec![line(vec![100.0]), line(vec![300.0]), line(Vec::new())],
            failures: vec![("faults".to_owned(), "no device".to_owned())],
            ..Report::default()
        };
        let text = report.text();
        for expected in
            ["pass", "MISS by 50 %", "MISS: not measured", "not measured: faults: no device", "1 of 3 levels"]
        {
            assert!(text.contains(expected), "{text} lacks {expected:?}");
        }
        assert_eq!(report.json()["figures"][1]["holds"], false);
    }
}
