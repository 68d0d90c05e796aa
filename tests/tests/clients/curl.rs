//! `curl` in all that it can do with HTTP, against the stand-in service, which says what it saw.

use std::fs;
use std::process::Command;

use anyhow::Context as _;
use weft_sandbox::app::body_hash;
use weft_sandbox::app::http::Seen;
use weft_sandbox::{AppSpec, Mesh};

use crate::Suite;
use crate::common::{Cx, SERVER, assert_requests, client_and_apps, host, serve, start, succeed};
use crate::programs::{Needs, command, script};

/// The stand-in service.
const APP: u16 = 8080;
/// Another server.
const OTHER: u16 = 8081;
/// What is uploaded and downloaded.
pub(crate) const LENGTH: usize = 3 * 1024 * 1024;
/// Events of a stream, and what their server leaves between them.
const EVENTS: usize = 6;

pub(crate) fn register(suite: &mut Suite) {
    suite.add(
        "curl::versions_and_bodies",
        Needs::programs(&["curl"]),
        versions,
    );
    let needs = Needs {
        programs: &["curl", "sh"],
        modules: &["http.server"],
    };
    suite.add("curl::events_and_long_polls", needs, events);
}

/// One way to ask, and what comes of it.
struct Case {
    name: &'static str,
    options: &'static [&'static str],
    upload: bool,
    /// As curl names the answer's.
    version: &'static str,
    method: &'static str,
    /// As the application names the request's.
    protocol: &'static str,
}

const CASES: [Case; 9] = [
    case("HTTP/1.0", &["--http1.0"], "1", "GET", "HTTP/1.1"),
    case("HTTP/1.1", &["--http1.1"], "1.1", "GET", "HTTP/1.1"),
    case(
        "HTTP/2 with prior knowledge",
        &["--http2-prior-knowledge"],
        "2",
        "GET",
        "HTTP/2.0",
    ),
    case(
        "an upgrade to HTTP/2 offered",
        &["--http2"],
        "1.1",
        "GET",
        "HTTP/1.1",
    ),
    case(
        "DELETE",
        &["--request", "DELETE"],
        "1.1",
        "DELETE",
        "HTTP/1.1",
    ),
    Case {
        upload: true,
        ..case(
            "a body of known length",
            &["--http1.1"],
            "1.1",
            "PUT",
            "HTTP/1.1",
        )
    },
    Case {
        upload: true,
        // Without an interim answer nothing would be sent before the time is over.
        ..case(
            "Expect: 100-continue",
            &[
                "--http1.1",
                "--header",
                "Expect: 100-continue",
                "--expect100-timeout",
                "60",
            ],
            "1.1",
            "PUT",
            "HTTP/1.1",
        )
    },
    Case {
        upload: true,
        ..case(
            "a body in chunks",
            &["--http1.1", "--header", "Transfer-Encoding: chunked"],
            "1.1",
            "PUT",
            "HTTP/1.1",
        )
    },
    Case {
        upload: true,
        ..case(
            "a body over HTTP/2",
            &["--http2-prior-knowledge"],
            "2",
            "PUT",
            "HTTP/2.0",
        )
    },
];

const fn case(
    name: &'static str,
    options: &'static [&'static str],
    version: &'static str,
    method: &'static str,
    protocol: &'static str,
) -> Case {
    Case {
        name,
        options,
        upload: false,
        version,
        method,
        protocol,
    }
}

/// Each of [`CASES`], HEAD, and a body that comes back; the application has counted them.
async fn versions(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_apps("curl", [(APP, AppSpec::http())]),
        async |mesh| {
            let body = random_body();
            let file = mesh.dir().join("body");
            fs::write(&file, &body)?;
            for case in &CASES {
                let mut curl = curl(mesh);
                curl.args(case.options);
                curl.args(["--write-out", "\n%{http_code} %{http_version}"]);
                if case.upload {
                    curl.arg("--upload-file").arg(&file);
                }
                let said = succeed(mesh, curl.arg2(url(mesh, APP, "/case"))).await;
                let said = said.context(case.name)?;
                let (seen, words) = said.rsplit_once('\n').context(case.name)?;
                // Some say 1 for 1.0.
                let words = words.strip_suffix(".0").unwrap_or(words);
                let seen: Seen = serde_json::from_str(seen).context(case.name)?;
                assert_eq!(words, format!("200 {}", case.version), "{}", case.name);
                assert_eq!(seen.method, case.method, "{}", case.name);
                assert_eq!(seen.protocol, case.protocol, "{}", case.name);
                if case.upload {
                    assert_eq!(seen.body_length, LENGTH as u64, "{}", case.name);
                    assert_eq!(seen.body_hash, body_hash(&body), "{}", case.name);
                }
            }
            let head = succeed(
                mesh,
                curl(mesh).args2(&["--head"]).arg2(url(mesh, APP, "/")),
            )
            .await?;
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let back = mesh.dir().join("back");
            let mut echo = curl(mesh);
            echo.arg("--upload-file")
                .arg(&file)
                .arg("--output")
                .arg(&back);
            succeed(mesh, echo.arg2(url(mesh, APP, "/echo"))).await?;
            assert!(fs::read(&back)? == body, "what came back is not what went");
            let sent = CASES.len() as u64 + 2;
            let seen = mesh.app(SERVER).stats().await?;
            assert_eq!((seen.requests, seen.cancelled), (sent, 0));
            assert_requests(mesh, sent).await
        },
    )
    .await
}

