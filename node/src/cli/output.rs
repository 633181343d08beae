//! Printing results and failures.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use super::args::Format;
use crate::failure::Failure;

/// Prints a result: the one JSON value, or what `table` makes of it.
pub(super) fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    let text = match format {
        Format::Json => serde_json::to_string(value).map_err(|error| Failure::of_host("print the result", &error))?,
        Format::Table => table(value),
    };
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
    match written {
        // Whoever read has enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Failure::of_host("print the result", &error)),
    }
}

/// Prints a failure on standard error.
pub(super) fn print_failure(format: Format, failure: &Failure) {
    let text = match format {
        Format::Json => serde_json::json!({ "error": failure }).to_string(),
        Format::Table => format!("lockstep: {failure}"),
    };
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Whether a person looks at standard error.
pub(super) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}
