//! What the load writes to: a block device (or a file) by O_DIRECT, or an NBD socket.

use super::nbd::NbdClient;
use super::{AlignedBuffer, BLOCK_BYTES};
use crate::status::Attachment;
use anyhow::{Context, Result, anyhow, ensure};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// Where a volume is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A block device, or a file that stands for one.
    Device(PathBuf),
    /// An NBD server on a unix socket.
    Nbd {
        /// The socket.
        socket: PathBuf,
        /// The export to ask for.
        export: String,
    },
}

/// An open target. Its methods may be called from several threads.
pub enum Connection {
    /// Opened with O_DIRECT.
    Device(File),
    /// Connected.
    Nbd(NbdClient),
}

impl Target {
    /// The target that `volume attach` named.
    pub fn of(attachment: &Attachment) -> Result<Self> {
        match (&attachment.device, &attachment.socket) {
            (Some(device), _) => Ok(Target::Device(device.clone())),
            (None, Some(socket)) => {
                let export = attachment.export.clone().unwrap_or_else(|| attachment.volume.clone());
                Ok(Target::Nbd { socket: socket.clone(), export })
            }
            (None, None) => Err(anyhow!("the attachment names neither device nor socket: {attachment:?}")),
        }
    }

    /// Opens it for one write: a whole block of this byte.
    pub fn fill_block(&self, offset: u64, byte: u8) -> Result<()> {
        let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
        buffer.bytes_mut().fill(byte);
        Ok(self.open()?.write(offset, buffer.bytes())?)
    }

    /// Opens it for one read: the byte that fills a whole block.
    pub fn block_byte(&self, offset: u64) -> Result<u8> {
        let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
        self.open()?.read(offset, buffer.bytes_mut())?;
        let bytes = buffer.bytes();
        ensure!(bytes.iter().all(|byte| *byte == bytes[0]), "a block of two writes");
        Ok(bytes[0])
    }

    /// Opens it.
    pub fn open(&self) -> Result<Connection> {
        match self {
            Target::Device(path) => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_DIRECT)
                    .open(path)
                    .with_context(|| format!("open {}", path.display()))?;
                Ok(Connection::Device(file))
            }
            Target::Nbd { socket, export } => NbdClient::connect(socket, export).map(Connection::Nbd),
        }
    }
}

impl Connection {
    /// Reads; the buffer is aligned.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Connection::Device(file) => file.read_exact_at(bytes, offset),
            Connection::Nbd(client) => client.read(offset, bytes),
        }
    }

    /// Writes; the buffer is aligned.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Connection::Device(file) => file.write_all_at(bytes, offset),
            Connection::Nbd(client) => client.write(offset, bytes, false),
        }
    }

    /// Makes what was completed durable.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Connection::Device(file) => file.sync_data(),
            Connection::Nbd(client) => client.flush(),
        }
    }
}
