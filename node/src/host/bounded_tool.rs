//! Programs of the system that may hang with a device: run with a bound, and left behind when they do not even die.

use std::ffi::OsStr;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Most of what a program wrote that becomes part of a message, in bytes: the end of it, where programs say why.
const MESSAGE_BYTES_MAX: usize = 1000;

/// What a program ended with, and what it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none: a signal ended it.
    pub code: Option<i32>,
    /// Its output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Ended {
    /// What it said, in one line: its errors, or its output where it wrote none, or how it ended.
    #[must_use]
    pub fn message(&self) -> String {
        let said = [&self.stderr, &self.stdout].into_iter().map(|text| last_part(text)).find(|said| !said.is_empty());
        said.unwrap_or_else(|| {
            self.code.map_or_else(|| "a signal ended it".to_owned(), |code| format!("exit code {code}"))
        })
    }
}

/// Why there is no end of a program.
#[derive(Debug, thiserror::Error)]
pub enum RunBoundedError {
    /// It cannot be started.
    #[error("cannot run {tool}; it belongs to the package {package}")]
    Start {
        /// Its name.
        tool: &'static str,
        /// The package that has it.
        package: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It took too long and was killed. One that waits for a device dies only when that answers: it is not waited for.
    #[error("{tool} has not ended within {} s", within.as_secs_f32())]
    TimedOut {
        /// Its name.
        tool: &'static str,
        /// How long it had.
        within: Duration,
    },
    /// It ended, with an error.
    #[error("{tool}: {message}")]
    Failed {
        /// Its name.
        tool: &'static str,
        /// Its exit code; none: a signal ended it.
        code: Option<i32>,
        /// What it wrote.
        message: String,
    },
}

/// A program: its name and the package that has it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name, looked for in PATH.
    pub name: &'static str,
    /// Debian's package.
    pub package: &'static str,
}

impl Tool {
    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// It cannot be started, or does not end within `within`.
    pub async fn end<A: AsRef<OsStr>>(self, arguments: &[A], within: Duration) -> Result<Ended, RunBoundedError> {
        let Self { name: tool, package } = self;
        let mut command = Command::new(tool);
        // Messages are compared and shown: they are wanted in one language. The kill comes with the drop at the end of the bound; the
        // runtime collects the process whenever it is over.
        command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).kill_on_drop(true);
        let start = |source| RunBoundedError::Start { tool, package, source };
        let output = match tokio::time::timeout(within, command.output()).await {
            Ok(output) => output.map_err(start)?,
            Err(_) => return Err(RunBoundedError::TimedOut { tool, within }),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
    }

    /// Runs it to a good end: code 0, or one of `fine`.
    ///
    /// # Errors
    /// It cannot be started, does not end within `within`, or fails.
    pub async fn run<A: AsRef<OsStr>>(
        self,
        arguments: &[A],
        fine: &[i32],
        within: Duration,
    ) -> Result<Ended, RunBoundedError> {
        let ended = self.end(arguments, within).await?;
        match ended.code {
            Some(code) if code == 0 || fine.contains(&code) => Ok(ended),
            code => Err(RunBoundedError::Failed { tool: self.name, code, message: ended.message() }),
        }
    }
}

/// The last lines of a text as one line.
fn last_part(text: &str) -> String {
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let mut start = line.len().saturating_sub(MESSAGE_BYTES_MAX);
    while !line.is_char_boundary(start) {
        start += 1;
    }
    line[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::{RunBoundedError, Tool};
    use std::time::{Duration, Instant};

    const SH: Tool = Tool { name: "sh", package: "dash" };

    #[tokio::test]
    async fn the_end_is_told_with_what_was_written() {
        let within = Duration::from_secs(20);
        let ended = SH.end(&["-c", "echo out; echo one >&2; echo two >&2; exit 3"], within).await.expect("it ends");
        assert_eq!((ended.code, ended.stdout.as_str(), ended.message().as_str()), (Some(3), "out\n", "one; two"));
        let failed = SH.run(&["-c", "echo no >&2; exit 3"], &[1], within).await.expect_err("3 is not fine");
        assert_eq!(failed.to_string(), "sh: no");
        SH.run(&["-c", "exit 3"], &[3], within).await.expect("3 is fine");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed() {
        let start = Instant::now();
        let failed = SH.end(&["-c", "exec sleep 1000"], Duration::from_millis(50)).await.expect_err("it is too long");
        assert!(matches!(failed, RunBoundedError::TimedOut { .. }));
        assert!(start.elapsed() < Duration::from_secs(500));
    }

    #[tokio::test]
    async fn a_missing_program_names_its_package() {
        let none = Tool { name: "lockstep-no-such-program", package: "nowhere" };
        let failed = none.end(&[""], Duration::from_secs(20)).await.expect_err("there is none");
        assert!(failed.to_string().contains("nowhere"));
    }
}
