//! HTTP/2 from callers whose `:authority` is the path of a socket.
//!
//! Kubelet connects to a registration socket by its bare path, and the gRPC library of Go puts that, percent-encoded, where HTTP
//! wants a host's name. Nothing in `http` and `h2` takes it (RFC 3986 section 3.2 does not allow it): the stream is reset before any
//! service sees it. So the frames of a connection pass through here: in each header block the authority becomes `localhost`;
//! everything else, and the whole other direction, stays as it is.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;

/// What a connection begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes between the two halves. A registration is a few hundred.
const BUFFER_BYTES: usize = 16 << 10;

/// The largest frame that a server which does not ask for more has to take (RFC 9113 section 4.2).
const FRAME_BYTES_MAX: usize = 1 << 14;

/// Header blocks that come in parts are put together to at most so much.
const BLOCK_BYTES_MAX: usize = 1 << 16;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The connection as a server can take it.
pub(crate) fn with_host_name(caller: UnixStream) -> DuplexStream {
    let (server, ours) = tokio::io::duplex(BUFFER_BYTES);
    tokio::spawn(async move {
        let (mut from_caller, mut to_caller) = caller.into_split();
        let (mut from_server, mut to_server) = tokio::io::split(ours);
        let ended = tokio::try_join!(
            async {
                let copied = pass_frames(&mut from_caller, &mut to_server).await;
                to_server.shutdown().await?;
                copied
            },
            async {
                tokio::io::copy(&mut from_server, &mut to_caller).await?;
                to_caller.shutdown().await
            },
        );
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    });
    server
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: [u8; 4],
    payload: Vec<u8>,
}

/// Copies frames until the caller closes the connection.
async fn pass_frames(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    let (mut decoder, mut encoder) = (loona_hpack::Decoder::new(), loona_hpack::Encoder::new());
    while let Some(frame) = read_frame(from).await? {
        if frame.kind != HEADERS {
            write_frame(to, &frame).await?;
            continue;
        }
        let stream = frame.stream;
        let end_stream = frame.flags & END_STREAM;
        let mut block = strip(&frame)?.to_vec();
        let mut is_whole = frame.flags & END_HEADERS != 0;
        while !is_whole {
            let more = read_frame(from).await?.filter(|more| more.kind == CONTINUATION && more.stream == stream);
            let more = more.ok_or_else(|| wrong("a header block is not continued"))?;
            block.extend_from_slice(&more.payload);
            if block.len() > BLOCK_BYTES_MAX {
                return Err(wrong("a header block is too large"));
            }
            is_whole = more.flags & END_HEADERS != 0;
        }
        let mut headers = decoder.decode(&block).map_err(|_| wrong("a header block cannot be decoded"))?;
        for (name, value) in &mut headers {
            if name.as_slice() == b":authority" {
                *value = b"localhost".to_vec();
            }
        }
        let block = encoder.encode(headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
        write_headers(to, (stream, end_stream), &block).await?;
    }
    Ok(())
}

/// A header block without padding and priority (RFC 9113 section 6.2).
fn strip(frame: &Frame) -> io::Result<&[u8]> {
    let mut block = frame.payload.as_slice();
    let mut padding = 0;
    if frame.flags & PADDED != 0 {
        let (first, rest) = block.split_first().ok_or_else(|| wrong("a padded frame is empty"))?;
        (padding, block) = (usize::from(*first), rest);
    }
    if frame.flags & PRIORITY != 0 {
        block = block.get(5..).ok_or_else(|| wrong("a frame's priority is cut off"))?;
    }
    let end = block.len().checked_sub(padding).ok_or_else(|| wrong("a frame has more padding than bytes"))?;
    Ok(&block[..end])
}

/// A header block as one frame, or as several where it is long.
async fn write_headers(
    to: &mut (impl AsyncWrite + Unpin),
    (stream, end_stream): ([u8; 4], u8),
    block: &[u8],
) -> io::Result<()> {
    let mut parts = block.chunks(FRAME_BYTES_MAX).peekable();
    let (mut kind, mut flags) = (HEADERS, end_stream);
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= END_HEADERS;
        }
        write_frame(to, &Frame { kind, flags, stream, payload: part.to_vec() }).await?;
        (kind, flags) = (CONTINUATION, 0);
    }
    Ok(())
}

/// `None`: the caller closed the connection between two frames.
async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut head = [0; 9];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let [a, b, c, kind, flags, stream @ ..] = head;
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    if length > FRAME_BYTES_MAX {
        return Err(wrong("a frame is too large"));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok(Some(Frame { kind, flags, stream, payload }))
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let length = u32::try_from(frame.payload.len()).map_err(|_| wrong("a frame is too large"))?.to_be_bytes();
    let mut bytes = Vec::with_capacity(9 + frame.payload.len());
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[frame.kind, frame.flags]);
    bytes.extend_from_slice(&frame.stream);
    bytes.extend_from_slice(&frame.payload);
    to.write_all(&bytes).await
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sockets_path_as_authority_becomes_a_host() {
        let mut encoder = loona_hpack::Encoder::new();
        let path = b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fa-reg.sock".as_slice();
        let wanted: [(&[u8], &[u8]); 3] = [(b":method", b"POST"), (b":authority", path), (b"te", b"trailers")];
        let block = encoder.encode(wanted);
        let mut sent = PREFACE.to_vec();
        // Padded, and in two parts.
        let (first, second) = block.split_at(4);
        let padded = [&[2_u8], first, &[0, 0]].concat();
        let stream = [0, 0, 0, 1];
        let frames = [
            Frame { kind: 4, flags: 0, stream: [0; 4], payload: Vec::new() },
            Frame { kind: HEADERS, flags: PADDED | END_STREAM, stream, payload: padded },
            Frame { kind: CONTINUATION, flags: END_HEADERS, stream, payload: second.to_vec() },
        ];
        for frame in &frames {
            write_frame(&mut sent, frame).await.expect("written to memory");
        }
        let mut passed = Vec::new();
        pass_frames(&mut sent.as_slice(), &mut passed).await.expect("the frames are right");

        let mut rest = &passed[PREFACE.len()..];
        let settings = read_frame(&mut rest).await.expect("a frame").expect("a frame");
        assert_eq!(settings.kind, 4);
        let headers = read_frame(&mut rest).await.expect("a frame").expect("a frame");
        assert_eq!((headers.kind, headers.flags, headers.stream), (HEADERS, END_STREAM | END_HEADERS, stream));
        let headers = loona_hpack::Decoder::new().decode(&headers.payload).expect("a header block");
        let authority = headers.iter().find(|(name, _)| name.as_slice() == b":authority").expect("an authority");
        assert_eq!(authority.1.as_slice(), b"localhost");
        assert_eq!(headers.len(), 3);
        assert!(rest.is_empty());
    }
}
