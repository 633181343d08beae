//! Running other programs with a bound on their time.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for mkfs and fsck on a busy machine; a program that takes longer hangs.
pub const PROGRAM_BOUND: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What a program that ended said.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.status, self.stdout.trim(), self.stderr.trim())
    }
}

/// A command from a program and its arguments.
pub fn program<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    command
}

/// Runs to the end, at most `bound` long; a program that takes longer is killed and is an error.
pub fn run(command: &mut Command, bound: Duration) -> Result<Ended> {
    let shown = show(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
    // Both pipes are drained beside the wait: a full pipe would stop the program.
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let Some(status) = wait_bounded(&mut child, bound).with_context(|| format!("wait for {shown}"))? else {
        // The readers are left to themselves: a program that hangs in the kernel never closes its pipes.
        child.kill().with_context(|| format!("kill {shown}"))?;
        bail!("{shown} did not end within {bound:?}");
    };
    let text = |reader: Reader| reader.and_then(|thread| thread.join().ok()).unwrap_or_default();
    Ok(Ended { status, stdout: text(stdout), stderr: text(stderr) })
}

/// Runs and wants success; returns standard output.
pub fn run_ok(command: &mut Command) -> Result<String> {
    let ended = run(command, PROGRAM_BOUND)?;
    if !ended.status.success() {
        bail!("{} failed: {ended}", show(command));
    }
    Ok(ended.stdout)
}

/// The command line, for messages.
pub fn show(command: &Command) -> String {
    let mut shown = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        shown.push(' ');
        shown.push_str(&argument.to_string_lossy());
    }
    shown
}

type Reader = Option<thread::JoinHandle<String>>;

fn drain(pipe: Option<impl Read + Send + 'static>) -> Reader {
    pipe.map(|mut pipe| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is what there is to show.
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    })
}

/// Waits for a child; `None` if it still runs at the bound.
pub fn wait_bounded(child: &mut Child, bound: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::{program, run, run_ok};
    use std::time::Duration;

    #[test]
    fn output_is_returned() {
        assert_eq!(run_ok(&mut program("echo", ["a", "b"])).unwrap(), "a b\n");
    }

    #[test]
    fn failure_names_the_command_and_what_it_said() {
        let error = run_ok(&mut program("sh", ["-c", "echo no >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("no"), "{error}");
    }

    #[test]
    fn program_that_hangs_is_killed() {
        let error = run(&mut program("sleep", ["600"]), Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
    }
}
