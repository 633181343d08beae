//! Programs of the system that are run for what we do not do ourselves.

use std::io;
use std::process::{Command, Stdio};

/// Why a program of the system did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum RunToolError {
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
    /// It says that it failed.
    #[error("{tool}: {message}")]
    Failed {
        /// Its name.
        tool: &'static str,
        /// What it wrote.
        message: String,
    },
}

/// Runs `tool` to its end and gives what it printed.
///
/// # Errors
/// It cannot be started, or ends with another code than those in `fine` (or 0).
pub fn run(
    tool: &'static str,
    package: &'static str,
    arguments: &[&str],
    fine: &[i32],
) -> Result<String, RunToolError> {
    let output = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| RunToolError::Start { tool, package, source })?;
    let code = output.status.code();
    if output.status.success() || code.is_some_and(|code| fine.contains(&code)) {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let mut message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.is_empty() {
        message = output.status.to_string();
    }
    Err(RunToolError::Failed { tool, message })
}
