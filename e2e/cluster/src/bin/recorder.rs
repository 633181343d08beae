//! What a test pod runs: reads a ledger, says what it found, and goes on writing it, telling the collector each record.
//!
//!     recorder --path /data/ledger --name writer --collector 192.0.2.1:4000 [--check] [--pause-ms 5]
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use lockstep_cluster::ledger::Ledger;

#[derive(Parser)]
struct Options {
    /// A file, made if it is absent, or a block device
    #[arg(long)]
    path: PathBuf,
    /// Where in it the ledger begins, in bytes: a multiple of 4096
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// By which the collector knows this writer
    #[arg(long, default_value = "writer")]
    name: String,
    /// Where to report; without it only to standard output
    #[arg(long)]
    collector: Option<SocketAddr>,
    /// Only read, print `found <last> <damaged>`, and end
    #[arg(long)]
    check: bool,
    /// Between two records, so that a ledger's pace does not load the machine
    #[arg(long, default_value_t = 5)]
    pause_ms: u64,
}

/// As long as the network of a new pod may need to come up.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let ledger = Ledger::open(&options.path, options.offset)?;
    let found = ledger.read()?;
    let greeting = format!("found {} {}", found.last, found.damaged);
    println!("{greeting}");
    if options.check {
        return Ok(());
    }
    let mut collector = match options.collector {
        Some(address) => Some(TcpStream::connect_timeout(&address, CONNECT_WITHIN)?),
        None => None,
    };
    let mut tell = |line: String| -> anyhow::Result<()> {
        if let Some(stream) = &mut collector {
            stream.write_all(line.as_bytes())?;
        }
        Ok(())
    };
    tell(format!("{}\n{greeting}\n", options.name))?;
    for number in found.last + 1.. {
        if let Err(error) = ledger.write(number) {
            tell(format!("error write {number}: {error}\n"))?;
            return Err(error.into());
        }
        tell(format!("ack {number}\n"))?;
        std::thread::sleep(Duration::from_millis(options.pause_ms));
    }
    Ok(())
}
