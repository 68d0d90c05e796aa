//! "Clocks ±10 minutes apart with leaves of an hour": processes under libfaketime, whose clocks on the wall a
//! test sets, also while they run. Timers go on as they are.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::Value;
use tokio::time::sleep;
use weft_control_plane::policy::MtlsMode;
use weft_proto::names::env;
use weft_sandbox::load::{Load, Running, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Workload};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_all_served_once, http_app, mesh, metrics, service, stats, wait_for,
};

/// The program of Debian's package with this name, and the library in it.
const FAKETIME: &str = "faketime";
const LIBRARY: &str = "faketime/libfaketime.so.1";
const MINUTE: i64 = 60;
/// How far apart clocks may be.
const APART: i64 = 10 * MINUTE;
/// The life of leaves, and what of it passes at once: more than until any renewal, less than until an end.
const HOUR: i64 = 60 * MINUTE;
const PASSES: i64 = 40 * MINUTE;
/// What a reading may be off: certificates count whole seconds, and a test takes its time.
const OFF: i64 = 45;
/// Sidecars look at the clock every 30 s, and a new certificate takes a moment.
const NOTICED: Duration = Duration::from_secs(45);
/// For so long nobody renews who has just done so.
const CALM: Duration = Duration::from_secs(3);

pub(crate) fn register(suite: &mut Suite) {
    let faketime = Some(FAKETIME);
    suite.add_needing(faketime, "clocks::sidecars_apart", sidecars);
    suite.add_needing(faketime, "clocks::control_plane_ahead", ahead);
    suite.add_needing(faketime, "clocks::control_plane_behind", behind);
}

/// One sidecar ten minutes ahead and one ten minutes behind, so twenty apart, with a control plane in the
/// middle.
async fn sidecars(cx: Cx) -> anyhow::Result<()> {
    apart(&cx, APART, -APART, 0, true).await
}

/// Sidecars whose clocks are right, with a control plane that is ten minutes ahead.
async fn ahead(cx: Cx) -> anyhow::Result<()> {
    apart(&cx, 0, 0, APART, cx.soak).await
}

/// The same with one that is ten minutes behind.
async fn behind(cx: Cx) -> anyhow::Result<()> {
    apart(&cx, 0, 0, -APART, cx.soak).await
}

/// With clocks that are wrong by so much, sidecars are certified, call each other both ways, and renew once
/// when it is time, for which 40 minutes pass at once where `passes`; and so does who starts again.
async fn apart(
    cx: &Cx,
    one: i64,
    other: i64,
    control_plane: i64,
    passes: bool,
) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let clock = |name: &str, wrong| Clock::new(directory.path().join(name), wrong);
    let clocks = [
        clock("one", one)?,
        clock("other", other)?,
        clock("control-plane", control_plane)?,
    ];
    let workloads = [("one-1", one), ("other-1", other)];
    cx.on(pair(&clocks)?, async |mesh| {
        for (name, wrong) in workloads {
            let seen = Seen::of(mesh, name).await?;
            seen.assert_sane(name, 0, wrong, control_plane);
            assert_eq!(seen.issued, 1, "{name}");
        }
        let (mut passed, mut sent, mut issued) = (0, 0, 1);
        let loads = Loads::start(mesh);
        if passes {
            (passed, issued) = (PASSES, 2);
            clocks.iter().try_for_each(|clock| clock.pass(passed))?;
            for (name, wrong) in workloads {
                let seen = renewed(mesh, name, issued).await?;
                seen.assert_sane(name, passed, wrong, control_plane);
            }
        }
        sleep(CALM).await;
        sent += loads.assert_none_failed(mesh).await?;
        for (name, _) in workloads {
            let seen = Seen::of(mesh, name).await?;
            assert_eq!((seen.issued, seen.failed), (issued, 0), "{name}");
        }

        for (name, wrong) in workloads {
            mesh.restart_sidecar(name).await?;
            let seen = Seen::of(mesh, name).await?;
            seen.assert_sane(name, passed, wrong, control_plane);
            mesh.app(name).reset_stats().await?;
        }
        let loads = Loads::start(mesh);
        sleep(CALM).await;
        sent += loads.assert_none_failed(mesh).await?;
        for (name, _) in workloads {
            let seen = Seen::of(mesh, name).await?;
            assert_eq!((seen.issued, seen.failed), (1, 0), "{name}");
        }
        cx.measured(format!(
            "{sent} requests both ways, 0 failed; {issued} certificates in {} minutes",
            passed / MINUTE
        ));
        // Killed ones would leave libfaketime's shared memory behind.
        for (name, _) in workloads {
            mesh.stop_sidecar(name).await?;
        }
        mesh.stop_control_plane().await
    })
    .await
}

/// Two workloads that call each other over mutual TLS only, with their clocks, and the control plane's.
fn pair([one, other, control_plane]: &[Clock; 3]) -> anyhow::Result<Builder> {
    let library = library()?;
    let with_clock = |workload: Workload, clock: &Clock| {
        let set = |workload: Workload, (name, value): (&str, String)| workload.env(name, &value);
        clock.environment(&library).into_iter().fold(workload, set)
    };
    let builder = mesh("clocks")
        .workload(with_clock(http_app("one-1"), one))
        .workload(with_clock(http_app("other-1"), other))
        .service(service("one", ["one-1"]))
        .service(service("other", ["other-1"]))
        .minimum_mtls(MtlsMode::Strict)
        .control_plane_env(env::LEAF_LIFETIME, "1h");
    let set =
        |builder: Builder, (name, value): (&str, String)| builder.control_plane_env(name, &value);
    let environment = control_plane.environment(&library);
    Ok(environment.into_iter().fold(builder, set))
}

