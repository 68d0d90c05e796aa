//! Links, addresses and routes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;

use rustix::io::Errno;
use weft_sandbox::net::{
    add_address, add_default_route, create_bridge, create_veth, delete_link, set_loopback_up,
    set_master, set_up, unshare_net,
};

use crate::pod::{PATIENCE, in_namespace, ip};
use crate::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![
    two_namespaces_talk_over_a_bridge,
    a_device_can_be_the_default_route,
    refusals_name_the_change_and_the_reason,
];

const ADDRESSES: [&str; 2] = ["10.99.0.2:8080", "[fd99::2]:8080"];

fn two_namespaces_talk_over_a_bridge() {
    in_namespace(|_hub| {
        create_bridge("br0").expect("bridge");
        set_up("br0").expect("bridge up");
        add_address("br0", ip("10.99.0.1"), 24).expect("v4");
        add_address("br0", ip("fd99::1"), 64).expect("v6");

        let (made, handle) = mpsc::channel();
        let (linked, link) = mpsc::channel();
        let (listening, listens) = mpsc::channel();
        let pod = thread::spawn(move || {
            let namespace = unshare_net().expect("second namespace");
            made.send(namespace).expect("the hub waits");
            link.recv().expect("the hub has made the link");
            set_loopback_up().expect("lo");
            set_up("eth0").expect("eth0");
            add_address("eth0", ip("10.99.0.2"), 24).expect("v4");
            add_address("eth0", ip("fd99::2"), 64).expect("v6");
            add_default_route(ip("10.99.0.1")).expect("v4 route");
            add_default_route(ip("fd99::1")).expect("v6 route");
            for address in ADDRESSES {
                let listener = TcpListener::bind(address).expect("usable at once");
                listening.send(()).expect("the hub waits");
                let (mut stream, _) = listener.accept().expect("a client");
                stream.write_all(b"hello").expect("greet");
            }
        });
        let namespace = handle.recv().expect("the pod lives");
        create_veth("pod0", "eth0", namespace.as_fd()).expect("veth");
        set_master("pod0", "br0").expect("port");
        set_up("pod0").expect("up");
        linked.send(()).expect("the pod waits");

        for address in ADDRESSES {
            listens.recv().expect("the pod listens");
            let address = address.parse().expect("a literal");
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connects");
            let mut greeting = String::new();
            stream.read_to_string(&mut greeting).expect("greeting");
            assert_eq!(greeting, "hello");
        }
        pod.join().expect("pod");
        delete_link("pod0").expect("delete");
        let gone = delete_link("pod0").expect_err("gone");
        assert_eq!(gone.errno(), Some(Errno::NODEV));
        assert_eq!(
            gone.to_string(),
            "delete pod0: No such device (os error 19)"
        );
    });
}

fn a_device_can_be_the_default_route() {
    in_namespace(|namespace| {
        create_veth("a", "b", namespace.as_fd()).expect("veth");
        set_up("a").expect("a");
        set_up("b").expect("b");
        add_address("a", ip("10.1.0.1"), 32).expect("address");
        add_default_route("a").expect("route");
        // Routed, though nobody is there to answer: no "network unreachable".
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.send_to(b"x", "203.0.113.1:9").expect("a route");
    });
}

fn refusals_name_the_change_and_the_reason() {
    in_namespace(|_| {
        let error = set_up("nothere").expect_err("no such link");
        assert_eq!(
            error.to_string(),
            "set nothere up: No such device (os error 19)"
        );
        let error = set_master("lo", "nothere").expect_err("no such bridge");
        assert_eq!(error.errno(), Some(Errno::NODEV));
        let error = create_bridge("a-name-that-is-too-long").expect_err("too long");
        assert!(error.to_string().starts_with("create bridge a-name-"));
        create_bridge("twice").expect("first");
        let error = create_bridge("twice").expect_err("second");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::AlreadyExists);
    });
}
