//! A pod and a client outside, each in a network namespace of its own, joined by a veth pair.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use weft_sandbox::net;

/// Everything happens on one machine; only a failing test waits this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Where the pod is.
const POD: [&str; 2] = ["10.77.0.2", "fd77::2"];
/// Where the client is, through which the pod reaches everything else.
const CLIENT: [&str; 2] = ["10.77.0.1", "fd77::1"];

/// What a test sees of its pod: it runs on a thread in the pod's network namespace.
pub(crate) struct Pod {
    orders: mpsc::Sender<Order>,
}

enum Order {
    Connect(SocketAddr, mpsc::Sender<io::Result<TcpStream>>),
    Listen(SocketAddr, mpsc::Sender<Listener>),
}

/// The addresses that a test uses, in one family.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) loopback: IpAddr,
    pub(crate) any: IpAddr,
    pub(crate) pod: IpAddr,
    pub(crate) client: IpAddr,
    /// Routed through the client, and nobody's.
    pub(crate) elsewhere: IpAddr,
}

impl Pod {
    /// The client outside connects.
    pub(crate) fn client_connects(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let (answer, answers) = mpsc::channel();
        let order = Order::Connect(address, answer);
        self.orders.send(order).expect("the client lives");
        answers.recv().expect("the client lives")
    }

    /// The client outside listens.
    pub(crate) fn client_listens(&self, address: SocketAddr) -> Listener {
        let (answer, answers) = mpsc::channel();
        let order = Order::Listen(address, answer);
        self.orders.send(order).expect("the client lives");
        answers.recv().expect("the client lives")
    }
}

/// What each family has.
pub(crate) fn families() -> [Addresses; 2] {
    let v4 = Addresses {
        loopback: Ipv4Addr::LOCALHOST.into(),
        any: Ipv4Addr::UNSPECIFIED.into(),
        pod: ip(POD[0]),
        client: ip(CLIENT[0]),
        elsewhere: ip("203.0.113.7"),
    };
    let v6 = Addresses {
        loopback: Ipv6Addr::LOCALHOST.into(),
        any: Ipv6Addr::UNSPECIFIED.into(),
        pod: ip(POD[1]),
        client: ip(CLIENT[1]),
        elsewhere: ip("2001:db8::7"),
    };
    [v4, v6]
}

/// Runs `test` in a pod of its own.
pub(crate) fn in_pod(test: impl FnOnce(&Pod) + Send + 'static) {
    in_namespace(move |namespace| {
        let (orders, received) = mpsc::channel();
        let (made, wait) = mpsc::channel();
        let client = thread::spawn(move || {
            net::unshare_net().expect("a second namespace");
            net::create_veth("client0", "eth0", namespace.as_fd()).expect("a pair");
            configure("client0", CLIENT);
            made.send(()).expect("the pod waits");
            for order in received {
                match order {
                    Order::Connect(address, answer) => answer.send(connect(address)).ok(),
                    Order::Listen(address, answer) => answer
                        .send(Listener::bind(address.ip(), address.port()))
                        .ok(),
                };
            }
        });
        wait.recv().expect("the client is there");
        net::set_loopback_up().expect("lo");
        configure("eth0", POD);
        for gateway in CLIENT {
            net::add_default_route(ip(gateway)).expect("a route");
        }
        let pod = Pod { orders };
        test(&pod);
        drop(pod);
        client.join().expect("the client ends");
    });
}

/// Runs `test` on a thread in a new network namespace, to which it gets the handle.
pub(crate) fn in_namespace(test: impl FnOnce(OwnedFd) + Send + 'static) {
    let run = || test(net::unshare_net().expect("a network namespace"));
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// An address that a test writes down.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

/// Switches a link on and gives it its addresses.
fn configure(link: &str, [v4, v6]: [&str; 2]) {
    net::set_up(link).expect("up");
    net::add_address(link, ip(v4), 24).expect("v4");
    net::add_address(link, ip(v6), 64).expect("v6");
}

/// A listener that knows whether a connection was meant for it.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    inner: TcpListener,
}

impl Listener {
    /// Takes connections of its own family alone.
    pub(crate) fn bind(ip: IpAddr, port: u16) -> Self {
        let address = SocketAddr::new(ip, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("a socket");
        if address.is_ipv6() {
            socket.set_only_v6(true).expect("settable");
        }
        socket.set_reuse_address(true).expect("settable");
        socket.bind(&address.into()).expect("free");
        socket.listen(16).expect("listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("settable");
        Self {
            address,
            inner: socket.into(),
        }
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> TcpStream {
        self.inner.accept().expect("a connection").0
    }

    /// The destination that the connection had before it was redirected here.
    pub(crate) fn accept_redirected(&self) -> SocketAddr {
        let stream = self.accept();
        original_destination(&stream)
            .expect("a redirect is behind it")
            .as_socket()
            .expect("an internet address")
    }

    /// A connection that was made to this listener itself.
    pub(crate) fn accept_direct(&self) {
        let stream = self.accept();
        let local = stream.local_addr().expect("has one");
        // Without a redirect conntrack knows nothing else, or nothing at all.
        match original_destination(&stream) {
            Ok(original) => assert_eq!(original.as_socket(), Some(local)),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
        }
    }
}

fn original_destination(stream: &TcpStream) -> io::Result<socket2::SockAddr> {
    let socket = SockRef::from(stream);
    if stream.local_addr()?.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    }
}

/// Connects from the namespace of the calling thread.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    connect_marked(address, 0)
}

/// The same with a packet mark.
pub(crate) fn connect_marked(address: SocketAddr, mark: u32) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_mark(mark)?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    Ok(socket.into())
}
