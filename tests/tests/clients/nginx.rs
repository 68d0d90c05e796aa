//! nginx, which closes connections when so many requests have come over each, with `curl` and `h2load`.

use std::fs;
use std::path::PathBuf;

use weft_sandbox::process::Process;
use weft_sandbox::{AppSpec, Mesh};

use crate::Suite;
use crate::common::{
    CLIENT, Cx, SERVER, assert_requests, client_and_apps, metrics, serve, succeed,
};
use crate::curl::{LENGTH, With as _, curl, random_body, url};
use crate::http_load::h2load;
use crate::programs::{Needs, command};

const HTTP1: u16 = 8081;
const HTTP2: u16 = 8082;
/// Requests per connection, after which it closes it (HTTP/1) or sends a GOAWAY (HTTP/2).
const HTTP1_REQUESTS: u32 = 2;
const HTTP2_REQUESTS: u32 = 20;

pub(crate) fn register(suite: &mut Suite) {
    let needs = Needs::programs(&["curl", "nginx"]);
    suite.add("nginx::parts_and_conditions", needs, parts);
    let needs = Needs::programs(&["h2load", "nginx"]);
    suite.add("nginx::many_goaways", needs, many_goaways);
}

/// Parts of a file, conditions, HTTP/1.0, HEAD, and a server that closes after every second request; its
/// own log has the answers.
async fn parts(cx: Cx) -> anyhow::Result<()> {
    cx.on(
        client_and_apps("nginx", [(HTTP1, AppSpec::none())]),
        async |mesh| {
            let body = random_body();
            let nginx = Nginx::start(mesh, &body).await?;
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
                let said = succeed(mesh, curl.arg2(url(mesh, HTTP1, "/file"))).await;
                assert_eq!(said?, status.to_string(), "{options:?}");
                if let Some(part) = part {
                    assert!(fs::read(&got)? == part, "{options:?}: another body");
                }
                wanted.push(status.to_string());
            }
            // All over one connection: what the server closes is not its client's affair.
            let mut many = curl(mesh);
            many.args([
                "--write-out",
                "%{http_code} %{num_connects}\n",
                "--range",
                "0-9",
            ]);
            for _ in 0..7 {
                many.arg(url(mesh, HTTP1, "/file"))
                    .args(["--output", "/dev/null"]);
            }
            let lines = format!("206 1\n{}", "206 0\n".repeat(6));
            assert_eq!(succeed(mesh, many).await?, lines);
            wanted.extend(std::iter::repeat_n("206".to_owned(), 7));
            assert_requests(mesh, wanted.len() as u64).await?;
            assert_eq!(nginx.statuses()?, wanted, "statuses in the server's log");
            Ok(())
        },
    )
    .await
}

/// Requests at once over connections that the server keeps ending: none fails, and the server's log has
/// each once.
async fn many_goaways(cx: Cx) -> anyhow::Result<()> {
    let builder = client_and_apps(
        "goaways",
        [(HTTP1, AppSpec::none()), (HTTP2, AppSpec::none())],
    );
    cx.on(builder, async |mesh| {
        let nginx = Nginx::start(mesh, b"small").await?;
        let mut all = 0;
        for (port, more) in [(HTTP2, &["-m", "10"][..]), (HTTP1, &["--h1"])] {
            let wanted = 1000;
            let mut args = vec!["-n", "1000", "-c", "4"];
            args.extend(more);
            h2load(&cx, mesh, wanted, &args, &url(mesh, port, "/file")).await?;
            all += wanted;
            let seen = nginx.statuses()?;
            assert!(seen.iter().all(|status| status == "200"), "{seen:?}");
            assert_eq!(seen.len() as u64, all, "answers in the server's log");
        }
        // What the server left out of every connection that its sidecar tried, the client's sent again.
        for (workload, labels) in [
            (CLIENT, &[("tls", "mutual")][..]),
            (SERVER, &[("tls", "mutual"), ("outcome", "ok")]),
        ] {
            let counted = metrics(mesh, workload).await?;
            assert_eq!(counted.sum("weft_requests_total", labels), all as f64);
        }
        Ok(())
    })
    .await
}

/// nginx in the server's pod.
struct Nginx {
    dir: PathBuf,
    _process: Process,
}

impl Nginx {
    /// It has `content` as `/file`.
    async fn start(mesh: &Mesh, content: &[u8]) -> anyhow::Result<Self> {
        let dir = mesh.dir().join("nginx");
        fs::create_dir_all(dir.join("logs"))?;
        fs::write(dir.join("file"), content)?;
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
                 client_body_temp_path {place}/t1; proxy_temp_path {place}/t2;\n\
                 fastcgi_temp_path {place}/t3; uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;\n\
                 if_modified_since before; root {place};\n\
                 server {{ listen {HTTP1}; keepalive_requests {HTTP1_REQUESTS}; }}\n\
                 server {{ listen {HTTP2} http2; keepalive_requests {HTTP2_REQUESTS}; }}\n\
                 }}\n"
            ),
        )?;
        let mut nginx = command("nginx", mesh.dir());
        nginx.arg("-p").arg(&dir).arg("-c").arg(settings);
        Ok(Self {
            _process: serve(mesh, "nginx", nginx, HTTP1).await?,
            dir,
        })
    }

    /// What it answered, in order.
    fn statuses(&self) -> anyhow::Result<Vec<String>> {
        let log = fs::read_to_string(self.dir.join("access"))?;
        Ok(log.lines().map(str::to_owned).collect())
    }
}
