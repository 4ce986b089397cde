//! Accepts client connections, up to a limit, and hands them to the threads that serve them.

use super::connection;
use super::frame::Limits;
use super::lane::{Lane, Service};
use super::{address, descriptors};
use crate::command::client::Client;
use crate::command::reply::Out;
use crate::error::{Error, Result};
use rustix::net::sockopt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Pause after the system refused to accept a connection, for example because no file descriptor was left.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Unanswered keep-alive probes after which the kernel ends a client's connection.
const KEEPALIVE_PROBES: u64 = 3;

/// A client's place among `maxclients`, held from the client's acceptance to its end.
struct Seat(Arc<Service>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.registry.leave_seat();
    }
}

/// A client's entry in the registry. Dropping the value removes the entry.
struct Entered(Arc<Lane>, u64);

impl Drop for Entered {
    fn drop(&mut self) {
        let Self(lane, id) = self;
        lane.service.registry.remove(*id);
    }
}

/// An accepted client that is sent to its lane.
type Admitted = (std::net::TcpStream, Seat);

/// Connections that the system may hold while the listener has not accepted them. The system never holds more than
/// `net.core.somaxconn`. When the backlog is full, a client's connect takes a second or more.
const LISTEN_BACKLOG: u32 = 4096;

/// Binds a listening socket. `host` is a name or an address; an IPv6 address may stand in brackets.
pub async fn bind(host: &str, port: u16) -> Result<TcpListener> {
    let failed = |source| Error::Net { action: "listen on", peer: address::with_port(host, port), source };
    let mut last = std::io::ErrorKind::AddrNotAvailable.into();
    for address in tokio::net::lookup_host((address::bare_host(host), port)).await.map_err(failed)? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Connections that may wait until a lane takes them.
const ADMITTED_WAITING_MAX: usize = 128;

/// Serves clients until `stop` turns true. Starts `threads` threads for the clients, and at least one.
pub async fn serve(listener: TcpListener, service: Arc<Service>, threads: usize, mut stop: watch::Receiver<bool>) {
    service.registry.set_fitting(descriptors::make_room(service.host.config().maxclients.0));
    let lanes: Vec<_> = (0..threads.max(1)).map(|nth| start_lane(nth, &service, stop.clone())).collect();
    let mut next = lanes.iter().cycle();
    loop {
        // Cancel-safe: both arms only wait.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (lane, _) = next.next().expect("there is at least one lane");
                if let (Some(seat), Ok(stream)) = (take_seat(&stream, &service), stream.into_std()) {
                    // Sending fails only if the lane has ended, which it does when the node stops.
                    let _ = lane.send((stream, seat)).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(next);
    for (lane, thread) in lanes {
        drop(lane);
        let _ = tokio::task::spawn_blocking(|| thread.join()).await;
    }
}

/// Starts a thread that serves the connections sent to it. The thread ends when the node stops.
fn start_lane(
    nth: usize,
    service: &Arc<Service>,
    mut stop: watch::Receiver<bool>,
) -> (mpsc::Sender<Admitted>, JoinHandle<()>) {
    let (sender, mut admitted) = mpsc::channel::<Admitted>(ADMITTED_WAITING_MAX);
    let lane = Arc::new(Lane::new(Arc::clone(service)));
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be made while the process comes up");
        runtime.block_on(async {
            let [writing, following, looking] = [(); 3].map(|()| Arc::clone(&lane));
            tokio::spawn(async move { writing.write_groups().await });
            tokio::spawn(async move { following.follow_groups().await });
            tokio::spawn(async move { looking.look_for_left().await });
            let mut connections = JoinSet::new();
            loop {
                // Cancel-safe: all arms only wait.
                tokio::select! {
                    stream = admitted.recv() => match stream {
                        Some((stream, seat)) => admit(stream, seat, &lane, &mut connections),
                        None => break,
                    },
                    _ = connections.join_next(), if !connections.is_empty() => {}
                    _ = stop.wait_for(|stop| *stop) => break,
                }
            }
            connections.shutdown().await;
            lane.service.committer.write_open_group();
        });
    };
    let thread = std::thread::Builder::new().name(format!("walferry-lane-{nth}")).spawn(run);
    (sender, thread.expect("threads can be started while the process comes up"))
}

/// Returns a place for one more client. If there is none, the client gets an error reply.
fn take_seat(stream: &TcpStream, service: &Arc<Service>) -> Option<Seat> {
    if service.registry.take_seat(service.host.config().maxclients.0) {
        return Some(Seat(Arc::clone(service)));
    }
    let mut out = Out::new(crate::command::reply::Protocol::Resp2);
    out.error(crate::command::errors::MAX_CLIENTS);
    let _ = stream.try_write(out.as_bytes());
    None
}

/// Has the kernel probe a silent client and end the connection of a client that vanished, about twice `seconds` after
/// its last sign of life, as Redis does. With 0 the kernel never probes.
fn keep_alive(stream: &TcpStream, seconds: u64) -> rustix::io::Result<()> {
    if seconds == 0 {
        return Ok(());
    }
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(seconds))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs((seconds / KEEPALIVE_PROBES).max(1)))?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES as u32)
}

fn admit(stream: std::net::TcpStream, seat: Seat, lane: &Arc<Lane>, connections: &mut JoinSet<()>) {
    // Each lane's runtime watches the lane's sockets, so the stream is registered on this thread.
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let registry = &lane.service.registry;
    let config = lane.service.host.config();
    let _ = stream.set_nodelay(true);
    if let Err(error) = keep_alive(&stream, config.tcp_keepalive.0) {
        tracing::debug!(%error, "the keepalive of a connection could not be set");
    }
    let id = registry.next_id();
    let address = |address: std::io::Result<SocketAddr>| address.map_or_else(|_| "?:0".to_owned(), |a| a.to_string());
    let client =
        Client::new(id, address(stream.peer_addr()), address(stream.local_addr()), !config.requirepass.is_empty());
    let limits = Limits {
        bulk_bytes_max: config.proto_max_bulk_len.0 as usize,
        query_buffer_bytes_max: config.client_query_buffer_limit.0 as usize,
        ..Limits::default()
    };
    let card = registry.enter(client.card());
    let (lane, place) = (Arc::clone(lane), (Entered(Arc::clone(lane), id), seat));
    connections.spawn(async move {
        connection::serve(stream, client, &lane, limits, &card).await;
        drop(place);
    });
}
