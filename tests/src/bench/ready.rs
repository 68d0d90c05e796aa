//! How long a new process of a sidecar takes until it says that it is ready, with a control plane that
//! answers.
//!
//! The sidecar comes to the control plane through a relay, which tells when the certificate has reached it:
//! what is before that is also exec, the key, and what the control plane takes to sign. Whether it is ready,
//! it is asked over one connection, twice in a millisecond.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as Blocking};
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use weft_proto::names::{env, ports};
use weft_sandbox::process::Program;
use weft_sandbox::{Mesh, Pod, Workload};

use super::slice::Value;

/// The workload whose sidecar is started again and again.
const STARTER: &str = "starter";
/// Where the relay listens, beside the control plane.
const RELAY_PORT: u16 = 15_999;
/// Between two questions.
const GAP: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Bytes of a read.
const CHUNK: usize = 16 * 1024;

/// The time from the start of the process, and from the certificate's arrival.
pub(super) async fn after_start(mesh: &Mesh, program: Option<&Path>) -> anyhow::Result<Value> {
    let beside = mesh.control_plane_pod();
    let relay_at = SocketAddr::from((beside.v4(), RELAY_PORT));
    let heard = Arc::new(Mutex::new(Heard::default()));
    let mut relay = JoinSet::new();
    relay.spawn(relay_to(
        beside.clone(),
        beside.listen(relay_at)?,
        Arc::clone(&heard),
    ));
    let name = format!("{}/{STARTER}", mesh.namespace());
    if mesh.workloads().contains(&name) {
        mesh.stop_sidecar(STARTER).await?;
    } else {
        let workload = Workload::new(STARTER).workers(1);
        let workload = workload.env(env::CONTROL_PLANE_ADDR, &relay_at.to_string());
        let workload = match program {
            Some(program) => workload.sidecar(Program::new(program)),
            None => workload,
        };
        mesh.add_workload(workload).await?;
        mesh.stop_sidecar(STARTER).await?;
    }
    *heard.lock() = Heard::default();
    let (told, asked) = tokio::sync::oneshot::channel();
    let begin = Instant::now();
    drop(mesh.pod(STARTER).thread(move || {
        // Nobody waits any more where the sidecar could not be started.
        let _ = told.send(until_ready(begin + PATIENCE));
    }));
    mesh.start_sidecar(STARTER).await?;
    let ready = asked.await.context("whoever asks has ended")??;
    // Its address is free for the next round only when it has ended.
    relay.shutdown().await;
    let certificate = heard.lock().certificate;
    let certificate = certificate.context("the sidecar was ready without a certificate")?;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Value {
        of: [
            ("millis", millis(ready.duration_since(begin))),
            (
                "millisAfterAnswer",
                millis(ready.saturating_duration_since(certificate)),
            ),
        ]
        .into(),
        ..Value::default()
    })
}

/// What the relay has passed to the sidecar.
#[derive(Default)]
struct Heard {
    last: Option<Instant>,
    /// The last before the latest connection: the certificate, which the second connection shows, and
    /// there is no third.
    certificate: Option<Instant>,
}

async fn relay_to(beside: Pod, listener: TcpListener, heard: Arc<Mutex<Heard>>) {
    let to = SocketAddr::from((beside.v4(), ports::CONTROL_PLANE));
    let mut connections = JoinSet::new();
    while let Ok((sidecar, _)) = listener.accept().await {
        {
            let mut heard = heard.lock();
            heard.certificate = heard.last;
        }
        let (beside, heard) = (beside.clone(), Arc::clone(&heard));
        connections.spawn(async move {
            // The sidecar, and so the measurement, fails where this does.
            if let Ok(control_plane) = beside.connect(to).await {
                let _ = carry(sidecar, control_plane, &heard).await;
            }
        });
    }
}

async fn carry(
    mut sidecar: TcpStream,
    mut control_plane: TcpStream,
    heard: &Mutex<Heard>,
) -> io::Result<()> {
    sidecar.set_nodelay(true)?;
    let (mut asks, mut hears) = sidecar.split();
    let (mut answers, mut takes) = control_plane.split();
    let there = async {
        tokio::io::copy(&mut asks, &mut takes).await?;
        takes.shutdown().await
    };
    let back = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = answers.read(&mut chunk).await?;
            if read == 0 {
                return hears.shutdown().await;
            }
            hears.write_all(&chunk[..read]).await?;
            heard.lock().last = Some(Instant::now());
        }
    };
    tokio::try_join!(there, back).map(drop)
}

/// Asks the sidecar of the pod on whose thread this runs: when it said that it is ready. Blocks.
fn until_ready(until: Instant) -> anyhow::Result<Instant> {
    let mut connection = None;
    while Instant::now() < until {
        if connection.is_none() {
            connection = connect().ok();
        }
        if let Some(asked) = &mut connection {
            match ask(asked) {
                Ok(true) => return Ok(Instant::now()),
                Ok(false) => {}
                Err(_) => connection = None,
            }
        }
        sleep(GAP);
    }
    anyhow::bail!("a sidecar is not ready after {PATIENCE:?}")
}

fn connect() -> io::Result<Blocking> {
    let connection = Blocking::connect((Ipv4Addr::LOCALHOST, ports::ADMIN))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(ANSWER_LIMIT))?;
    Ok(connection)
}

/// One question, and the whole answer to it.
fn ask(connection: &mut Blocking) -> io::Result<bool> {
    connection.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4_096];
    loop {
        let read = connection.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&chunk[..read]);
        if is_whole(&answer) {
            return Ok(answer.starts_with(b"HTTP/1.1 200 "));
        }
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.and_then(|length| length.parse().ok()) == Some(body.len())
}
