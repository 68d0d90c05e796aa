//! Whether programs find hosts by name with nothing but what is in their image: in `/etc/hosts` and by
//! DNS, which container runtimes and clusters set up by two files. What counts is a connection at the
//! server, and a question at the name server.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use weft_proto::names::env;
use weft_sandbox::net;

use crate::run::{Rooted, User};
use crate::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![
    the_sidecar_finds_the_control_plane_by_dns,
    the_sidecar_finds_the_control_plane_in_hosts,
    the_command_finds_the_api_server_by_dns,
    the_command_finds_the_api_server_in_hosts,
];

/// Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// First byte of every TLS connection: a handshake record (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;
const CONTROL_PLANE_PORT: u16 = 15180;
const API_SERVER_PORT: u16 = 6443;
const TYPE_A: u16 = 1;
/// A question answered, and one about a name that is not there (RFC 1035, 4.1.1).
const ANSWERED: [u8; 2] = [0x81, 0x80];
const NO_SUCH_NAME: [u8; 2] = [0x81, 0x83];

fn the_sidecar_finds_the_control_plane_by_dns() {
    // As a pod has it: the name is not whole, the resolver's search list makes it so.
    by_dns("weft-control-plane.weft.svc", sidecar);
}

fn the_sidecar_finds_the_control_plane_in_hosts() {
    in_hosts("control-plane.hosts.test", sidecar);
}

fn the_command_finds_the_api_server_by_dns() {
    by_dns("kubernetes.default.svc", command);
}

fn the_command_finds_the_api_server_in_hosts() {
    in_hosts("api.hosts.test", command);
}

/// A program that was started, and where it should come to.
struct Caller {
    program: Child,
    port: u16,
}

