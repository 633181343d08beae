//! The event log of a run: a hash always, lines when asked for.

/// The log.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
    print: bool,
}

impl Trace {
    /// A log that keeps only the hash.
    #[must_use]
    pub fn quiet() -> Trace {
        Trace::default()
    }

    /// A log that prints each line.
    #[must_use]
    pub fn printing() -> Trace {
        Trace { hash: 0, lines: None, print: true }
    }

    /// A log that keeps its lines.
    #[must_use]
    pub fn keeping() -> Trace {
        Trace { hash: 0, lines: Some(Vec::new()), print: false }
    }

    /// Folds a number into the hash.
    pub fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Two runs of one seed have the same.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// True if lines are wanted: whoever makes them asks first.
    #[must_use]
    pub fn wants_lines(&self) -> bool {
        self.print || self.lines.is_some()
    }

    /// Adds a line.
    pub fn line(&mut self, now: u64, line: &str) {
        let line = format!("{:>10.3}ms {line}", now as f64 / 1e6);
        if self.print {
            println!("{line}");
        }
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// The lines that were kept.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}
