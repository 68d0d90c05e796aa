//! `weft tap` against a mesh: what it shows is what the application served, once per side, and nothing of
//! it is secret.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use weft_proto::names::ports;
use weft_sandbox::Mesh;
use weft_sandbox::process::{Process, Program};

use crate::Suite;
use crate::common::{Cx, PORT, client_and, metrics, policy, send, stats, wait_for};

const APPS: [&str; 1] = ["api-1"];
/// Requests with a secret in every place that has room for one.
const REQUESTS: usize = 40;
const SECRET: &str = "open-sesame";
/// Polls come twice a second; the rest is the machine's time.
const SOON: Duration = Duration::from_secs(30);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("tap::every_request_is_shown_once_per_side", whole);
    suite.add("tap::what_is_asked_for_bounds_it", bounded);
    suite.add("tap::what_became_of_a_request_is_told", told);
}

/// The command while it runs.
struct Tap(Process);

/// All requests are shown by both sidecars, each once, with what the server answered; of secrets there is
/// nothing, though headers are asked for.
async fn whole(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("tap", APPS), async |mesh| {
        let tap = Tap::start(
            mesh,
            "whole",
            &["-o", "json", "--rate", "1000", "--headers"],
        )?;
        tap.looks_at(2).await?;
        for number in 0..REQUESTS {
            let status = if number % 4 == 0 { 503 } else { 200 };
            call(
                mesh,
                &format!("/items/{number}?status={status}&token={SECRET}"),
                status,
            )
            .await?;
        }
        let served = stats(mesh, APPS).await?;
        assert_eq!(served.requests, REQUESTS as u64);
        let said = tap
            .says("every request twice", |lines| lines.len() >= 2 * REQUESTS)
            .await?;
        tap.0.terminate()?;
        let code = tap.0.wait(SOON).await?.context("it does not end")?.code();
        assert_eq!(code, Some(0), "{}", tap.0.log_tail(5));
        let text = tap.text()?;
        assert!(!text.contains(SECRET), "a secret is shown:\n{text}");
        let sum = format!("{} records of 2 sidecars, 0 dropped.", 2 * REQUESTS);
        assert!(text.ends_with(&format!("{sum}\n")), "{text}");

        let mut sides: BTreeMap<&str, BTreeMap<usize, &Value>> = BTreeMap::new();
        for record in &said {
            let direction = record["direction"].as_str().context("no direction")?;
            let path = record["path"].as_str().context("no path")?;
            let number = path
                .strip_prefix("/items/")
                .and_then(|it| it.split('?').next());
            let number = number.context("another path")?.parse()?;
            let before = sides.entry(direction).or_default().insert(number, record);
            assert!(before.is_none(), "shown twice: {record}");
            let wanted = if number % 4 == 0 { 503 } else { 200 };
            assert_eq!(record["status"], wanted);
            let query = "?status=<redacted>&token=<redacted>";
            assert_eq!(path, format!("/items/{number}{query}"));
            assert_eq!(record["outcome"], "ok");
            assert_eq!(record["tls"], "mutual");
            assert_eq!(record["service"], "default/api:80");
            let headers = record["headers"].to_string();
            assert!(
                headers.contains(r#"["authorization","<redacted>"]"#),
                "{headers}"
            );
            assert!(
                headers.contains(r#"["user-agent","tester/1"]"#),
                "{headers}"
            );
        }
        let (Some(out), Some(inside)) = (sides.get("outbound"), sides.get("inbound")) else {
            anyhow::bail!("one side only: {said:?}");
        };
        assert_eq!((out.len(), inside.len()), (REQUESTS, REQUESTS));
        let endpoint = format!("{}:8080", mesh.pod("api-1").v4());
        for (number, record) in out {
            let server = inside.get(number).context("not there")?;
            assert_eq!(record["requestId"], server["requestId"]);
            assert_eq!(record["workload"], "default/client");
            assert_eq!(record["endpoint"], *endpoint);
            assert_eq!(server["workload"], "default/api-1");
            assert_eq!(server["peer"], "default/client");
        }
        // What is counted is what is shown.
        for (workload, direction) in [("client", "outbound"), ("api-1", "inbound")] {
            let counted = metrics(mesh, workload).await?;
            let counted = counted.sum("weft_requests_total", &[("direction", direction)]);
            assert_eq!(counted, REQUESTS as f64, "{workload}");
        }
        Ok(())
    })
    .await
}

/// Filters, the rate, the number and the time are kept to; who cannot be looked at is named.
async fn bounded(cx: Cx) -> anyhow::Result<()> {
    cx.on(client_and("tap-bounds", APPS), async |mesh| {
        // Only what failed, in words for people.
        let few = [
            "--status",
            "5xx",
            "--direction",
            "inbound",
            "--max-records",
            "3",
        ];
        let failures = Tap::start(mesh, "failures", &few)?;
        // One record a second.
        let slow = Tap::start(
            mesh,
            "slow",
            &["default/client", "--rate", "1", "-o", "yaml"],
        )?;
        failures.looks_at(2).await?;
        slow.looks_at(1).await?;
        for number in 0..20 {
            let status = if number % 5 == 0 { 500 } else { 200 };
            call(mesh, &format!("/{number}?status={status}"), status).await?;
        }
        let code = failures
            .0
            .wait(SOON)
            .await?
            .context("it does not end")?
            .code();
        let text = failures.text()?;
        println!("{text}");
        assert_eq!(code, Some(0), "{text}");
        let lines: Vec<&str> = text.lines().filter(|it| it.contains("GET /")).collect();
        assert_eq!(lines.len(), 3, "{text}");
        for line in text.lines() {
            assert!(
                line.chars().count() <= 100 && !line.contains('\x1b'),
                "{line:?}"
            );
        }
        for (line, number) in lines.iter().zip([0, 5, 10]) {
            let wanted = format!("GET /{number}?status=<redacted>");
            assert!(line.ends_with(&wanted) && line.contains(" 500 "), "{line}");
            assert!(line.contains(" in  default/api-1 "), "{line}");
        }
        slow.says_text("a record", |text| text.contains("\npath: "))
            .await?;
        slow.0.terminate()?;
        assert_eq!(slow.0.wait(SOON).await?.and_then(|it| it.code()), Some(0));
        let text = slow.text()?;
        let shown = text.matches("\npath: ").count();
        let sum = text.lines().last().context("no sum")?;
        println!("{sum}");
        let records = if shown == 1 { "record" } else { "records" };
        let wanted = format!("{shown} {records} of 1 sidecar, {} dropped ", 20 - shown);
        assert!(sum.starts_with(&wanted), "{text}");
        assert!((1..20).contains(&shown), "{text}");

        // The time ends it; nobody is there.
        let nobody = Tap::start(mesh, "nobody", &["default/nobody", "--for", "1s"])?;
        assert_eq!(nobody.0.wait(SOON).await?.and_then(|it| it.code()), Some(1));
        let text = nobody.text()?;
        assert!(text.contains("default/nobody: no such workload"), "{text}");
        mesh.kill_control_plane().await?;
        let late = Tap::start(mesh, "late", &[])?;
        assert_eq!(late.0.wait(SOON).await?.and_then(|it| it.code()), Some(2));
        assert!(late.text()?.contains("port-forward"), "{}", late.text()?);
        Ok(())
    })
    .await
}

/// Retries are told as the servers counted them; what a breaker refused and a fallback answered came to
/// none of them.
async fn told(cx: Cx) -> anyhow::Result<()> {
    let apps = ["api-1", "api-2"];
    let stanzas = "retries: {attempts: 1, statusCodes: [503], backoff: {base: 1ms, max: 5ms}}, \
                   fallback: {triggers: [CircuitOpen], response: {status: 203, body: instead}}";
    let builder = client_and("tap-told", apps).policy(&policy("told", "api", stanzas));
    cx.on(builder, async |mesh| {
        let tap = Tap::start(mesh, "told", &["-o", "json"])?;
        let people = Tap::start(mesh, "people", &[])?;
        tap.looks_at(3).await?;
        people.looks_at(3).await?;
        for status in [200, 503, 503, 404] {
            call(mesh, &format!("/items?status={status}"), status).await?;
        }
        let served = stats(mesh, apps).await?.requests;
        // The budget may say no to one of the two.
        let retried = served - 4;
        assert!(
            (1..=2).contains(&retried),
            "{served} tries of four requests"
        );
        let open = command(mesh, &["breaker", "open", "default/api:80"]);
        let opened = mesh.control_plane_pod().output(open).await?;
        assert!(opened.status.success(), "{opened:?}");
        call(mesh, "/open", 203).await?;
        assert_eq!(stats(mesh, apps).await?.requests, served);
        let all = 5 + usize::try_from(served)?;
        let said = tap
            .says("all of it", |records| records.len() >= all)
            .await?;
        assert_eq!(said.len(), all);

        let of = |direction: &str| {
            let records = said.iter().filter(|it| it["direction"] == direction);
            let statuses = records.clone().filter_map(|it| it["status"].as_u64());
            let mut statuses: Vec<u64> = statuses.collect();
            statuses.sort_unstable();
            let retries = records.filter_map(|it| it["retries"].as_u64()).sum::<u64>();
            (statuses, retries)
        };
        assert_eq!(of("outbound"), (vec![200, 203, 404, 503, 503], retried));
        let failed = [503].repeat(usize::try_from(served - 2)?);
        assert_eq!(of("inbound"), ([vec![200, 404], failed].concat(), 0));
        let refused = said
            .iter()
            .find(|it| it["status"] == 203)
            .context("no fallback")?;
        assert_eq!(refused["fallback"], true);
        assert_eq!(refused["outcome"], "circuit_open");
        assert_eq!(refused["endpoint"], Value::Null);
        assert_eq!(said.iter().filter(|it| it["fallback"] == true).count(), 1);

        people
            .says_text("a fallback", |text| text.contains("fallback"))
            .await?;
        people.0.terminate()?;
        assert_eq!(people.0.wait(SOON).await?.and_then(|it| it.code()), Some(0));
        let text = people.text()?;
        println!("{text}");
        assert!(text.contains("circuit_open, fallback"), "{text}");
        let told = text.matches(" 1 retry").count() as u64;
        assert_eq!(told, retried, "{text}");
        Ok(())
    })
    .await
}

impl Tap {
    /// Beside the control plane.
    fn start(mesh: &Mesh, name: &str, args: &[&str]) -> anyhow::Result<Self> {
        let log = mesh.dir().join("logs").join(format!("tap-{name}.log"));
        let command = command(mesh, &[&["tap"], args].concat());
        let pod = mesh.control_plane_pod();
        Ok(Self(pod.start(name, command, &log)?))
    }

    /// Waits until so many sidecars record.
    async fn looks_at(&self, sidecars: usize) -> anyhow::Result<()> {
        let wanted = format!("Looking at {sidecars} sidecar");
        self.says_text(&wanted, |text| text.contains(&wanted)).await
    }

    /// The records, once there are those that are wanted.
    async fn says(
        &self,
        what: &str,
        is_all: impl Fn(&[Value]) -> bool,
    ) -> anyhow::Result<Vec<Value>> {
        let found = wait_for(what, SOON, async || {
            let text = self.text()?;
            let lines = text.lines().filter(|line| line.starts_with('{'));
            let records: Vec<Value> = lines
                .filter_map(|it| serde_json::from_str(it).ok())
                .collect();
            Ok(is_all(&records).then_some(records))
        });
        found.await.with_context(|| self.0.log_tail(50))
    }

    async fn says_text(&self, what: &str, is_so: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let found = wait_for(what, SOON, async || Ok(is_so(&self.text()?).then_some(())));
        found.await.with_context(|| self.0.log_tail(50))
    }

    fn text(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.0.log_file())?)
    }
}

/// A command of `weft`, to be run beside the control plane.
fn command(mesh: &Mesh, args: &[&str]) -> Command {
    let host = mesh.control_plane_pod().place().map_or(
        [127, 0, 0, 1].into(),
        weft_sandbox::pod::loopback::Place::address,
    );
    let server = format!("http://{host}:{}", ports::ADMIN);
    Program::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(args.iter().copied())
        .args(["--server", &server])
        .command()
}

/// One request of the client, full of secrets.
async fn call(mesh: &Mesh, target: &str, status: u16) -> anyhow::Result<()> {
    let request = Request::get(target)
        .header("host", "api")
        .header("user-agent", "tester/1")
        .header("authorization", format!("Bearer {SECRET}"))
        .header("cookie", format!("session={SECRET}"))
        .header("x-api-key", SECRET)
        .body(Full::new(Bytes::new()))?;
    let answer = send(&mesh.pod("client"), mesh.addr("api", PORT), request).await?;
    assert_eq!(answer.status, status, "{}", answer.text());
    Ok(())
}
