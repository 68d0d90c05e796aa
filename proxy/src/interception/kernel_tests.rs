//! The rules in a real kernel: a pod and a client outside, each in a network namespace of its
//! own, joined by a veth pair.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::thread::{CapabilitySet, UnshareFlags};
use socket2::{Domain, SockRef, Socket as TcpSocket, Type};
use weft_proto::names::{PROXY_MARK, ports, sentinel};

use super::*;
use crate::netlink::{Message, Socket, flags};

/// Everything happens on one machine; only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn connections_of_the_application_reach_the_outbound_listener() {
    in_pod(|_| {
        let applied = apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        assert!(applied.ipv6);
        for family in families() {
            let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
            for ip in [family.elsewhere, family.client] {
                let destination = SocketAddr::new(ip, 8080);
                let _stream = connect(destination).expect("redirected");
                assert_eq!(sidecar.accept_redirected(), destination);
            }
        }
    });
}

#[test]
fn the_sidecar_passes_by_mark_but_not_to_the_sentinel() {
    in_pod(|pod| {
        apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        for (family, sentinel) in families().into_iter().zip([sentinel::V4, sentinel::V6]) {
            let destination = SocketAddr::new(family.client, 9000);
            let direct = pod.client_listens(destination);
            let _stream = connect_marked(destination, PROXY_MARK).expect("passes");
            direct.accept_direct();

            let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
            for mark in [0, PROXY_MARK] {
                let _stream = connect_marked(sentinel, mark).expect("redirected");
                assert_eq!(sidecar.accept_redirected(), sentinel);
            }
        }
    });
}

#[test]
fn the_sidecar_passes_by_uid_but_not_to_the_sentinel() {
    in_pod(|pod| {
        let uid = rustix::process::getuid().as_raw();
        apply(&rules(&InterceptionPlan::by_uid(uid))).expect("applies");
        for (family, sentinel) in families().into_iter().zip([sentinel::V4, sentinel::V6]) {
            let destination = SocketAddr::new(family.client, 9000);
            let direct = pod.client_listens(destination);
            let _stream = connect(destination).expect("passes");
            direct.accept_direct();

            let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
            let _stream = connect(sentinel).expect("redirected");
            assert_eq!(sidecar.accept_redirected(), sentinel);
        }
    });
}

#[test]
fn loopback_and_the_own_address_pass() {
    in_pod(|_| {
        apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        for family in families() {
            for ip in [family.loopback, family.pod] {
                let application = Listener::bind(ip, 8080);
                for mark in [0, PROXY_MARK] {
                    let _stream = connect_marked(application.address, mark).expect("passes");
                    application.accept_direct();
                }
            }
        }
    });
}

#[test]
fn skipped_ports_and_subnets_pass() {
    in_pod(|pod| {
        let families = families();
        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.skip_outbound_ports.insert(5432);
        apply(&rules(&plan)).expect("applies");
        for family in &families {
            let direct = pod.client_listens(SocketAddr::new(family.client, 5432));
            let _stream = connect(direct.address).expect("passes");
            direct.accept_direct();
        }

        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.skip_subnets = ["10.77.128.9/10", "fd77::/17"]
            .map(|subnet| subnet.parse().expect("a literal"))
            .into();
        apply(&rules(&plan)).expect("applies");
        for family in &families {
            let direct = pod.client_listens(SocketAddr::new(family.client, 9000));
            let _stream = connect(direct.address).expect("passes");
            direct.accept_direct();

            let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
            let elsewhere = SocketAddr::new(family.elsewhere, 9000);
            let _stream = connect(elsewhere).expect("redirected");
            assert_eq!(sidecar.accept_redirected(), elsewhere);
        }
    });
}

