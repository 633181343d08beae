//! A small NBD client of our own: fixed newstyle handshake, simple replies, many requests in flight.
//!
//! It is not the product's code and not a library, so that the tests see the socket as another program would.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const INIT_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const INFO_EXPORT: u16 = 0;
const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// An option reply longer than this is not one.
const OPTION_REPLY_BYTES_MAX: u32 = 4096;
/// A server that accepts and then says nothing for this long is not there.
const HANDSHAKE_BOUND: Duration = Duration::from_secs(10);

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_DISCONNECT: u16 = 2;
const CMD_FLUSH: u16 = 3;
const CMD_TRIM: u16 = 4;
const CMD_WRITE_ZEROES: u16 = 6;
const CMD_FLAG_FUA: u16 = 1;

/// What the server says of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NbdExport {
    /// Its size.
    pub size_bytes: u64,
    /// The transmission flags.
    pub flags: u16,
}

impl NbdExport {
    /// Whether the server takes FLUSH.
    pub fn has_flush(self) -> bool {
        self.flags & (1 << 2) != 0
    }

    /// Whether the server takes FUA.
    pub fn has_fua(self) -> bool {
        self.flags & (1 << 3) != 0
    }

    /// Whether the server takes TRIM.
    pub fn has_trim(self) -> bool {
        self.flags & (1 << 5) != 0
    }

    /// Whether the server takes WRITE_ZEROES.
    pub fn has_write_zeroes(self) -> bool {
        self.flags & (1 << 6) != 0
    }

    /// Whether several connections see one cache.
    pub fn has_multi_connection(self) -> bool {
        self.flags & (1 << 8) != 0
    }
}

type Answer = io::Result<Vec<u8>>;

struct Waiting {
    answer: Sender<Answer>,
    bytes: usize,
}

#[derive(Default)]
struct Pending {
    requests: BTreeMap<u64, Waiting>,
    broken: bool,
}

/// One connection. Its methods may be called from several threads; each waits for its own answer.
pub struct NbdClient {
    export: NbdExport,
    socket: UnixStream,
    sending: Mutex<UnixStream>,
    pending: Arc<Mutex<Pending>>,
    next_cookie: AtomicU64,
}

impl NbdClient {
    /// Connects to a unix socket and asks for the export of this name.
    pub fn connect(path: &Path, name: &str) -> Result<Self> {
        let mut socket = UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
        socket.set_read_timeout(Some(HANDSHAKE_BOUND)).context("bound the handshake")?;
        let export = handshake(&mut socket, name).context("NBD handshake")?;
        socket.set_read_timeout(None).context("unbound the transmission")?;
        let pending = Arc::new(Mutex::new(Pending::default()));
        let sending = Mutex::new(socket.try_clone().context("share the socket")?);
        let (receiving, receivers) = (socket.try_clone().context("share the socket")?, pending.clone());
        thread::spawn(move || receive_replies(receiving, &receivers));
        Ok(NbdClient { export, socket, sending, pending, next_cookie: AtomicU64::new(1) })
    }

    /// What the server says of the export.
    pub fn export(&self) -> NbdExport {
        self.export
    }

    /// Reads.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let found = self.request(CMD_READ, 0, offset, bytes.len(), &[])?;
        bytes.copy_from_slice(&found);
        Ok(())
    }

    /// Writes; with `durable` the answer comes when the data is durable.
    pub fn write(&self, offset: u64, bytes: &[u8], durable: bool) -> io::Result<()> {
        let flags = if durable { CMD_FLAG_FUA } else { 0 };
        self.request(CMD_WRITE, flags, offset, bytes.len(), bytes).map(|_| ())
    }

    /// Makes everything completed before durable.
    pub fn flush(&self) -> io::Result<()> {
        self.request(CMD_FLUSH, 0, 0, 0, &[]).map(|_| ())
    }

    /// Discards a range.
    pub fn trim(&self, offset: u64, length: usize) -> io::Result<()> {
        self.request(CMD_TRIM, 0, offset, length, &[]).map(|_| ())
    }

    /// Zeroes a range.
    pub fn write_zeroes(&self, offset: u64, length: usize) -> io::Result<()> {
        self.request(CMD_WRITE_ZEROES, 0, offset, length, &[]).map(|_| ())
    }

    fn request(&self, command: u16, flags: u16, offset: u64, length: usize, payload: &[u8]) -> Answer {
        let answer = self.send(command, flags, offset, length, payload)?;
        // The receiver drops every sender when the connection ends, so that this wait ends with it.
        answer.recv().unwrap_or_else(|_| Err(connection_lost()))
    }

    fn send(
        &self,
        command: u16,
        flags: u16,
        offset: u64,
        length: usize,
        payload: &[u8],
    ) -> io::Result<Receiver<Answer>> {
        let length_sent = u32::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let cookie = self.next_cookie.fetch_add(1, Ordering::Relaxed);
        let (answer, receiver) = channel();
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.broken {
                return Err(connection_lost());
            }
            let bytes = if command == CMD_READ { length } else { 0 };
            pending.requests.insert(cookie, Waiting { answer, bytes });
        }
        let mut frame = Vec::with_capacity(28 + payload.len());
        frame.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        frame.extend_from_slice(&flags.to_be_bytes());
        frame.extend_from_slice(&command.to_be_bytes());
        frame.extend_from_slice(&cookie.to_be_bytes());
        frame.extend_from_slice(&offset.to_be_bytes());
        frame.extend_from_slice(&length_sent.to_be_bytes());
        frame.extend_from_slice(payload);
        self.sending.lock().unwrap_or_else(PoisonError::into_inner).write_all(&frame)?;
        Ok(receiver)
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        // A polite end if the server still listens; the shutdown ends the receiving thread in any case. A server that is
        // paused may not take the bytes: do not wait for it.
        let _ = self.socket.set_nonblocking(true);
        let mut frame = Vec::with_capacity(28);
        frame.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        frame.extend_from_slice(&0u16.to_be_bytes());
        frame.extend_from_slice(&CMD_DISCONNECT.to_be_bytes());
        frame.extend_from_slice(&[0; 20]);
        let _ = self.socket.write_all(&frame);
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn connection_lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the NBD connection ended")
}

