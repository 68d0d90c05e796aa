//! `weft breaker` and `weft proxy config|metrics|log-level` against a mesh.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use weft_proto::names::ports;
use weft_sandbox::{Mesh, process::Program};

use crate::Suite;
use crate::common::{Cx, PORT, client_and, stats, wait_for};

const BACKEND: &str = "default/api:80";
/// The balancer's memory, and the machine's time.
const SOON: Duration = Duration::from_secs(30);
const APPS: [&str; 2] = ["api-1", "api-2"];

pub(crate) fn register(suite: &mut Suite) {
    suite.add(
        "commands::breakers_are_opened_listed_closed_and_reset",
        breakers,
    );
    suite.add(
        "commands::a_sidecar_tells_and_changes_its_level",
        one_sidecar,
    );
}

/// What the command said.
struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

/// Opened by hand, a backend gets nothing and its callers the outcome; with one endpoint opened, the
/// other one serves all; closed and reset, both serve.
async fn breakers(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("commands", APPS), async |mesh| {
        // Nobody was called through the client's sidecar yet.
        let said = weft(mesh, &["breaker", "open", BACKEND]).await?;
        assert_eq!(said.code, Some(1), "{}{}", said.out, said.error);
        assert!(
            said.out.starts_with("None of 3 sidecars has a breaker"),
            "{}",
            said.out
        );
        assert_eq!(served(mesh, &APPS, 1).await?, 1);

        let said = weft(mesh, &["breaker", "open", BACKEND]).await?;
        println!("{}", said.out);
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.error);
        assert!(
            said.out
                .contains(" of default/api:80 in 1 sidecar; 2 others have none."),
            "{}",
            said.out
        );
        let before = stats(mesh, APPS).await?.requests;
        for _ in 0..5 {
            let answer = mesh.pod("client").get(mesh.addr("api", PORT), "/").await?;
            assert_eq!(answer.status, 503);
            assert!(answer.text().contains("circuit_open"), "{}", answer.text());
        }
        assert_eq!(
            stats(mesh, APPS).await?.requests,
            before,
            "reached an application"
        );
        let said = weft(mesh, &["breaker", "list"]).await?;
        println!("{}", said.out);
        assert_eq!(said.code, Some(0));
        assert!(said.out.lines().all(|line| line.chars().count() <= 100));
        assert!(!said.out.contains('\x1b'), "{}", said.out);
        let line = said.out.lines().nth(1).context("no breaker")?;
        assert!(
            line.starts_with("default/client  default/api:80 "),
            "{line}"
        );
        assert!(line.ends_with("  forced_open"), "{line}");

        let said = weft(mesh, &["breaker", "reset"]).await?;
        println!("{}", said.out);
        assert_eq!(said.code, Some(0), "{}", said.out);
        assert_eq!(states(mesh, &[]).await?, [("closed".to_owned(), 2)]);
        assert_eq!(served(mesh, &APPS, 10).await?, 10);

        // One endpoint: all is the other one's.
        let first = format!("{}:8080", mesh.pod("api-1").v4());
        let endpoint = ["breaker", "open", BACKEND, "--endpoint", &first];
        let listed: Value =
            serde_json::from_str(&weft(mesh, &["breaker", "list", "-o", "json"]).await?.out)?;
        let known = listed["breakers"].as_array().context("no breakers")?;
        assert!(known.iter().any(|it| it["endpoint"] == *first), "{listed}");
        let said = weft(mesh, &endpoint).await?;
        assert_eq!(said.code, Some(0), "{}", said.out);
        let before = mesh.app("api-1").stats().await?.requests;
        assert_eq!(served(mesh, &APPS, 20).await?, 20);
        assert_eq!(mesh.app("api-1").stats().await?.requests, before);
        let open = states(mesh, &[BACKEND, "--endpoint", &first]).await?;
        assert_eq!(open, [("forced_open".to_owned(), 1)]);
        let close = ["breaker", "close", BACKEND, "--workload", "default/client"];
        let said = weft(mesh, &close).await?;
        println!("{}", said.out);
        assert_eq!(said.code, Some(0), "{}", said.out);
        let closed = states(mesh, &[BACKEND]).await?;
        assert_eq!(
            closed.last().context("none")?.0,
            "forced_closed",
            "{closed:?}"
        );
        assert_eq!(served(mesh, &APPS, 20).await?, 20);
        // Which one is chosen is the balancer's: it remembers who was slow.
        wait_for("the closed endpoint", SOON, async || {
            assert_eq!(served(mesh, &APPS, 5).await?, 5);
            let now = mesh.app("api-1").stats().await?.requests;
            Ok((now > before).then_some(()))
        })
        .await?;
        let reset = ["breaker", "reset", BACKEND, "-n", "default"];
        assert_eq!(weft(mesh, &reset).await?.code, Some(0));
        assert_eq!(states(mesh, &[]).await?, [("closed".to_owned(), 2)]);

        // Of others there is nobody.
        let said = weft(mesh, &["breaker", "list", "--workload", "default/nobody"]).await?;
        assert_eq!(said.code, Some(1));
        assert!(
            said.out.contains("default/nobody: no such workload"),
            "{}",
            said.out
        );
        Ok(())
    })
    .await
}

