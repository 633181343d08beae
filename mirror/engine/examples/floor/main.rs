//! The floor under a mirror of two local files: what is left when everything but the work itself is taken away.
//!
//! `floor LOCAL PEER BLOCK DEPTH SECONDS random|sequential` keeps DEPTH writes of BLOCK bytes going. Each is written to
//! the file LOCAL with O_DIRECT and, at the same time, sent over TCP on the loopback interface to a second thread, which
//! writes it to the file PEER and answers; it is complete when both are done. No device, no front end, no bookkeeping, no
//! checksum. Both files exist and are written once before. Prints one JSON object.

mod peer;
mod ring;
mod writer;

use std::fs::{File, OpenOptions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use writer::{Load, Pattern};

type Fault = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [local, peer, block, depth, seconds, pattern] = arguments.as_slice() else {
        return Err("usage: floor LOCAL PEER BLOCK DEPTH SECONDS random|sequential".into());
    };
    let pattern = match pattern.as_str() {
        "random" => Pattern::Random,
        "sequential" => Pattern::Sequential,
        other => return Err(format!("pattern {other}: random or sequential").into()),
    };
    let local = open_direct(Path::new(local))?;
    let load = Load {
        block: block.parse()?,
        depth: depth.parse()?,
        duration: Duration::from_secs(seconds.parse()?),
        file_bytes: local.metadata()?.len(),
        pattern,
    };
    let peer_file = open_direct(Path::new(peer))?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let socket = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for end in [&socket, &accepted] {
        end.set_nodelay(true)?;
    }
    let serving = std::thread::spawn(move || peer::serve(&peer_file, &accepted, load.block, load.depth));
    let mut latencies = writer::run(&local, &socket, &load)?;
    drop(socket);
    serving.join().map_err(|_| "the peer's thread panicked")??;
    println!("{}", report(&load, &mut latencies));
    Ok(())
}

fn open_direct(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)
}

/// `latencies` in nanoseconds, not empty.
fn report(load: &Load, latencies: &mut [u64]) -> String {
    latencies.sort_unstable();
    let count = latencies.len() as u64;
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100] / 1000;
    let seconds = load.duration.as_secs().max(1);
    format!(
        "{{\"requests\":{count},\"iops\":{},\"bytes_per_second\":{},\"mean_us\":{},\"p50_us\":{},\"p99_us\":{}}}",
        count / seconds,
        count / seconds * load.block as u64,
        latencies.iter().sum::<u64>() / count / 1000,
        at(50),
        at(99),
    )
}
