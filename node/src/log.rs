//! Logs: lines on standard error, `LOCKSTEP_LOG` chooses what (default: info).

use tracing_subscriber::EnvFilter;

/// Starts logging. Once per process.
pub fn start() {
    let filter = EnvFilter::try_from_env("LOCKSTEP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let json = std::env::var("LOCKSTEP_LOG_FORMAT").is_ok_and(|format| format == "json");
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    if json {
        lines.json().init();
    } else {
        lines.init();
    }
}
