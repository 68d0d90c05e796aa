//! HTTP/2 by hand against a sidecar, on the way out of the client's pod and on the way into the
//! application's: what is malformed, and what floods.
//!
//! Each case says which frames are sent, how it must end, and how many requests the application may
//! have seen; `docs/http2.md` has a row for each, and the suite fails where the page says otherwise.
//! After each case another client of the same sidecar is served on the connection that it has had
//! from the beginning.

mod cases;
mod floods;
mod servers;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use http::{Method, StatusCode};
use weft_sandbox::client::Http2;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Pod};
use weft_tests::frames::Wire;

use crate::Suite;
use crate::common::{APP_PORT, Cx, PORT, client_and, metrics, request, stats};

pub(crate) fn register(suite: &mut Suite) {
    suite.add("frames::malformed_on_the_way_out", |cx| {
        malformed(cx, Way::Out)
    });
    suite.add("frames::malformed_on_the_way_in", |cx| {
        malformed(cx, Way::In)
    });
    suite.add("frames::floods_on_the_way_out", |cx| {
        floods::end_the_connection(cx, Way::Out)
    });
    suite.add("frames::floods_on_the_way_in", |cx| {
        floods::end_the_connection(cx, Way::In)
    });
    suite.add("frames::floods_of_an_application", |cx| {
        servers::end_the_connection(cx, Way::In)
    });
    suite.add("frames::floods_of_a_server_without_a_sidecar", |cx| {
        servers::end_the_connection(cx, Way::Out)
    });
    suite.add("frames::settings_are_announced", settings);
    suite.add_needing(Some("h2load"), "frames::h2load_is_no_flood", h2load);
}

/// How long an end is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which sidecar the frames meet first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The client's own.
    Out,
    /// The application's, from a pod without one, in plaintext.
    In,
}

/// A mesh, and who speaks to whom in it.
struct Place<'m> {
    mesh: &'m Mesh,
    way: Way,
    pod: Pod,
    to: SocketAddr,
    bystander: Http2,
}

impl<'m> Place<'m> {
    async fn new(mesh: &'m Mesh, way: Way) -> anyhow::Result<Self> {
        let (pod, to) = match way {
            Way::Out => (mesh.pod("client"), mesh.addr("api", PORT)),
            Way::In => {
                let app = SocketAddr::new(mesh.pod("api-1").v4().into(), APP_PORT);
                (mesh.stranger("stranger")?, app)
            }
        };
        let bystander = Http2::connect(&pod, to).await?;
        let place = Self {
            mesh,
            way,
            pod,
            to,
            bystander,
        };
        place.serve_the_bystander().await?;
        Ok(place)
    }

    /// The workload whose sidecar is meant.
    fn workload(&self) -> &'static str {
        match self.way {
            Way::Out => "client",
            Way::In => "api-1",
        }
    }

    async fn open(&self) -> anyhow::Result<Wire> {
        Wire::open(self.pod.connect(self.to).await?).await
    }

    /// One request of another client over the connection that it has had all the time.
    async fn serve_the_bystander(&self) -> anyhow::Result<()> {
        let asked = self.bystander.request(request(
            Method::GET,
            "http://api/bystander",
            "bystander",
            "",
        ));
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer = answer.context("the other client waits")??;
        anyhow::ensure!(
            answer.status == StatusCode::OK,
            "the other client got {}",
            answer.text()
        );
        Ok(())
    }

    /// Requests that the application has seen, without the other client's.
    async fn seen(&self) -> anyhow::Result<u64> {
        let stats = stats(self.mesh, ["api-1"]).await?;
        let others = stats.routes.get("GET /bystander").copied().unwrap_or(0);
        Ok(stats.requests - others)
    }

    /// Floods that the sidecar has counted.
    async fn floods_counted(&self) -> anyhow::Result<f64> {
        let metrics = metrics(self.mesh, self.workload()).await?;
        Ok(metrics.sum("weft_limit_hits_total", &[("limit", "http2_floods")]))
    }
}

