//! The recording load by itself, against any device or NBD socket: for a look at a front end without a cluster.
//!
//! ```text
//! load device PATH SIZE_MIB [OPERATIONS]
//! load nbd SOCKET EXPORT SIZE_MIB [OPERATIONS]
//! ```
//!
//! Overwrites what is there, which has to be zeroes at first.

use anyhow::{Context, Result, bail};
use lockstep_e2e::load::{LoadProfile, LoadSession, Recorder, RecorderLimits, Target, scan};
use lockstep_e2e::random::Random;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BOUND: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (target, rest) = match words.as_slice() {
        ["device", path, rest @ ..] => (Target::Device(path.into()), rest),
        ["nbd", socket, export, rest @ ..] => {
            (Target::Nbd { socket: socket.into(), export: (*export).to_owned() }, rest)
        }
        _ => bail!("say device PATH SIZE_MIB, or nbd SOCKET EXPORT SIZE_MIB"),
    };
    let size_mib: u64 = rest.first().context("say the size in MiB")?.parse().context("the size in MiB")?;
    let operations: u64 = rest.get(1).map_or(Ok(20_000), |count| count.parse()).context("the number of operations")?;
    let recorder = Arc::new(Recorder::new(RecorderLimits { blocks: size_mib << 8, found_max: 10 }));
    let began = Instant::now();
    let session = LoadSession::start(&recorder, target.clone(), LoadProfile::default(), &mut Random::new(1));
    session.wait_progress(operations, BOUND)?;
    let counts = session.finish(BOUND)?;
    println!("{counts:?} in {:?}", began.elapsed());
    scan(&recorder, &target)?;
    match recorder.check() {
        Ok(judged) => println!("{judged} operations judged: valid"),
        Err(found) => bail!("{found:#?}"),
    }
    Ok(())
}
