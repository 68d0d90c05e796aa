//! Listening, dialling and original destinations.
//!
//! Every socket that the sidecar dials carries the mark (where one is set) that exempts it from
//! redirection; one without it would come straight back to the outbound listener.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use super::canonical;

/// How many connections the kernel queues for a listener.
const BACKLOG: i32 = 4096;
/// Dead peers are noticed after `KEEPALIVE_TIME + KEEPALIVE_PROBES × KEEPALIVE_INTERVAL`.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Where a redirected connection was meant to go. Behind a trait, so that tests need no netfilter.
pub trait OriginalDestination: Send + Sync + 'static {
    /// The destination before redirection; `None` where no redirect lies behind the connection.
    fn of(&self, connection: &TcpStream) -> Option<SocketAddr>;
}

/// Asks connection tracking (`SO_ORIGINAL_DST`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Redirected;

impl OriginalDestination for Redirected {
    fn of(&self, connection: &TcpStream) -> Option<SocketAddr> {
        let local = canonical(connection.local_addr().ok()?);
        let socket = SockRef::from(connection);
        let original = if local.is_ipv4() {
            socket.original_dst_v4()
        } else {
            socket.original_dst_v6()
        };
        let original = canonical(original.ok()?.as_socket()?);
        // Without a redirect the kernel answers with the listener's own address, or not at all.
        (original != local).then_some(original)
    }
}

/// Always the same destination: the listener of an explicit service.
#[derive(Clone, Copy, Debug)]
pub struct Fixed(pub SocketAddr);

impl OriginalDestination for Fixed {
    fn of(&self, _connection: &TcpStream) -> Option<SocketAddr> {
        Some(self.0)
    }
}

/// Binds a listener. An IPv6 wildcard takes IPv4 connections as well.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    // A restarted sidecar binds again while connections of its predecessor are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Binds the first address of `candidates` that this machine has.
pub fn listen_first(candidates: &[SocketAddr]) -> io::Result<std::net::TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen on");
    for candidate in candidates {
        match listen(*candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sets what every connection of the data path has: no delay, keepalive.
pub fn tune(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    SockRef::from(connection).set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// Lets a listener's socket begin no more connections: the kernel drops what would (SYN without ACK), and
/// goes on with those that have begun. Clients try again a second later (RFC 6298, 2.1).
///
/// # Errors
/// What the kernel says.
pub fn begin_no_more(listener: &impl AsFd) -> io::Result<()> {
    // Classic BPF over the TCP header: BPF_LD|BPF_B|BPF_ABS, BPF_ALU|BPF_AND, BPF_JMP|BPF_JEQ, BPF_RET.
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let program = [
        SockFilter::new(0x30, 0, 0, FLAGS_OFFSET),
        SockFilter::new(0x54, 0, 0, SYN | ACK),
        SockFilter::new(0x15, 0, 1, SYN),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&program)
}

/// Makes the sidecar's own connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialer {
    mark: Option<u32>,
}

impl Dialer {
    /// Sets `mark` on every connection; `None` where the sidecar's uid exempts it.
    pub fn new(mark: Option<u32>) -> Self {
        Self { mark }
    }

    /// Connects. The caller bounds the time.
    pub async fn dial(&self, address: SocketAddr) -> io::Result<TcpStream> {
        connect(self.socket(address)?, address).await
    }

    /// [`Self::dial`] from one of this machine's addresses. The port is the kernel's choice, and no
    /// other than [`Self::dial`] would have: for the destination alone it must be free.
    pub async fn dial_from(&self, address: SocketAddr, source: IpAddr) -> io::Result<TcpStream> {
        let socket = self.socket(address)?;
        // Else the port would be taken now, for every destination, and kept from all who connect.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        connect(socket, address).await
    }

    fn socket(self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        Ok(socket)
    }
}

async fn connect(socket: Socket, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    let connection = socket.connect(address).await?;
    tune(&connection)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn without_a_redirect_there_is_no_destination() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let dial = Dialer::default();
        let (client, accepted) = tokio::join!(dial.dial(address), listener.accept());
        let (server, _) = accepted.unwrap();
        assert_eq!(client.unwrap().peer_addr().unwrap(), address);
        assert_eq!(Redirected.of(&server), None);
        let fixed = "10.0.0.1:80".parse().unwrap();
        assert_eq!(Fixed(fixed).of(&server), Some(fixed));
    }

    #[tokio::test]
    async fn a_listener_that_ends_takes_what_has_begun_and_nothing_else() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = listen(address.parse().unwrap()) else {
                continue;
            };
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let address = listener.local_addr().unwrap();
            let dial = Dialer::default();
            // Complete, and not taken yet.
            let mut before = dial.dial(address).await.unwrap();
            begin_no_more(&listener).unwrap();
            let after = tokio::time::timeout(Duration::from_millis(200), dial.dial(address));
            assert!(after.await.is_err(), "answered, or refused");
            let (mut taken, _) = listener.accept().await.unwrap();
            drop(listener);
            before.write_all(b"ping").await.unwrap();
            taken.read_exact(&mut [0; 4]).await.unwrap();
        }
    }

    #[test]
    fn a_wildcard_serves_both_families() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}