fn two_sidecars(name: &str) -> Builder {
    client_and(name, ["api-1"])
}

/// Every row of what is malformed, and of what only looks so.
async fn malformed(cx: Cx, way: Way) -> anyhow::Result<()> {
    cx.on(two_sidecars("frames"), async |mesh| {
        let place = Place::new(mesh, way).await?;
        let mut wrong = Vec::new();
        for case in cases::all() {
            let before = place.seen().await?;
            let mut wire = place.open().await?;
            wire.send(&case.frames).await?;
            wire.until(PATIENCE, |heard| heard.end(case.stream).is_some())
                .await?;
            let end = wire.heard.end(case.stream);
            let end = end.unwrap_or_else(|| "no end".to_owned());
            place.serve_the_bystander().await.context(case.name)?;
            let seen = place.seen().await? - before;
            // What is answered with 200 was seen; of the rest the application may see a head at most.
            let counts = seen == case.seen || (seen < case.seen && end != "200");
            if end != case.end || !counts {
                wrong.push(format!(
                    "{}: {end}, {seen} requests seen; expected {}, {}",
                    case.name, case.end, case.seen
                ));
            }
            let row = format!("| {} | {} | {} |", case.name, case.reference, case.end);
            if !documented(&row) {
                wrong.push(format!("docs/http2.md has no row {row}"));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
        Ok(())
    })
    .await
}

/// What both sidecars tell a client at once: the settings that bound it.
async fn settings(cx: Cx) -> anyhow::Result<()> {
    cx.on(two_sidecars("settings"), async |mesh| {
        for way in [Way::Out, Way::In] {
            let place = Place::new(mesh, way).await?;
            let mut wire = place.open().await?;
            let told = wire.until(PATIENCE, |heard| heard.window > 0).await?;
            assert!(told, "the connection's window stays at its default");
            // RFC 9113, 6.5.2, and RFC 8441: streams at once, a stream's window, bytes of a head,
            // extended CONNECT.
            let expected = [(3, 1_000), (4, 256 * 1024), (6, 80 * 1024), (8, 1)];
            for (number, value) in expected {
                assert_eq!(
                    wire.heard.settings.get(&number),
                    Some(&value),
                    "{way:?}: {number}"
                );
            }
            // The default is 65,535.
            assert_eq!(wire.heard.window + 65_535, 64 << 20, "{way:?}");
        }
        Ok(())
    })
    .await
}

/// A load tool of another library's, with windows so small that it acknowledges all the time: each of
/// its requests is served, and none of its connections taken for a flood.
async fn h2load(cx: Cx) -> anyhow::Result<()> {
    let requests: u64 = cx.pick(3_000, 100_000);
    cx.on(two_sidecars("h2load"), async |mesh| {
        let mut command = Command::new("h2load");
        command.env_clear();
        command.args([
            "--clients=4",
            "--max-concurrent-streams=50",
            "--window-bits=10",
        ]);
        command.arg(format!("--requests={requests}"));
        command.arg(format!("http://{}/load?bytes=5000", mesh.addr("api", PORT)));
        let output = mesh.pod("client").output(command).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let all = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
        assert!(text.contains(&all), "{text}");
        let seen = stats(mesh, ["api-1"]).await?;
        assert_eq!(
            seen.routes.get("GET /load"),
            Some(&requests),
            "requests that the server saw"
        );
        for workload in ["client", "api-1"] {
            let metrics = metrics(mesh, workload).await?;
            let floods = metrics.sum("weft_limit_hits_total", &[("limit", "http2_floods")]);
            assert_eq!(floods, 0.0, "{workload} took it for a flood");
        }
        Ok(())
    })
    .await
}

/// Whether the page for users has this line.
fn documented(row: &str) -> bool {
    include_str!("../../../docs/http2.md")
        .lines()
        .any(|line| line == row)
}
