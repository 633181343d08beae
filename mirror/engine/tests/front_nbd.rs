//! The NBD server on a real socket, with memory behind it: a small client of our own, and qemu's and libnbd's where they
//! are installed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

#[path = "../examples/front_null/backend.rs"]
#[allow(dead_code)]
mod backend;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command as Program;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backend::{Backend, Command, Store};
use lockstep_engine::front::{FrontEnd, FrontFailure, NbdAddress, NbdConfig, NbdFrontEnd};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

struct Server {
    backend: Backend,
    dir: PathBuf,
    port: Option<u16>,
}

impl Server {
    fn start(name: &str, change: impl FnOnce(&mut NbdConfig)) -> Server {
        let dir = std::env::temp_dir().join(format!("lockstep-nbd-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut config = NbdConfig::new(NbdAddress::Unix(dir.join("socket")), "v1".into(), SIZE);
        change(&mut config);
        let (backend, port) = Backend::spawn(SIZE, Store::Ram, move |base, _, _| {
            let front = NbdFrontEnd::start(&config, base).map_err(io::Error::other)?;
            let port = front.port();
            Ok((FrontEnd::Nbd(front), port))
        })
        .unwrap();
        Server { backend, dir, port }
    }

    fn connect(&self) -> Client<UnixStream> {
        Client::negotiate(UnixStream::connect(self.dir.join("socket")).unwrap(), false)
    }

    fn end(self) {
        self.backend.command(Command::Stop);
        self.backend.join().unwrap();
        assert!(!self.dir.join("socket").exists());
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// Speaks just enough.
struct Client<S> {
    stream: S,
    structured: bool,
    cookie: u64,
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const FUA: u16 = 1;

impl<S: Read + Write> Client<S> {
    fn negotiate(mut stream: S, structured: bool) -> Client<S> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        let mut client = Client { stream, structured, cookie: 0 };
        if structured {
            client.option(8, &[]);
        }
        client.option(7, &[0, 0, 0, 2, b'v', b'1', 0, 0]);
        client
    }

    /// Sends an option and reads replies until the last.
    fn option(&mut self, code: u32, data: &[u8]) {
        self.stream.write_all(b"IHAVEOPT").unwrap();
        self.stream.write_all(&code.to_be_bytes()).unwrap();
        self.stream.write_all(&(data.len() as u32).to_be_bytes()).unwrap();
        self.stream.write_all(data).unwrap();
        loop {
            let mut head = [0; 20];
            self.stream.read_exact(&mut head).unwrap();
            let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
            let len = u32::from_be_bytes(head[16..20].try_into().unwrap());
            let mut data = vec![0; len as usize];
            self.stream.read_exact(&mut data).unwrap();
            assert!(kind < 1 << 31, "option {code} was refused with {kind:#x}");
            if kind == 1 {
                return;
            }
        }
    }

    fn send(&mut self, flags: u16, command: u16, offset: u64, len: u32, data: &[u8]) -> u64 {
        self.cookie += 1;
        let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(data);
        self.stream.write_all(&bytes).unwrap();
        self.cookie
    }

    /// Reads one reply: cookie, error, and data if `read` bytes were asked for.
    fn receive(&mut self, read: usize) -> (u64, u32, Vec<u8>) {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head).unwrap();
        let u32_at = |bytes: &[u8], at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let cookie = u64::from_be_bytes(head[8..16].try_into().unwrap());
        if u32_at(&head, 0) == 0x6744_6698 {
            let error = u32_at(&head, 4);
            let mut data = vec![0; if error == 0 { read } else { 0 }];
            self.stream.read_exact(&mut data).unwrap();
            return (cookie, error, data);
        }
        assert!(self.structured && u32_at(&head, 0) == 0x668e_33ef);
        let mut len = [0; 4];
        self.stream.read_exact(&mut len).unwrap();
        let mut content = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut content).unwrap();
        let kind = u16::from_be_bytes(head[6..8].try_into().unwrap());
        match kind {
            1 => (cookie, 0, content[8..].to_vec()),
            _ => (cookie, u32_at(&content, 0), Vec::new()),
        }
    }

    fn call(&mut self, flags: u16, command: u16, offset: u64, len: u32, data: &[u8]) -> Result<Vec<u8>, u32> {
        let sent = self.send(flags, command, offset, len, data);
        let (cookie, error, data) = self.receive(if command == READ { len as usize } else { 0 });
        assert_eq!(cookie, sent);
        if error == 0 { Ok(data) } else { Err(error) }
    }
}

#[test]
fn every_operation_does_what_it_says() {
    let server = Server::start("operations", |_| {});
    let mut client = server.connect();
    let data: Vec<u8> = (0..MIB).map(|at| (at >> 5) as u8).collect();
    client.call(0, WRITE, 4096, 1 << 20, &data).unwrap();
    client.call(FUA, WRITE, 8192, 4096, &[1; 4096]).unwrap();
    let read = client.call(0, READ, 4096, 1 << 20, &[]).unwrap();
    assert!(read[..4096] == data[..4096] && read[4096..8192] == [1; 4096] && read[8192..] == data[8192..]);
    client.call(0, WRITE_ZEROES, 4096, 4096, &[]).unwrap();
    assert_eq!(client.call(0, READ, 4096, 4096, &[]).unwrap(), [0; 4096]);
    client.call(0, TRIM, 0, SIZE as u32, &[]).unwrap();
    client.call(0, FLUSH, 0, 0, &[]).unwrap();
    let counters = server.backend.counters.clone();
    assert_eq!(counters.fua.load(Ordering::Relaxed), 1);
    assert_eq!(counters.flushes.load(Ordering::Relaxed), 1);
    assert_eq!(counters.discards.load(Ordering::Relaxed), 1);
    client.send(0, DISCONNECT, 0, 0, &[]);
    assert_eq!(client.stream.read(&mut [0]).unwrap(), 0);
    server.end();
}

#[test]
fn structured_replies_carry_data_and_errors() {
    let server = Server::start("structured", |_| {});
    let stream = UnixStream::connect(server.dir.join("socket")).unwrap();
    let mut client = Client::negotiate(stream, true);
    client.call(0, WRITE, 0, 4096, &[6; 4096]).unwrap();
    assert_eq!(client.call(0, READ, 0, 4096, &[]).unwrap(), [6; 4096]);
    assert_eq!(client.call(0, READ, SIZE, 4096, &[]), Err(22));
    server.backend.command(Command::Fail(Some(FrontFailure::Io)));
    while client.call(0, READ, 0, 4096, &[]) != Err(5) {}
    server.end();
}

#[test]
fn refused_write_does_not_disturb_what_follows() {
    let server = Server::start("refused", |_| {});
    let mut client = server.connect();
    assert_eq!(client.call(0, WRITE, 0, 1000, &[1; 1000]), Err(22));
    assert_eq!(client.call(0, WRITE, SIZE, 4096, &[1; 4096]), Err(28));
    assert_eq!(client.call(0, WRITE, 0, 3 << 20, &vec![1; 3 << 20]), Err(22));
    assert_eq!(client.call(0, 99, 0, 4096, &[]), Err(22));
    client.call(0, WRITE, 0, 4096, &[2; 4096]).unwrap();
    assert_eq!(client.call(0, READ, 0, 4096, &[]).unwrap(), [2; 4096]);
    server.end();
}

#[test]
fn read_only_export_refuses_changes() {
    let server = Server::start("readonly", |config| config.read_only = true);
    let mut client = server.connect();
    assert_eq!(client.call(0, WRITE, 0, 4096, &[1; 4096]), Err(1));
    assert_eq!(client.call(0, READ, 0, 4096, &[]).unwrap(), [0; 4096]);
    server.end();
}

#[test]
fn many_requests_wait_for_little_memory_and_all_are_answered() {
    let server = Server::start("memory", |config| {
        config.memory_bytes = 1 << 20;
        config.in_flight_max = 4;
    });
    let mut writer = server.connect();
    let mut reader = server.connect();
    let mut sender =
        UnixStream::try_clone(&writer.stream).map(|stream| Client { stream, structured: false, cookie: 0 }).unwrap();
    let thread = std::thread::spawn(move || {
        for number in 0..200u64 {
            let len = if number % 7 == 0 { 1 << 20 } else { 4096 };
            sender.send(0, WRITE, number * 4096, len, &vec![number as u8; len as usize]);
        }
    });
    for _ in 0..100 {
        reader.call(0, READ, 0, 1 << 20, &[]).unwrap();
    }
    let mut answered: Vec<u64> = (0..200)
        .map(|_| writer.receive(0))
        .map(|(cookie, error, _)| {
            assert_eq!(error, 0);
            cookie
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, (1..=200).collect::<Vec<u64>>());
    thread.join().unwrap();
    server.end();
}

#[test]
fn nonsense_and_vanished_clients_end_only_themselves() {
    let server = Server::start("nonsense", |_| {});
    let mut honest = server.connect();
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 300], &[0, 0, 0, 3, 1, 2, 3]] {
        let mut stream = UnixStream::connect(server.dir.join("socket")).unwrap();
        stream.write_all(nonsense).unwrap();
    }
    let mut bad_request = server.connect();
    bad_request.stream.write_all(&[7; 28]).unwrap();
    assert_eq!(bad_request.stream.read(&mut [0]).unwrap_or(0), 0);
    // In the middle of a write's data.
    let mut vanishing = server.connect();
    vanishing.send(0, WRITE, 0, 1 << 20, &[1; 5000]);
    drop(vanishing);
    // With replies that nobody reads.
    let mut deaf = server.connect();
    for _ in 0..20 {
        deaf.send(0, READ, 0, 1 << 20, &[]);
    }
    drop(deaf);
    honest.call(0, WRITE, 0, 4096, &[3; 4096]).unwrap();
    for _ in 0..40 {
        assert_eq!(server.connect().call(0, READ, 0, 4096, &[]).unwrap(), [3; 4096]);
    }
    server.end();
}

#[test]
fn silent_client_is_let_go() {
    let server = Server::start("silent", |config| config.negotiation_timeout = Duration::from_millis(20));
    let mut silent = UnixStream::connect(server.dir.join("socket")).unwrap();
    let mut said = Vec::new();
    silent.read_to_end(&mut said).unwrap();
    assert_eq!(said.len(), 18);
    // Who has negotiated may be silent for as long as he likes: his connection outlives a silent one made after it.
    let mut patient = server.connect();
    UnixStream::connect(server.dir.join("socket")).unwrap().read_to_end(&mut Vec::new()).unwrap();
    patient.call(0, FLUSH, 0, 0, &[]).unwrap();
    server.end();
}

#[test]
fn tcp_serves_the_same() {
    let any_port = NbdAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into());
    let server = Server::start("tcp", |config| config.address = any_port);
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port.unwrap())).unwrap();
    let mut client = Client::negotiate(stream, true);
    client.call(0, WRITE, 0, 4096, &[8; 4096]).unwrap();
    assert_eq!(client.call(0, READ, 0, 4096, &[]).unwrap(), [8; 4096]);
    server.end();
}