/// Where libfaketime is: beside other libraries, in a folder of its own.
fn library() -> anyhow::Result<String> {
    let mut places = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")];
    for entry in std::fs::read_dir("/usr/lib")? {
        places.push(entry?.path());
    }
    let mut files = places.into_iter().map(|place| place.join(LIBRARY));
    let library = files.find(|file| file.is_file());
    let library = library.context("faketime is there, and its library is not in /usr/lib")?;
    Ok(library.to_str().context("a path in UTF-8")?.to_owned())
}

/// A file that says how far a clock is ahead of the machine's, in seconds.
struct Clock {
    file: PathBuf,
    wrong: i64,
}

impl Clock {
    fn new(file: PathBuf, wrong: i64) -> anyhow::Result<Self> {
        let clock = Self { file, wrong };
        clock.pass(0)?;
        Ok(clock)
    }

    /// So many seconds have passed since its start, also for who runs already.
    fn pass(&self, seconds: i64) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{:+}\n", seconds + self.wrong))?;
        Ok(std::fs::rename(new, &self.file)?)
    }

    fn environment(&self, library: &str) -> [(&'static str, String); 4] {
        let file = self.file.display().to_string();
        [
            ("LD_PRELOAD", library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            // The file is read at each look at the clock.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// What a sidecar says of its certificate. Times as in seconds since 1970.
#[derive(Debug)]
struct Seen {
    not_after: i64,
    renews_at: i64,
    issued: u64,
    failed: u64,
}

impl Seen {
    async fn of(mesh: &Mesh, workload: &str) -> anyhow::Result<Self> {
        wait_for("a sidecar that waits", NOTICED, async || {
            let answer = mesh.admin_get(workload, "/config").await?;
            let config: Value = serde_json::from_slice(&answer.body)?;
            let identity = &config["health"]["identity"];
            // It has none while it asks for a certificate.
            let Some(renews_at) = identity["renewsAt"].as_i64() else {
                return Ok(None);
            };
            Ok(Some(Self {
                renews_at,
                not_after: identity["notAfter"].as_i64().context("notAfter")?,
                issued: identity["certificatesIssued"].as_u64().context("issued")?,
                failed: identity["certificateFailures"].as_u64().context("failed")?,
            }))
        })
        .await
    }

    /// Of a certificate that was received in the last moments: it ends an hour later by the control plane's
    /// clock, and half of what is left of it by the sidecar's own is its use, give or take a tenth. `passed`
    /// is by how much all clocks are beside the machine's.
    fn assert_sane(&self, name: &str, passed: i64, ahead: i64, control_plane: i64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs() as i64) + passed;
        let ends = now + control_plane + HOUR;
        assert!(
            (self.not_after - ends).abs() <= OFF,
            "{name}: {self:?}, at {now}"
        );
        let own = now + ahead;
        let left = self.not_after - own;
        let used = self.renews_at - own;
        let (least, most) = (left * 45 / 100 - OFF, left * 55 / 100 + OFF);
        assert!((least..=most).contains(&used), "{name}: {self:?}, at {own}");
    }
}

/// Waits until a sidecar has had so many certificates.
async fn renewed(mesh: &Mesh, workload: &str, issued: u64) -> anyhow::Result<Seen> {
    wait_for("a renewal", NOTICED, async || {
        let seen = Seen::of(mesh, workload).await?;
        Ok((seen.issued >= issued).then_some(seen))
    })
    .await
    .with_context(|| format!("of {workload}"))
}

/// Each calls the other.
struct Loads {
    to_other: Running,
    to_one: Running,
}

impl Loads {
    fn start(mesh: &Mesh) -> Self {
        let load = |from: &str, to: &str| {
            Load::new(mesh.addr(to, PORT))
                .clients(2)
                .rate(50.0)
                .id_prefix(to)
                .shot(Shot::get("/"))
                .shot(Shot::post("/orders", 100))
                .start(&mesh.pod(from))
        };
        Self {
            to_other: load("one-1", "other"),
            to_one: load("other-1", "one"),
        }
    }

    /// How many there were.
    async fn assert_none_failed(self, mesh: &Mesh) -> anyhow::Result<u64> {
        let mut sent = 0;
        for (load, server) in [(self.to_other, "other-1"), (self.to_one, "one-1")] {
            let report = load.stop().await;
            assert_all_served_once(&report, &stats(mesh, [server]).await?);
            assert!(report.sent > 50, "{} requests", report.sent);
            let metrics = metrics(mesh, server).await?;
            let plain = metrics.sum("weft_requests_total", &[("tls", "none"), ("outcome", "ok")]);
            let inbound = metrics.sum(
                "weft_requests_total",
                &[("direction", "inbound"), ("tls", "mutual")],
            );
            assert!(plain == 0.0 && inbound > 0.0, "{plain} {inbound}");
            sent += report.sent;
        }
        Ok(sent)
    }
}