#[test]
fn connections_from_outside_reach_the_inbound_listener() {
    in_pod(|pod| {
        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.skip_inbound_ports.insert(7000);
        apply(&rules(&plan)).expect("applies");
        for family in families() {
            let sidecar = Listener::bind(family.any, ports::INBOUND);
            let destination = SocketAddr::new(family.pod, 8080);
            let _stream = pod.client_connects(destination).expect("redirected");
            assert_eq!(sidecar.accept_redirected(), destination);

            for port in [7000, ports::ADMIN, ports::OUTBOUND] {
                let direct = Listener::bind(family.pod, port);
                let _stream = pod.client_connects(direct.address).expect("passes");
                direct.accept_direct();
            }
            let own = SocketAddr::new(family.pod, ports::INBOUND);
            let _stream = pod.client_connects(own).expect("passes");
            sidecar.accept_direct();
        }
    });
}

#[test]
fn listed_inbound_ports_and_clients_alone_decide() {
    in_pod(|pod| {
        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.inbound_ports.insert(8080);
        apply(&rules(&plan)).expect("applies");
        for family in families() {
            let sidecar = Listener::bind(family.any, ports::INBOUND);
            let listed = SocketAddr::new(family.pod, 8080);
            let _stream = pod.client_connects(listed).expect("redirected");
            assert_eq!(sidecar.accept_redirected(), listed);
            let other = Listener::bind(family.pod, 8081);
            let _stream = pod.client_connects(other.address).expect("passes");
            other.accept_direct();
        }

        for family in families() {
            plan.skip_source_subnets = vec![family.client.into()];
            apply(&rules(&plan)).expect("applies");
            let application = Listener::bind(family.pod, 8080);
            let _stream = pod.client_connects(application.address).expect("passes");
            application.accept_direct();
        }
    });
}

#[test]
fn applying_twice_is_applying_once_and_undo_removes_all() {
    in_pod(|pod| {
        undo().expect("there is nothing");
        let ruleset = rules(&InterceptionPlan::by_mark(PROXY_MARK));
        let expected: usize = ruleset
            .tables
            .iter()
            .flat_map(|table| &table.chains)
            .map(|chain| chain.rules.len())
            .sum();
        // Other rules are replaced, the same ones not doubled: `apply` counts.
        apply(&rules(&InterceptionPlan::default())).expect("applies");
        for _ in 0..2 {
            assert_eq!(apply(&ruleset).expect("applies").rules, expected);
        }
        for _ in 0..2 {
            undo().expect("removes");
        }
        for family in families() {
            let direct = pod.client_listens(SocketAddr::new(family.client, 9000));
            let _stream = connect(direct.address).expect("not redirected");
            direct.accept_direct();
            let direct = Listener::bind(family.pod, 9000);
            let _stream = pod.client_connects(direct.address).expect("not redirected");
            direct.accept_direct();
        }
    });
}

#[test]
fn established_connections_stay_as_they_are() {
    in_pod(|pod| {
        let opened = families().map(|family| {
            let outside = pod.client_listens(SocketAddr::new(family.client, 9000));
            let inside = Listener::bind(family.pod, 9000);
            let out = connect(outside.address).expect("nothing is redirected yet");
            let into = pod.client_connects(inside.address).expect("nor here");
            [(out, outside.accept()), (inside.accept(), into)]
        });
        apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        // Whichever side speaks first after the change.
        for (near, far) in opened.iter().flatten() {
            for (mut from, mut to) in [(near, far), (far, near)] {
                to.set_read_timeout(Some(PATIENCE)).expect("settable");
                from.write_all(b"x").expect("open");
                to.read_exact(&mut [0]).expect("arrives");
            }
        }
    });
}

#[test]
fn the_longest_lists_fit_into_one_transaction() {
    in_pod(|_| {
        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.exempt_uid = Some(1);
        plan.skip_outbound_ports = (1..=64).collect();
        plan.skip_inbound_ports = (101..=164).collect();
        plan.inbound_ports = (201..=264).collect();
        for n in 1..=64 {
            let subnet = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 0));
            let subnet = ipnet::IpNet::new_assert(subnet, 64);
            plan.skip_subnets.push(subnet);
            plan.skip_source_subnets.push(subnet);
        }
        let applied = apply(&rules(&plan)).expect("fits");
        assert!(applied.rules > 64 * 8, "{applied:?}");
    });
}