#[test]
fn second_server_does_not_take_a_living_socket_and_takes_a_dead_one() {
    let server = Server::start("twice", |_| {});
    let config = NbdConfig::new(NbdAddress::Unix(server.dir.join("socket")), "v1".into(), SIZE);
    let second = Backend::spawn(SIZE, Store::Nothing, move |base, _, _| {
        let front = NbdFrontEnd::start(&config, base).map_err(io::Error::other)?;
        Ok((FrontEnd::Nbd(front), ()))
    });
    assert!(second.is_err());
    let dir = server.dir.clone();
    server.end();
    std::fs::create_dir_all(&dir).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap());
    let server = Server::start("twice", |_| {});
    server.connect().call(0, FLUSH, 0, 0, &[]).unwrap();
    server.end();
}

/// Foreign clients, where they are installed.
#[test]
fn qemu_and_libnbd_agree_with_it() {
    let server = Server::start("foreign", |config| config.multi_conn = true);
    let uri = format!("nbd+unix:///v1?socket={}", server.dir.join("socket").display());
    let image = server.dir.join("image");
    std::fs::write(&image, (0..SIZE).map(|at| (at >> 11) as u8).collect::<Vec<u8>>()).unwrap();
    let image = image.to_str().unwrap();
    let run = |program: &str, args: &[&str]| match Program::new(program).args(args).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => eprintln!("skipped: {program} is not installed"),
        Err(error) => panic!("{program}: {error}"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        }
    };
    run("nbdinfo", &[&uri]);
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", image, &uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", image, &uri]);
    run("nbdcopy", &[image, &uri]);
    run("nbdcopy", &["--", &uri, "null:"]);
    let write =
        ["-f", "raw", "-c", "write -f -P 7 1M 1M", "-c", "discard 2M 1M", "-c", "write -z 3M 1M", "-c", "flush"];
    run("qemu-io", &[&write[..], &[&uri]].concat());
    let read = ["-f", "raw", "-c", "read -P 7 1M 1M", "-c", "read -P 0 3M 1M"];
    run("qemu-io", &[&read[..], &[&uri]].concat());
    server.end();
}
