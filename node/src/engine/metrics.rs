//! Prometheus text over HTTP on 127.0.0.1: one answer per connection, whatever the path.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::worker::Worker;

/// How long one scrape may take, from connection to last byte.
const SCRAPE_WITHIN: Duration = Duration::from_secs(5);

/// Longest head of a request that is read.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Scrapes served side by side; more wait in the listener's queue.
const SCRAPES_MAX: usize = 4;

/// Serves what `text` gives, for ever.
///
/// # Errors
/// The port cannot be listened at.
pub(super) async fn serve<T>(port: u16, text: impl Fn() -> T + Send + Sync + 'static) -> std::io::Result<()>
where
    T: Future<Output = String> + Send,
{
    let listener = TcpListener::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).await?;
    let text = Arc::new(text);
    let free = Arc::new(Semaphore::new(SCRAPES_MAX));
    loop {
        let permit = Arc::clone(&free).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the connection is gone already: the next one may do.
                tracing::debug!(%error, "metrics connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let text = Arc::clone(&text);
        tokio::spawn(async move {
            let _permit = permit;
            if let Ok(Err(error)) = tokio::time::timeout(SCRAPE_WITHIN, answer(stream, &*text)).await {
                tracing::debug!(%error, "metrics connection broke");
            }
        });
    }
}

async fn answer<T: Future<Output = String>>(mut stream: TcpStream, text: &impl Fn() -> T) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut piece).await?;
        if read == 0 || head.len() + read > HEAD_BYTES_MAX {
            return Ok(());
        }
        head.extend_from_slice(&piece[..read]);
    }
    let (status, body) = match head.starts_with(b"GET ") {
        true => ("200 OK", text().await),
        false => ("405 Method Not Allowed", String::new()),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The text of one scrape. Names and meanings: docs/metrics.md.
pub(super) async fn render(worker: Arc<Worker>) -> String {
    let Ok(engine) = worker.engine() else { return String::new() };
    engine.metrics_text().await.unwrap_or_else(|failure| {
        tracing::warn!(%failure, "no metrics");
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use super::answer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn exchange(request: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let (server, _) = listener.accept().await.expect("accepted");
        client.write_all(request).await.expect("sent");
        client.shutdown().await.expect("sent");
        answer(server, &|| async { "up 1\n".to_owned() }).await.expect("answered");
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.expect("received");
        reply
    }

    #[tokio::test]
    async fn a_scrape_gets_the_text() {
        let reply = exchange(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("\r\n\r\nup 1\n"), "{reply}");
    }

    #[tokio::test]
    async fn other_requests_get_nothing() {
        assert!(exchange(b"POST / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        assert_eq!(exchange(b"half a head").await, "");
        assert_eq!(exchange(&[b'x'; 9000]).await, "");
    }
}