#[test]
fn without_the_capability_the_error_says_which() {
    in_pod(|_| {
        let mut sets = rustix::thread::capabilities(None).expect("readable");
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, sets).expect("anyone may drop one");
        let error = apply(&rules(&InterceptionPlan::default())).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "change the nf_tables ruleset: Operation not permitted (os error 1) \
             (needs CAP_NET_ADMIN in this network namespace)"
        );
    });
}

#[test]
fn a_refused_step_is_named_and_nothing_has_changed() {
    in_pod(|_| {
        apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        let mut socket = Socket::netfilter().expect("a socket");
        // Deleting twice: the first would have worked.
        let [_, delete] = nftables::removal(Family::V4);
        let [_, again] = nftables::removal(Family::V4);
        let error = nftables::commit(&mut socket, vec![delete, again]).expect_err("refused");
        assert!(
            error
                .to_string()
                .starts_with("delete table ip weft: No such file"),
            "{error}"
        );
        let family = families()[0];
        let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
        let destination = SocketAddr::new(family.client, 9000);
        let _stream = connect(destination).expect("still redirected");
        assert_eq!(sidecar.accept_redirected(), destination);
    });
}

#[test]
fn rules_that_are_not_as_sent_are_an_error() {
    in_pod(|_| {
        let mut ruleset = rules(&InterceptionPlan::default());
        // The same chain once more: the kernel has one with the rules of both.
        let chain = ruleset.tables[1].chains[0].clone();
        let expected = chain.rules.len();
        ruleset.tables[1].chains.push(chain);
        let error = apply(&ruleset).expect_err("not as sent");
        assert_eq!(
            error.to_string(),
            format!(
                "chain ip6 weft output has {} rules of {expected}: does another program change it?",
                2 * expected
            )
        );
    });
}

/// What a test sees of its pod: it runs on a thread in the pod's network namespace.
struct Pod {
    orders: mpsc::Sender<Order>,
}

enum Order {
    Connect(SocketAddr, mpsc::Sender<io::Result<TcpStream>>),
    Listen(SocketAddr, mpsc::Sender<Listener>),
}

/// The addresses that a test uses, in one family.
#[derive(Clone, Copy)]
struct Addresses {
    loopback: IpAddr,
    any: IpAddr,
    pod: IpAddr,
    client: IpAddr,
    /// Routed through the client, and nobody's.
    elsewhere: IpAddr,
}

impl Pod {
    /// The client outside connects.
    fn client_connects(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let (answer, answers) = mpsc::channel();
        let order = Order::Connect(address, answer);
        self.orders.send(order).expect("the client lives");
        answers.recv().expect("the client lives")
    }

    /// The client outside listens.
    fn client_listens(&self, address: SocketAddr) -> Listener {
        let (answer, answers) = mpsc::channel();
        let order = Order::Listen(address, answer);
        self.orders.send(order).expect("the client lives");
        answers.recv().expect("the client lives")
    }
}

fn families() -> [Addresses; 2] {
    let ip = |text: &str| -> IpAddr { text.parse().expect("a literal") };
    let v4 = Addresses {
        loopback: Ipv4Addr::LOCALHOST.into(),
        any: Ipv4Addr::UNSPECIFIED.into(),
        pod: ip("10.77.0.2"),
        client: ip("10.77.0.1"),
        elsewhere: ip("203.0.113.7"),
    };
    let v6 = Addresses {
        loopback: Ipv6Addr::LOCALHOST.into(),
        any: Ipv6Addr::UNSPECIFIED.into(),
        pod: ip("fd77::2"),
        client: ip("fd77::1"),
        elsewhere: ip("2001:db8::7"),
    };
    [v4, v6]
}

