//! How a supervisor tells the peers that its worker's process has exited.
//!
//! Plain blocking sockets: the supervisor has nothing else to do. The report goes to every other node over each network;
//! one that arrives twice says nothing new.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use lockstep_core::{Frame, Incarnation, Message, Net, NodeId, Stamp};
use lockstep_format::wire::greeting::{Call, ClusterKey, Dialer, Dialing, Ends, Greet, Purpose};
use lockstep_format::wire::{PayloadHead, encode_frame};

use crate::shared::{NodeAddress, nonce};

/// What is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitReport {
    /// This node.
    pub node: NodeId,
    /// The run that has exited.
    pub incarnation: Incarnation,
    /// It is started again at once.
    pub restarting: bool,
}

/// Why a node did not get the report.
#[derive(Debug, thiserror::Error)]
pub enum SendReport {
    /// The network.
    #[error("network")]
    Io(#[from] io::Error),
    /// The greeting.
    #[error("greeting")]
    Greet(#[from] Greet),
}

/// Reports to all other nodes at the same time, and returns how each network of each node took it. Takes no longer than
/// `patience` per step of a connection.
pub fn report_exit(
    report: ExitReport,
    psk: &[u8],
    nodes: &[NodeAddress],
    patience: Duration,
) -> Vec<(NodeId, Net, Result<(), SendReport>)> {
    let key = ClusterKey::derive(psk);
    let own = nodes.iter().find(|node| node.id == report.node);
    let mut routes = Vec::new();
    for node in nodes.iter().filter(|node| node.id != report.node) {
        for net in [Net::Dedicated, Net::Ordinary] {
            if let (Some(_), Some(to)) = (own.and_then(|own| own.on(net)), node.on(net)) {
                routes.push((node.id, net, to));
            }
        }
    }
    thread::scope(|scope| {
        let sends: Vec<_> = routes
            .iter()
            .map(|(peer, net, to)| {
                let key = key.clone();
                (*peer, *net, scope.spawn(move || send(report, key, (*peer, *net), *to, patience)))
            })
            .collect();
        let joined = |send: thread::ScopedJoinHandle<'_, _>| {
            send.join().unwrap_or_else(|_| Err(SendReport::Io(io::ErrorKind::Other.into())))
        };
        sends.into_iter().map(|(peer, net, send)| (peer, net, joined(send))).collect()
    })
}

fn send(
    report: ExitReport,
    key: ClusterKey,
    (peer, net): (NodeId, Net),
    to: SocketAddr,
    patience: Duration,
) -> Result<(), SendReport> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let call = Call { purpose: Purpose::ExitReport, net, ends: Ends { from: report.node, to: peer } };
    let mut out = Vec::new();
    let mut dialer = Dialer::dial(key, &call, &nonce()?, &mut out);
    let mut input = [0; 256];
    loop {
        stream.write_all(&out)?;
        out.clear();
        let len = stream.read(&mut input)?;
        if len == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Dialing::Greeted(_) = dialer.receive(&mut &input[..len], &mut out)? {
            break;
        }
    }
    let ExitReport { node, incarnation, restarting } = report;
    let message = Message::ExitReport { node, incarnation, restarting };
    encode_frame(&Frame { stamp: Stamp::default(), message }, PayloadHead::NONE, &mut out)
        .expect("a report is within every limit");
    stream.write_all(&out)?;
    Ok(())
}
