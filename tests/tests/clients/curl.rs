//! `curl` in all that it can do with HTTP, against the stand-in service, which says what it saw, and nginx.

use std::fs;
use std::process::Command;

use anyhow::Context as _;
use weft_sandbox::app::body_hash;
use weft_sandbox::app::http::Seen;
use weft_sandbox::process::Process;
use weft_sandbox::{AppSpec, Mesh};

use crate::Suite;
use crate::common::{Cx, SERVER, assert_requests, client_and_apps, host, serve, start, succeed};
use crate::programs::{Needs, command, script};

/// The stand-in service.
const APP: u16 = 8080;
/// Another server.
const OTHER: u16 = 8081;
/// What is uploaded, and what nginx has.
const LENGTH: usize = 3 * 1024 * 1024;
/// Events of a stream, and what their server leaves between them.
const EVENTS: usize = 6;

pub(crate) fn register(suite: &mut Suite) {
    suite.add(
        "curl::versions_and_bodies",
        Needs::programs(&["curl"]),
        versions,
    );
    suite.add("curl::nginx", Needs::programs(&["curl", "nginx"]), nginx);
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

/// Parts of a file, conditions, HTTP/1.0, HEAD, and a server that closes after every second request; its
/// own log has the answers.
async fn nginx(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_apps("nginx", [(OTHER, AppSpec::none())]),
        async |mesh| {
            let (dir, body) = (mesh.dir().join("nginx"), random_body());
            fs::create_dir_all(dir.join("logs"))?;
            fs::write(dir.join("file"), &body)?;
            let _server = start_nginx(mesh, &dir).await?;
            let got = mesh.dir().join("got");
            let mut wanted = Vec::new();
            for (options, status, part) in [
                (&["--http1.1"][..], 200, Some(&body[..])),
                (&["--http1.0"], 200, Some(&body)),
                (&["--range", "100-199"], 206, Some(&body[100..200])),
                (&["--range", "-10"], 206, Some(&body[LENGTH - 10..])),
                (
                    &["--range", &format!("{}-", LENGTH - 7)],
                    206,
                    Some(&body[LENGTH - 7..]),
                ),
                (&["--range", &format!("{LENGTH}-")], 416, None),
                (
                    &["--time-cond", "Tue, 01 Jan 2030 00:00:00 GMT"],
                    304,
                    Some(&[]),
                ),
                (&["--head"], 200, None),
            ] {
                fs::write(&got, "")?;
                let mut curl = curl(mesh);
                curl.args(options).arg("--output").arg(&got);
                curl.args(["--write-out", "%{http_code}"]);
                let said = succeed(mesh, curl.arg2(url(mesh, OTHER, "/file"))).await;
                assert_eq!(said?, status.to_string(), "{options:?}");
                if let Some(part) = part {
                    assert!(fs::read(&got)? == part, "{options:?}: another body");
                }
                wanted.push(status.to_string());
            }
            // One curl and one connection of its own: what the server closes is not its affair.
            let mut many = curl(mesh);
            many.args(["--write-out", "%{http_code}\n", "--range", "0-9"]);
            for _ in 0..7 {
                many.arg(url(mesh, OTHER, "/file"))
                    .args(["--output", "/dev/null"]);
            }
            assert_eq!(succeed(mesh, many).await?, "206\n".repeat(7));
            wanted.extend(std::iter::repeat_n("206".to_owned(), 7));
            assert_requests(mesh, wanted.len() as u64).await?;
            let log = fs::read_to_string(dir.join("access"))?;
            let seen: Vec<_> = log.lines().map(str::to_owned).collect();
            assert_eq!(seen, wanted, "statuses in the server's log");
            Ok(())
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

async fn start_nginx(mesh: &Mesh, dir: &std::path::Path) -> anyhow::Result<Process> {
    let place = dir.display();
    let settings = dir.join("nginx.conf");
    // One process: another would be another user.
    fs::write(
        &settings,
        format!(
            "user root root; daemon off; master_process off; pid {place}/pid; error_log stderr;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n\
             log_format status '$status'; access_log {place}/access status;\n\
             client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; fastcgi_temp_path {place}/t3;\n\
             uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;\n\
             keepalive_requests 2; if_modified_since before;\n\
             server {{ listen {OTHER}; root {place}; }}\n\
             }}\n"
        ),
    )?;
    let mut nginx = command("nginx", mesh.dir());
    nginx.arg("-p").arg(dir).arg("-c").arg(settings);
    serve(mesh, "nginx", nginx, OTHER).await
}

fn random_body() -> Vec<u8> {
    let mut body = vec![0; LENGTH];
    fastrand::Rng::with_seed(80).fill(&mut body);
    body
}

fn curl(mesh: &Mesh) -> Command {
    let mut command = command("curl", mesh.dir());
    command.args(["--silent", "--show-error", "--max-time", "100"]);
    command
}

fn url(mesh: &Mesh, port: u16, path: &str) -> String {
    format!("http://{}:{port}{path}", host(mesh))
}

/// [`Command`]'s own give a reference back.
trait With: Sized {
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