/// The level is changed and back; the configuration and the metrics are the admin port's.
async fn one_sidecar(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("levels", ["api-1"]), async |mesh| {
        assert_eq!(served(mesh, &["api-1"], 3).await?, 3);
        let level = async |more: &[&str]| {
            let args = [&["proxy", "log-level", "default/client"], more].concat();
            let said = weft(mesh, &args).await?;
            anyhow::ensure!(said.code == Some(0), "{}{}", said.out, said.error);
            anyhow::Ok(said.out)
        };
        let before = level(&["-o", "json"]).await?;
        let before: Value = serde_json::from_str(&before)?;
        let before = before["level"].as_str().context("no level")?;
        assert_ne!(before, "trace");
        let changed = level(&["trace"]).await?;
        println!("{changed}");
        assert_eq!(changed, format!("default/client: trace, was {before}\n"));
        assert_eq!(level(&[]).await?, "default/client: trace\n");
        let shown = mesh.admin_get("client", "/log-level").await?.text();
        assert!(shown.contains("trace"), "{shown}");
        let other = mesh.admin_get("api-1", "/log-level").await?.text();
        assert!(!other.contains("trace"), "{other}");
        level(&[before]).await?;
        assert_eq!(level(&[]).await?, format!("default/client: {before}\n"));

        let said = weft(mesh, &["proxy", "config", "default/client"]).await?;
        assert_eq!(said.code, Some(0), "{}", said.error);
        let config: Value = serde_json::from_str(&said.out)?;
        assert_eq!(config["health"]["workload"], "default/client");
        assert!(said.out.contains(BACKEND), "{}", said.out);
        let said = weft(mesh, &["proxy", "metrics", "default/client"]).await?;
        assert_eq!(said.code, Some(0), "{}", said.error);
        let counted = said
            .out
            .lines()
            .filter(|line| line.starts_with("weft_requests_total{") && line.contains("outbound"));
        let counted = counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        assert_eq!(counted.sum::<f64>(), 3.0, "{}", said.out);

        let said = weft(mesh, &["proxy", "config", "default/nobody"]).await?;
        assert_eq!(said.code, Some(1));
        assert!(said.error.contains("no such workload"), "{}", said.error);
        mesh.kill_control_plane().await?;
        let said = weft(mesh, &["proxy", "metrics", "default/client"]).await?;
        assert_eq!(said.code, Some(2));
        assert!(said.error.contains("port-forward"), "{}", said.error);
        Ok(())
    })
    .await
}

/// How many of so many requests an application answered.
async fn served(mesh: &Mesh, apps: &[&str], count: usize) -> anyhow::Result<u64> {
    let before = all_requests(mesh, apps).await?;
    for _ in 0..count {
        let answer = mesh.pod("client").get(mesh.addr("api", PORT), "/").await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    Ok(all_requests(mesh, apps).await? - before)
}

async fn all_requests(mesh: &Mesh, apps: &[&str]) -> anyhow::Result<u64> {
    let mut all = 0;
    for app in apps {
        all += mesh.app(app).stats().await?.requests;
    }
    Ok(all)
}

/// How many breakers are in which state, by its name.
async fn states(mesh: &Mesh, more: &[&str]) -> anyhow::Result<Vec<(String, usize)>> {
    let args = [&["breaker", "list", "-o", "json"], more].concat();
    let said = weft(mesh, &args).await?;
    let listed: Value = serde_json::from_str(&said.out)?;
    let mut counts = std::collections::BTreeMap::new();
    for breaker in listed["breakers"].as_array().context("no breakers")? {
        let state = breaker["state"].as_str().context("no state")?;
        *counts.entry(state.to_owned()).or_default() += 1;
    }
    Ok(counts.into_iter().collect())
}

/// Runs the command beside the control plane.
async fn weft(mesh: &Mesh, args: &[&str]) -> anyhow::Result<Said> {
    let pod = mesh.control_plane_pod();
    let host = pod.place().map_or(
        [127, 0, 0, 1].into(),
        weft_sandbox::pod::loopback::Place::address,
    );
    let server = format!("http://{host}:{}", ports::ADMIN);
    let command = Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(args.iter().copied())
        .args(["--server", &server])
        .command();
    let output = pod.output(command).await?;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        error: String::from_utf8(output.stderr)?,
    })
}
