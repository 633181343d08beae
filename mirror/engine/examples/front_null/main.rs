//! A front end over memory instead of replicas: shows how one is driven, and how fast it is on its own.
//!
//! ```text
//! front_null loop NAME SIZE_MIB [--fuse device|single:N|io_uring] [--store ram|nothing]
//! front_null nbd SOCKET SIZE_MIB [--store ram|nothing]
//! ```
//!
//! Prints the device or the socket, and ends when its standard input is closed.

#[expect(dead_code, reason = "the tests use more of it")]
mod backend;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use backend::{Backend, Command, Store};
use lockstep_engine::front::fuse::DeviceReads;
use lockstep_engine::front::loopdev::file_name_for;
use lockstep_engine::front::{
    FrontEnd, FuseConfig, FuseFrontEnd, FuseTransport, LoopDevice, LoopSetup, NbdAddress, NbdConfig, NbdFrontEnd,
};

struct Options {
    kind: String,
    path: PathBuf,
    size_bytes: u64,
    transport: FuseTransport,
    store: Store,
}

fn main() -> io::Result<()> {
    let Some(options) = parse(std::env::args().skip(1).collect()) else {
        eprintln!("usage: front_null loop NAME SIZE_MIB [--fuse device|single:N|io_uring] [--store ram|nothing]");
        eprintln!("       front_null nbd SOCKET SIZE_MIB [--store ram|nothing]");
        std::process::exit(2);
    };
    match options.kind.as_str() {
        "loop" => serve_loop(options),
        "nbd" => serve_nbd(options),
        _ => Err(io::Error::other("unknown front end")),
    }
}

fn parse(args: Vec<String>) -> Option<Options> {
    let [kind, path, size, rest @ ..] = args.as_slice() else { return None };
    let mut options = Options {
        kind: kind.clone(),
        path: path.into(),
        size_bytes: size.parse::<u64>().ok()? << 20,
        transport: FuseTransport::Device(DeviceReads::Multishot),
        store: Store::Ram,
    };
    for pair in rest.chunks(2) {
        match pair {
            [name, value] if name == "--fuse" => {
                options.transport = match value.as_str() {
                    "device" => FuseTransport::Device(DeviceReads::Multishot),
                    "io_uring" => FuseTransport::Uring,
                    single => FuseTransport::Device(DeviceReads::Single(single.strip_prefix("single:")?.parse().ok()?)),
                }
            }
            [name, value] if name == "--store" => {
                options.store = if value == "ram" { Store::Ram } else { Store::Nothing };
            }
            _ => return None,
        }
    }
    Some(options)
}

fn wait_for_end_of_input() {
    let mut rest = Vec::new();
    let _ = io::stdin().read_to_end(&mut rest);
}

fn serve_loop(options: Options) -> io::Result<()> {
    // What an earlier run left behind when it was killed.
    let file_name = file_name_for(&options.path);
    LoopDevice::reclaim(&file_name, Path::new("/dev"));
    let config = FuseConfig::new(file_name.clone(), options.size_bytes, options.transport);
    let max_io_bytes = config.max_io_bytes;
    let (backend, (connection, root)) =
        Backend::spawn(options.size_bytes, options.store, move |base, group, submitter| {
            let (front, root) = FuseFrontEnd::start(&config, base, group, submitter).map_err(io::Error::other)?;
            let connection = front.connection().clone();
            Ok((FrontEnd::Fuse(front), (connection, root)))
        })?;
    let setup = LoopSetup {
        root,
        file_name: connection.file_name(&file_name),
        size_bytes: options.size_bytes,
        read_only: false,
        max_io_bytes,
        device_dir: Path::new("/dev").to_owned(),
    };
    let device = match setup.run() {
        Ok(device) => device,
        Err(error) => {
            connection.abort();
            backend.join()?;
            return Err(io::Error::other(error));
        }
    };
    println!("{}", device.path().display());
    wait_for_end_of_input();
    device.detach().map_err(io::Error::other)?;
    print_counters(&backend);
    backend.join()
}

fn serve_nbd(options: Options) -> io::Result<()> {
    let mut config = NbdConfig::new(NbdAddress::Unix(options.path.clone()), "null".into(), options.size_bytes);
    config.multi_conn = true;
    let (backend, ()) = Backend::spawn(options.size_bytes, options.store, move |base, _, _| {
        let front = NbdFrontEnd::start(&config, base).map_err(io::Error::other)?;
        Ok((FrontEnd::Nbd(front), ()))
    })?;
    println!("nbd+unix:///null?socket={}", options.path.display());
    wait_for_end_of_input();
    print_counters(&backend);
    backend.command(Command::Stop);
    backend.join()
}

fn print_counters(backend: &Backend) {
    let counters = &backend.counters;
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    eprintln!(
        "reads {} writes {} flushes {} zeroes {} discards {} enters {} largest batch {}",
        get(&counters.reads),
        get(&counters.writes),
        get(&counters.flushes),
        get(&counters.zeroes),
        get(&counters.discards),
        get(&counters.enters),
        get(&counters.batch_max),
    );
}