/// `curl -N` prints each event before the next one is sent; a poll is answered when there is something to
/// tell, after a time in which nothing was said.
async fn events(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_apps("events", [(OTHER, AppSpec::none())]),
        async |mesh| {
            let mut server = script("events_server.py", mesh.dir());
            server.args([OTHER.to_string(), EVENTS.to_string()]);
            let _server = serve(mesh, "events", server, OTHER).await?;
            let mut clock = command("sh", mesh.dir());
            clock.args([
                "-c",
                "\"$@\" | while IFS= read -r line; do echo \"$(date +%s%N) $line\"; done",
                "sh",
            ]);
            let events = curl(mesh);
            clock
                .arg(events.get_program())
                .args(events.get_args())
                .arg("--no-buffer");
            clock.arg(url(mesh, OTHER, "/events"));
            let said = succeed(mesh, clock).await?;
            let times: Vec<(i64, i64)> = said
                .lines()
                .filter_map(|line| line.split_once(" data: "))
                .map(|(heard, sent)| Ok((sent.trim().parse()?, heard.parse()?)))
                .collect::<anyhow::Result<_>>()?;
            assert_eq!(times.len(), EVENTS, "{said}");
            for pair in times.windows(2) {
                let ((_, heard), (next, _)) = (pair[0], pair[1]);
                assert!(
                    heard < next,
                    "an event came when the next one had been sent: {said}"
                );
            }
            let slowest = times.iter().map(|(sent, heard)| heard - sent).max();
            let slowest = slowest.context("no events")? / 1_000_000;
            cx.measured(format!("{EVENTS} events, the slowest after {slowest} ms"));

            let pod = mesh.pod(crate::common::CLIENT);
            let poll = start(
                mesh,
                &pod,
                "poll",
                curl(mesh).arg2(url(mesh, OTHER, "/poll")),
            )?;
            tokio::time::sleep(cx.idle()).await;
            assert!(poll.ended()?.is_none(), "{}", poll.log_tail(5));
            let tell = curl(mesh)
                .args2(&["--data", "at last"])
                .arg2(url(mesh, OTHER, "/tell"));
            assert_eq!(succeed(mesh, tell).await?, "told 1");
            let status = poll.wait(std::time::Duration::from_secs(10)).await?;
            assert_eq!(status.and_then(|status| status.code()), Some(0));
            assert_eq!(poll.log_tail(1), "at last");
            assert_requests(mesh, 3).await
        },
    )
    .await
}

pub(crate) fn random_body() -> Vec<u8> {
    let mut body = vec![0; LENGTH];
    fastrand::Rng::with_seed(80).fill(&mut body);
    body
}

pub(crate) fn curl(mesh: &Mesh) -> Command {
    let mut command = command("curl", mesh.dir());
    command.args(["--silent", "--show-error", "--max-time", "100"]);
    command
}

pub(crate) fn url(mesh: &Mesh, port: u16, path: &str) -> String {
    format!("http://{}:{port}{path}", host(mesh))
}

/// [`Command`]'s own give a reference back.
pub(crate) trait With: Sized {
    fn arg2(self, arg: String) -> Self;
    fn args2(self, args: &[&str]) -> Self;
}

impl With for Command {
    fn arg2(mut self, arg: String) -> Self {
        self.arg(arg);
        self
    }

    fn args2(mut self, args: &[&str]) -> Self {
        self.args(args);
        self
    }
}
