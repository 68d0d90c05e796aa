//! The control plane as a process of its own, and what the kernel says of it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use weft_proto::names::env;

/// How long it may take until it serves.
const START: Duration = Duration::from_secs(60);
/// What the kernel counts a process's time in, for programs: 1/100 s on every machine of today.
const TICK: Duration = Duration::from_millis(10);

/// A control plane that follows a cluster. It ends when this is dropped.
pub(crate) struct ControlPlane {
    child: Child,
    pub(crate) grpc: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// From its start until it served.
    pub(crate) started_in: Duration,
}

/// What a process has of the machine's memory, in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) now: f64,
    pub(crate) peak: f64,
}

impl ControlPlane {
    /// Starts one, with its log in `dir`.
    pub(crate) async fn start(dir: &Path, kubeconfig: &str) -> anyhow::Result<Self> {
        let config = dir.join("kubeconfig");
        fs::write(&config, kubeconfig)?;
        let ports = dir.join("ports");
        let log = fs::File::create(dir.join("log"))?;
        let began = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_weft-control-plane-under-test"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--log-level", "warn", "--log-format", "plain"])
            .arg("--port-file")
            .arg(&ports)
            .env("KUBECONFIG", &config)
            .env(env::POD_NAME, "weft-control-plane-1")
            .env(env::POD_IP, "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut started = Self {
            child,
            grpc: (Ipv4Addr::LOCALHOST, 0).into(),
            admin: (Ipv4Addr::LOCALHOST, 0).into(),
            started_in: Duration::ZERO,
        };
        while !ports.exists() {
            let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
            ensure!(began.elapsed() < START, "it does not serve: {}", log());
            ensure!(started.child.try_wait()?.is_none(), "it ended: {}", log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        started.started_in = began.elapsed();
        let written = fs::read_to_string(&ports)?;
        let mut written = written.lines().map(str::parse::<u16>);
        started.grpc.set_port(written.next().context("a port")??);
        started.admin.set_port(written.next().context("a port")??);
        Ok(started)
    }

    /// The sum of a metric that begins like this, labels included.
    pub(crate) fn metric(&self, begins: &str) -> anyhow::Result<u64> {
        let mut page = TcpStream::connect(self.admin)?;
        page.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        page.read_to_string(&mut text)?;
        let lines = text.lines().filter(|line| line.starts_with(begins));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum::<f64>() as u64)
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let status = self.proc("status")?;
        let read = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kilobytes.map(|kilobytes: f64| kilobytes / 1024.0)
        };
        Ok(Memory {
            now: read("VmRSS:").context("VmRSS")?,
            peak: read("VmHWM:").context("VmHWM")?,
        })
    }

    /// The processor time that it has used up.
    pub(crate) fn time(&self) -> anyhow::Result<Duration> {
        let stat = self.proc("stat")?;
        // The name is in brackets and may hold anything; `utime` is field 14, `stime` 15.
        let (_, fields) = stat.rsplit_once(')').context("a name")?;
        let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u32>);
        let user = fields.next().context("utime")??;
        let system = fields.next().context("stime")??;
        Ok(TICK * (user + system))
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        Ok(fs::read_to_string(path)?)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