impl Drop for Caller {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn sidecar(test: &str, name: &str) -> (Rooted, Command, u16) {
    let root = Rooted::new("weft-proxy", test);
    let file = |path: &str, content: &str| {
        fs::write(root.folder().join(path), content).expect("a file");
        format!("/{path}")
    };
    let bundle = file("trust-bundle.pem", &authority());
    let token = file("token", "a token");
    let mut command = root.command(User::Images, "weft-proxy");
    command
        .env(env::WORKLOAD, "web-1")
        .env(env::NAMESPACE, "shop")
        .env(
            env::CONTROL_PLANE_ADDR,
            format!("{name}:{CONTROL_PLANE_PORT}"),
        )
        .env(
            env::CONTROL_PLANE_ID,
            "spiffe://cluster.local/ns/weft/sa/control-plane",
        )
        .env(env::TRUST_BUNDLE_FILE, bundle)
        .env(env::TOKEN_FILE, token)
        .env(env::WORKLOAD_ADDRESSES, "10.77.0.2");
    (root, command, CONTROL_PLANE_PORT)
}

fn command(test: &str, name: &str) -> (Rooted, Command, u16) {
    let root = Rooted::new("weft", test);
    let authority = STANDARD.encode(authority());
    let kubeconfig = format!(
        "{{apiVersion: v1, kind: Config, current-context: it,\n\
         contexts: [{{name: it, context: {{cluster: it, user: it}}}}],\n\
         users: [{{name: it, user: {{token: a}}}}],\n\
         clusters: [{{name: it, cluster: {{server: \"https://{name}:{API_SERVER_PORT}\",\n\
         certificate-authority-data: {authority}}}}}]}}\n"
    );
    fs::write(root.folder().join("kubeconfig"), kubeconfig).expect("a file");
    let mut command = root.command(User::Images, "weft");
    command.args(["check", "--pre", "--kubeconfig", "/kubeconfig"]);
    (root, command, API_SERVER_PORT)
}

type Prepare = fn(&str, &str) -> (Rooted, Command, u16);

fn by_dns(name: &'static str, prepare: Prepare) {
    in_namespace(move || {
        let (root, command, port) = prepare(&format!("dns-{name}"), name);
        let etc = root.folder().join("etc");
        let resolver =
            "nameserver 127.0.0.1\nsearch weft.svc.cluster.local cluster.local\noptions ndots:5\n";
        write(&etc, "resolv.conf", resolver);
        write(&etc, "hosts", "127.0.0.1 localhost\n");
        let questions = name_server(&format!("{name}.cluster.local"));
        comes(command, port);
        let asked: Vec<String> = questions.try_iter().collect();
        assert!(
            asked.contains(&format!("{name}.cluster.local")),
            "{asked:?}"
        );
    });
}

fn in_hosts(name: &'static str, prepare: Prepare) {
    in_namespace(move || {
        let (root, command, port) = prepare(&format!("hosts-{name}"), name);
        let etc = root.folder().join("etc");
        write(&etc, "resolv.conf", "nameserver 127.0.0.1\n");
        write(
            &etc,
            "hosts",
            &format!("127.0.0.1 localhost\n127.0.0.1 {name}\n"),
        );
        let questions = name_server("nobody.test");
        comes(command, port);
        assert_eq!(questions.try_iter().next(), None, "it is in the file");
    });
}

/// The program connects to this port and begins to speak TLS.
fn comes(mut command: Command, port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("free in here");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let program = command.spawn().expect("unshare, of every system's basics");
    let mut caller = Caller { program, port };
    let mut stream = accept(&listener, &mut caller);
    let mut first = [0];
    stream.set_read_timeout(Some(PATIENCE)).expect("settable");
    stream.read_exact(&mut first).expect("it speaks first");
    assert_eq!(first[0], TLS_HANDSHAKE);
}

/// The next connection; what the program printed where none comes.
fn accept(listener: &TcpListener, caller: &mut Caller) -> TcpStream {
    listener.set_nonblocking(true).expect("settable");
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).expect("settable");
            return stream;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = caller.program.kill();
    let mut said = String::new();
    let program = &mut caller.program;
    let outputs: [Option<&mut dyn std::io::Read>; 2] = [
        program.stdout.as_mut().map(|it| it as _),
        program.stderr.as_mut().map(|it| it as _),
    ];
    for output in outputs.into_iter().flatten() {
        output.read_to_string(&mut said).expect("text");
    }
    panic!("nobody came to port {}: {said}", caller.port);
}

/// Answers for this name that it is here, and for others that there are none; hands on every name that
/// it is asked for. It ends when nobody has asked for a while.
fn name_server(known: &str) -> mpsc::Receiver<String> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("free in here");
    socket
        .set_read_timeout(Some(2 * PATIENCE))
        .expect("settable");
    let (asked, questions) = mpsc::channel();
    let known = known.to_owned();
    thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let question = &packet[..length];
            let (name, kind, end) = asked_for(question);
            let is_known = name == known;
            let has_address = is_known && kind == TYPE_A;
            let mut answer = question[..2].to_vec();
            answer.extend(if is_known { ANSWERED } else { NO_SUCH_NAME });
            answer.extend([0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
            answer.extend(&question[12..end]);
            if has_address {
                // The name of the question, an address of the internet, for a second.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
            }
            if asked.send(name).is_err() || socket.send_to(&answer, from).is_err() {
                return;
            }
        }
    });
    questions
}

/// Name and type of a question, and where it ends.
fn asked_for(packet: &[u8]) -> (String, u16, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while packet[at] != 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).into_owned());
        at = end;
    }
    let kind = u16::from_be_bytes([packet[at + 1], packet[at + 2]]);
    (labels.join("."), kind, at + 5)
}

/// A certificate that nobody's chain leads to.
fn authority() -> String {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&key).expect("a certificate").pem()
}

fn write(folder: &Path, name: &str, content: &str) {
    fs::write(folder.join(name), content).expect("a file");
}

/// Runs `test` on a thread in a network namespace of its own, with nothing but its loopback.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let run = || {
        net::unshare_net().expect("a network namespace");
        net::set_loopback_up().expect("lo");
        test();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}
