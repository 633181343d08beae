//! Prometheus text over HTTP on 127.0.0.1: one answer per connection, whatever the path.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lockstep_engine::VolumeStatus;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::status;
use super::worker::Worker;
use crate::input::BLOCK_BYTES;

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
    let mut out = Text::default();
    let engine = worker.engine().ok();
    out.family("lockstep_engine_up", "gauge", "1 while the engine runs");
    out.sample("lockstep_engine_up", &[], u64::from(engine.is_some()));
    let Some(engine) = engine else { return out.0 };
    let volumes: Vec<VolumeStatus> = engine.list().await.into_iter().filter_map(Result::ok).collect();
    for (name, kind, help, value) in GAUGES {
        out.family(name, kind, help);
        for status in &volumes {
            out.sample(name, &[("volume", &status.name)], value(status));
        }
    }
    let Some(first) = volumes.first() else { return out.0 };
    for (index, (counter, _)) in status::counters(first).into_iter().enumerate() {
        // `frames_sent.write` is the label `kind` of one family.
        let (family, label) = counter.split_once('.').map_or((counter, None), |(family, kind)| (family, Some(kind)));
        let name = format!("lockstep_{family}_total");
        out.family(&name, "counter", "see docs/metrics.md");
        for status in &volumes {
            let (_, count) = status::counters(status)[index];
            let mut labels = vec![("volume", status.name.as_str())];
            labels.extend(label.map(|kind| ("kind", kind)));
            out.sample(&name, &labels, count);
        }
    }
    out.0
}

type Gauge = (&'static str, &'static str, &'static str, fn(&VolumeStatus) -> u64);

const GAUGES: [Gauge; 8] = [
    ("lockstep_epoch", "gauge", "epoch of the installed configuration", |s| s.core.config.epoch.0),
    ("lockstep_size_bytes", "gauge", "size of the volume", |s| s.core.config.size_blocks * BLOCK_BYTES),
    ("lockstep_replicas", "gauge", "replicas that the volume should have", |s| count(s.core.config.replicas.len())),
    ("lockstep_replicas_in_sync", "gauge", "replicas that hold everything", |s| count(s.core.config.in_sync.len())),
    ("lockstep_frozen", "gauge", "1 while requests wait for a quorum", |s| u64::from(s.core.frozen)),
    ("lockstep_attached", "gauge", "1 while the volume is attached at this node", |s| u64::from(s.core.attached)),
    ("lockstep_dirty_bytes", "gauge", "bytes owed to absent replicas", |s| {
        s.core.dirty_blocks.values().sum::<u64>() * BLOCK_BYTES
    }),
    ("lockstep_write_intent_regions", "gauge", "regions with write intent", |s| s.core.intent_regions),
];

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Prometheus text: one family after the other, each announced once.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let announced = format!("# TYPE {name} {kind}\n");
        if !self.0.contains(&announced) {
            self.0.push_str(&format!("# HELP {name} {help}\n{announced}"));
        }
    }

    /// Label values are names of volumes and words of ours: nothing to escape.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        match labels.is_empty() {
            true => self.0.push_str(&format!("{name} {value}\n")),
            false => self.0.push_str(&format!("{name}{{{}}} {value}\n", labels.join(","))),
        }
    }
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