/// Runs `test` in a pod of its own, or says that this machine allows none (in CI: fails).
fn in_pod(test: impl FnOnce(&Pod) + Send + 'static) {
    let run = move || {
        let namespace = match unshare_net() {
            Ok(namespace) => namespace,
            Err(error) => {
                let ci = std::env::var("CI").is_ok_and(|value| value == "true");
                assert!(!ci, "cannot make a network namespace: {error}");
                eprintln!("SKIPPED: cannot make a network namespace: {error}");
                return;
            }
        };
        let (orders, received) = mpsc::channel();
        let (made, wait) = mpsc::channel();
        let client = thread::spawn(move || {
            unshare_net().expect("a second namespace");
            create_pair(&namespace);
            configure("client0", "10.77.0.1", "fd77::1");
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
        up("lo");
        configure("eth0", "10.77.0.2", "fd77::2");
        route_through("10.77.0.1");
        route_through("fd77::1");
        let pod = Pod { orders };
        test(&pod);
        drop(pod);
        client.join().expect("the client ends");
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

struct Listener {
    address: SocketAddr,
    inner: TcpListener,
}

impl Listener {
    fn bind(ip: IpAddr, port: u16) -> Self {
        let address = SocketAddr::new(ip, port);
        let socket = TcpSocket::new(Domain::for_address(address), Type::STREAM, None);
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

    fn accept(&self) -> TcpStream {
        self.inner.accept().expect("a connection").0
    }

    /// The destination that the connection had before it was redirected here.
    fn accept_redirected(&self) -> SocketAddr {
        let stream = self.accept();
        original_destination(&stream)
            .expect("a redirect is behind it")
            .as_socket()
            .expect("an internet address")
    }

    /// A connection that was made to this listener itself.
    fn accept_direct(&self) {
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

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    connect_marked(address, 0)
}

fn connect_marked(address: SocketAddr, mark: u32) -> io::Result<TcpStream> {
    let socket = TcpSocket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_mark(mark)?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    Ok(socket.into())
}

fn unshare_net() -> io::Result<OwnedFd> {
    #[expect(
        deprecated,
        reason = "unsafe only where descriptors are unshared, which NEWNET does not do"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNET)?;
    Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
}

// As much of rtnetlink as the pod needs; numbers from linux/rtnetlink.h, if_link.h, if_addr.h.

fn request(message: Message) {
    let mut socket = Socket::route().expect("a socket");
    socket.request(message).expect("the kernel agrees");
}

/// `client0` here and `eth0` in `pod`.
fn create_pair(pod: &OwnedFd) {
    let mut message = Message::new(16, flags::CREATE | flags::EXCLUSIVE, &[0; 16]);
    message.string(3, "client0").nested(18, |info| {
        info.string(1, "veth").nested(2, |data| {
            data.nested(1, |peer| {
                peer.raw(&[0; 16]);
                peer.string(3, "eth0");
                peer.u32(28, pod.as_raw_fd().cast_unsigned());
            });
        });
    });
    request(message);
}

fn up(link: &str) {
    let mut header = [0; 16];
    header[8..12].copy_from_slice(&1u32.to_ne_bytes());
    header[12..16].copy_from_slice(&1u32.to_ne_bytes());
    let mut message = Message::new(19, 0, &header);
    message.string(3, link);
    request(message);
}

fn configure(link: &str, v4: &str, v6: &str) {
    up(link);
    let socket = Socket::route().expect("a socket");
    let index = rustix::net::netdevice::name_to_index(&socket, link).expect("is there");
    let v4: Ipv4Addr = v4.parse().expect("a literal");
    let v6: Ipv6Addr = v6.parse().expect("a literal");
    for (family, prefix, octets) in [
        (2, 24, v4.octets().to_vec()),
        (10, 64, v6.octets().to_vec()),
    ] {
        let mut header = vec![family, prefix, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(20, flags::CREATE, &header);
        message.attribute(2, &octets).attribute(1, &octets);
        message.u32(8, 2); // no duplicate address detection
        request(message);
    }
}

fn route_through(gateway: &str) {
    let (family, octets) = match gateway.parse().expect("a literal") {
        IpAddr::V4(ip) => (2, ip.octets().to_vec()),
        IpAddr::V6(ip) => (10, ip.octets().to_vec()),
    };
    let header = [family, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
    let mut message = Message::new(24, flags::CREATE, &header);
    message.attribute(5, &octets);
    request(message);
}