fn receive_replies(mut socket: UnixStream, pending: &Mutex<Pending>) {
    while receive_reply(&mut socket, pending).is_ok() {}
    let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
    pending.broken = true;
    pending.requests.clear();
}

fn receive_reply(socket: &mut UnixStream, pending: &Mutex<Pending>) -> Result<()> {
    ensure!(read_u32(socket)? == SIMPLE_REPLY_MAGIC, "not a simple reply");
    let error = read_u32(socket)?;
    let cookie = read_u64(socket)?;
    let waiting = pending.lock().unwrap_or_else(PoisonError::into_inner).requests.remove(&cookie);
    let Some(waiting) = waiting else { bail!("reply to an unknown request {cookie}") };
    let answer = if error == 0 {
        let mut bytes = vec![0; waiting.bytes];
        socket.read_exact(&mut bytes)?;
        Ok(bytes)
    } else {
        Err(io::Error::from_raw_os_error(i32::try_from(error).unwrap_or(libc::EIO)))
    };
    // Who asked may have gone.
    let _ = waiting.answer.send(answer);
    Ok(())
}

fn handshake(socket: &mut UnixStream, name: &str) -> Result<NbdExport> {
    ensure!(read_u64(socket)? == INIT_MAGIC, "not an NBD server");
    ensure!(read_u64(socket)? == OPTION_MAGIC, "not a newstyle server");
    let flags = read_u16(socket)?;
    ensure!(flags & FLAG_FIXED_NEWSTYLE != 0, "not a fixed newstyle server");
    // Client flags: fixed newstyle, and no zeroes if the server offers that.
    socket.write_all(&u32::from(flags & 3).to_be_bytes())?;

    let mut option = Vec::new();
    option.extend_from_slice(&u32::try_from(name.len())?.to_be_bytes());
    option.extend_from_slice(name.as_bytes());
    option.extend_from_slice(&0u16.to_be_bytes());
    let mut frame = Vec::new();
    frame.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    frame.extend_from_slice(&OPT_GO.to_be_bytes());
    frame.extend_from_slice(&u32::try_from(option.len())?.to_be_bytes());
    frame.extend_from_slice(&option);
    socket.write_all(&frame)?;

    let mut export = None;
    loop {
        ensure!(read_u64(socket)? == OPTION_REPLY_MAGIC, "not an option reply");
        ensure!(read_u32(socket)? == OPT_GO, "reply to another option");
        let reply = read_u32(socket)?;
        let length = read_u32(socket)?;
        ensure!(length <= OPTION_REPLY_BYTES_MAX, "option reply of {length} bytes");
        let mut bytes = vec![0; usize::try_from(length)?];
        socket.read_exact(&mut bytes)?;
        match reply {
            REP_ACK => return export.context("acknowledged without naming the size"),
            REP_INFO => export = parse_export(&bytes).or(export),
            error => bail!("option refused: {error:#x} {}", String::from_utf8_lossy(&bytes)),
        }
    }
}

fn parse_export(bytes: &[u8]) -> Option<NbdExport> {
    let kind = u16::from_be_bytes(bytes.get(0..2)?.try_into().ok()?);
    if kind != INFO_EXPORT {
        return None;
    }
    let size_bytes = u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?);
    let flags = u16::from_be_bytes(bytes.get(10..12)?.try_into().ok()?);
    Some(NbdExport { size_bytes, flags })
}

fn read_u16(socket: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    socket.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32(socket: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    socket.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(socket: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    socket.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

impl NbdClient {
    /// The end of the connection, for a test that wants to cut it.
    pub fn cut(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
