//! `weft stat` and `weft top` say what was: per outcome what load generators counted, what sidecars'
//! metrics show, what their access logs say line by line and what applications saw, all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use weft_proto::names::ports;
use weft_proxy::telemetry::BOUNDS_MICROS;
use weft_sandbox::load::{Load, Protocol, Report, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::process::Program;
use weft_sandbox::{Mesh, Service, Workload};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, assert_accounted, http_app, mesh, metrics, policy, stats, wait_for,
};

const CLIENTS: [&str; 2] = ["one", "two"];
const API: [&str; 2] = ["api-1", "api-2"];
/// What is asked of a port is asked of all services that lead there: these have applications of their own.
const CLOSED: [&str; 1] = ["closed-1"];
const RATED: [&str; 1] = ["rated-1"];
const AGAIN: [&str; 1] = ["again-1"];
const MORE: [&str; 1] = ["more-1"];
const APPS: [&str; 6] = [API[0], API[1], CLOSED[0], RATED[0], AGAIN[0], MORE[0]];
/// Until all that is in flight has ended.
const QUIET: Duration = Duration::from_secs(20);
/// A declared outcome's requests never reach an application.
const DECLARED: [&str; 5] = [
    "circuit_open",
    "fault_injected",
    "no_endpoints",
    "rate_limited",
    "unauthorized",
];
/// What waits for longer than this is given up.
const PATIENCE_MS: u64 = 1_000;
const NO_RETRIES: &str = "retries: {attempts: 0}";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("numbers::agree", agree);
    suite.add("numbers::live", live);
}

/// What the loads of one client saw, by service.
type Seen = BTreeMap<&'static str, Report>;

/// Requests by outcome.
type Outcomes = BTreeMap<String, u64>;

/// Two clients, two servers and a mixture of all that may happen: whoever counts, counts the same.
async fn agree(cx: Cx) -> anyhow::Result<()> {
    cx.on(scene("numbers"), async |mesh| {
        // Somebody has to have called through a breaker before there is one.
        for client in CLIENTS {
            let answer = mesh.pod(client).get(mesh.addr("shut", PORT), "/").await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        weft(mesh, &["breaker", "open", "default/shut:80"]).await?;
        let before = stats(mesh, APPS).await?;

        // A multiple of the shots that take turns.
        let many = cx.pick(3_000, 51_000);
        let (one, two) = tokio::join!(loads(mesh, "one", many), loads(mesh, "two", many));
        let (one, two) = (one?, two?);
        let sent: u64 = one.values().chain(two.values()).map(|it| it.sent).sum();

        // Nothing is in flight any more, and everybody has counted it.
        let stat = wait_for("counts of all requests", QUIET, async || {
            let stat = stat(mesh, &["services"]).await?;
            let all: u64 = lines(&stat)?
                .iter()
                .filter_map(|it| it["requests"].as_u64())
                .sum();
            // The two that came before the breaker was opened.
            Ok((all == sent + 2).then_some(stat))
        })
        .await?;
        wait_for("applications at rest", QUIET, async || {
            Ok((stats(mesh, APPS).await?.in_flight == 0).then_some(()))
        })
        .await?;

        let logged = logged(mesh, sent + 2).await?;
        for service in one.keys() {
            let label = format!("default/{service}:80");
            let mut by_load = outcomes(&one[service]);
            merge(&mut by_load, &outcomes(&two[service]));
            if *service == "shut" {
                merge(&mut by_load, &BTreeMap::from([("ok".to_owned(), 2)]));
            }
            let line = line(&stat, "service", &label)?;
            assert_eq!(line["side"], "client");
            assert_eq!(by_load, told(line)?, "{label}: loads and weft stat");
            assert_eq!(by_load, counted(mesh, &label).await?, "{label}: metrics");
            assert_eq!(line["requests"].as_u64(), Some(by_load.values().sum()));
            assert_eq!(Some(&by_load), logged.get(&label), "{label}: access log");
            println!("measured {service}: {by_load:?}");
        }

        // The applications' own count: everything but what was declared, and retries once more.
        let retries: u64 = lines(&stat)?
            .iter()
            .filter_map(|it| it["retries"].as_u64())
            .sum();
        let declared = |seen: &Seen| -> u64 {
            let outcomes = seen.values().flat_map(outcomes);
            let declared = outcomes.filter(|(word, _)| DECLARED.contains(&&**word));
            declared.map(|(_, count)| count).sum()
        };
        let (mut at_apps, declared) = (stats(mesh, APPS).await?, declared(&one) + declared(&two));
        at_apps.requests -= before.requests;
        assert_eq!(at_apps.requests, sent - declared + retries);
        let again = one["again"].sent + two["again"].sent;
        assert_eq!(
            at_apps.routes["GET /again"],
            again + retries,
            "retries at the application"
        );
        assert!(retries > again / 2, "{retries} retries of {again}");
        for (route, service) in [("GET /slow", "slow"), ("GET /ok", "api")] {
            let all = [&one, &two]
                .map(|seen| seen[service].sent)
                .iter()
                .sum::<u64>();
            // Two of six shots.
            let wanted = if service == "api" { all / 3 } else { all };
            assert_eq!(at_apps.routes[route], wanted, "{route} at the application");
        }

        servers_agree(mesh, &one, &two, retries).await?;
        callers_agree(mesh, &one, &two).await?;
        quantiles_agree(&stat, &one["timed"], &two["timed"])?;
        cx.measured(format!(
            "{sent} requests, {declared} of them declared, {retries} retries, {} at applications",
            at_apps.requests
        ));
        println!("{}", weft(mesh, &["stat", "--since-start"]).await?);
        for view in ["workloads", "routes", "backends", "pairs"] {
            let text = weft(mesh, &["stat", view, "--since-start"]).await?;
            println!("{text}");
            assert!(
                text.lines().all(|line| line.chars().count() <= 100),
                "{text}"
            );
            assert!(!text.contains('\x1b'), "{text}");
        }
        Ok(())
    })
    .await
}

/// By service and outcome, the lines about requests in the logs of the clients' sidecars, of which there
/// are to be so many.
async fn logged(mesh: &Mesh, wanted: u64) -> anyhow::Result<BTreeMap<String, Outcomes>> {
    let mut logged = BTreeMap::<String, Outcomes>::new();
    wait_for("all lines", QUIET, async || {
        logged.clear();
        let mut all = 0;
        for client in CLIENTS {
            let log = mesh.sidecar_log(client);
            let lines = log
                .lines()
                .filter(|line| line.contains(r#""target":"access""#));
            for line in lines {
                let line: Value = serde_json::from_str(line).context("a line of the log")?;
                let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
                let of_service = logged.entry(word("destination")).or_default();
                *of_service.entry(word("outcome")).or_default() += 1;
                all += 1;
            }
        }
        Ok((all >= wanted).then_some(()))
    })
    .await?;
    let all: u64 = logged.values().flat_map(Outcomes::values).sum();
    assert_eq!(all, wanted, "lines");
    Ok(logged)
}

/// What came to servers' sidecars: all but what clients' sidecars answered themselves, retries too.
async fn servers_agree(mesh: &Mesh, one: &Seen, two: &Seen, retries: u64) -> anyhow::Result<()> {
    let stat = stat(mesh, &["services", "--side", "server"]).await?;
    for service in ["api", "closed", "again"] {
        let all = one[service].sent + two[service].sent;
        let line = line(&stat, "service", &format!("default/{service}:80"))?;
        let (outcome, wanted) = match service {
            "closed" => ("unauthorized", all),
            "again" => ("ok", all + retries),
            _ => ("ok", all),
        };
        assert_eq!(line["side"], "server");
        assert_eq!(told(line)?, BTreeMap::from([(outcome.to_owned(), wanted)]));
        assert_eq!(line["mtlsPercent"], 100.0);
    }
    let none = stat_lines_of(&stat, "default/empty:80");
    assert_eq!(none, 0, "nobody serves it");
    Ok(())
}

/// Each caller by itself, as its own sidecar and as servers' sidecars know it.
async fn callers_agree(mesh: &Mesh, one: &Seen, two: &Seen) -> anyhow::Result<()> {
    for side in ["client", "server"] {
        for (client, seen) in CLIENTS.into_iter().zip([one, two]) {
            let from = format!("default/{client}");
            let args = [
                "pairs",
                "--from",
                &from,
                "--to",
                "default/api",
                "--side",
                side,
            ];
            let stat = stat(mesh, &args).await?;
            let [line] = &lines(&stat)?[..] else {
                anyhow::bail!("not one pair: {stat}");
            };
            assert_eq!(
                (&line["from"], &line["service"]),
                (&from.into(), &"default/api:80".into())
            );
            assert_eq!(line["requests"].as_u64(), Some(seen["api"].sent), "{side}");
            // Servers' sidecars keep durations of all callers together.
            assert_eq!(line["p99"].is_null(), side == "server", "{line}");
            let classes = &line["statuses"];
            let sixth = Some(seen["api"].sent / 6);
            assert_eq!(
                (classes["4xx"].as_u64(), classes["5xx"].as_u64()),
                (sixth, sixth)
            );
            assert_eq!(line["failed"].as_u64(), sixth);
        }
    }
    Ok(())
}

/// Each quantile lies in the bucket of the generators' own, or beside it.
fn quantiles_agree(stat: &Value, one: &Report, two: &Report) -> anyhow::Result<()> {
    let records = one.records.iter().chain(&two.records);
    let mut took: Vec<u64> = records.map(|it| it.took.as_micros() as u64).collect();
    took.sort_unstable();
    let line = line(stat, "service", "default/timed:80")?;
    for (name, share) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let rank = (share * took.len() as f64).ceil() as usize;
        let exact = took[rank - 1];
        let bucket = |micros: u64| BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        let up_to = line[name]["upToMillis"]
            .as_f64()
            .context("beyond all bounds")?;
        let found = bucket((up_to * 1e3).round() as u64);
        println!(
            "measured {name}: {} and {exact} us by the generators",
            line[name]
        );
        assert!(
            found.abs_diff(bucket(exact)) <= 1,
            "{name}: {} for {exact} us",
            line[name]
        );
    }
    let durations = line["latency"]["buckets"]
        .as_array()
        .context("no buckets")?;
    let all: u64 = durations.iter().filter_map(|it| it["count"].as_u64()).sum();
    assert_eq!(all, took.len() as u64);
    Ok(())
}

/// Live: the rate of a steady load in each table, whoever does not answer by name.
async fn live(cx: Cx) -> anyhow::Result<()> {
    const RATE: f64 = 100.0;
    cx.on(scene("live"), async |mesh| {
        let load = Load::new(mesh.addr("api", PORT))
            .clients(8)
            .rate(RATE)
            .start(&mesh.pod("one"));
        wait_for("an answer", QUIET, async || {
            Ok((load.look(|it| it.answered) > 0).then_some(()))
        })
        .await?;
        let said = weft(
            mesh,
            &[
                "top",
                "--to",
                "default/api",
                "--interval",
                "2s",
                "--iterations",
                "4",
            ],
        )
        .await?;
        println!("{said}");
        let rates: Vec<f64> = said
            .lines()
            .filter(|line| line.starts_with("default/api:80 "))
            .filter_map(|line| line.split_whitespace().nth(3)?.parse().ok())
            .collect();
        // The first one is of the time before.
        assert_eq!(rates.len(), 4, "{said}");
        for rate in &rates[1..] {
            assert!(
                (RATE * 0.6..RATE * 1.4).contains(rate),
                "{rate} of {RATE}: {said}"
            );
        }
        assert!(
            said.lines().all(|line| line.chars().count() <= 100),
            "{said}"
        );
        let report = load.stop().await;
        assert_accounted(&report);
        assert_eq!(report.not_ok(), 0, "{:?}", report.failures);

        // A window has no more than there was, and a rate of its own.
        let window = json(mesh, &["stat", "-o", "json", "--window", "10s"]).await?;
        let line = line(&window, "service", "default/api:80")?;
        let requests = line["requests"].as_u64().context("no count")?;
        assert!(
            (1..=report.sent).contains(&requests),
            "{requests} of {}",
            report.sent
        );
        let seconds = window["seconds"].as_f64().context("no time")?;
        assert!(seconds > 0.0 && seconds < 60.0, "{seconds} s");

        mesh.kill_sidecar("api-2").await?;
        wait_for("a sidecar that is missed", QUIET, async || {
            let (code, out) = run(mesh, &["stat", "--since-start"]).await?;
            let is_named = out.contains("default/api-2: its sidecar is not connected");
            Ok((code == Some(1) && is_named).then_some(()))
        })
        .await?;
        let (code, _) = run(mesh, &["top", "--iterations", "1"]).await?;
        assert_eq!(code, Some(1));
        mesh.kill_control_plane().await?;
        for command in ["stat", "top"] {
            let (code, _) = run(mesh, &[command]).await?;
            assert_eq!(code, Some(2));
        }
        Ok(())
    })
    .await
}

/// Two clients, two applications behind services of each fate.
fn scene(name: &str) -> Builder {
    let again = "retries: {attempts: 1, statusCodes: [503], backoff: {base: 1ms, max: 1ms}, \
                 budget: {percent: 100, interval: 10s, minRetriesPerSecond: 1000}}";
    let slow = format!("{NO_RETRIES}, timeouts: {{request: {PATIENCE_MS}ms}}");
    let closed = format!(
        "{NO_RETRIES}, authorization: {{mode: Enforce, allow: [{{principals: [{{serviceAccount: {{name: nobody}}}}]}}]}}"
    );
    let rated = format!("{NO_RETRIES}, rateLimit: {{requestsPerSecond: 1, burst: 5}}");
    let faulty =
        format!("{NO_RETRIES}, faultInjection: {{abort: {{httpStatus: 503, percent: 100}}}}");
    let services: [(&str, &[&'static str], String); 9] = [
        ("api", &API, NO_RETRIES.to_owned()),
        ("timed", &MORE, NO_RETRIES.to_owned()),
        ("calls", &MORE, NO_RETRIES.to_owned()),
        ("shut", &MORE, NO_RETRIES.to_owned()),
        ("slow", &MORE, slow),
        ("faulty", &MORE, faulty),
        ("again", &AGAIN, again.to_owned()),
        ("closed", &CLOSED, closed),
        ("rated", &RATED, rated),
    ];
    let log = "apiVersion: weft.dev/v1alpha1\n\
               kind: TrafficPolicy\n\
               metadata: {name: log, namespace: default}\n\
               spec: {targetRefs: [{kind: Namespace, name: default}], \
               accessLog: {mode: All, fields: [outcome, destination]}}\n";
    let mut builder = mesh(name).policy(log);
    for client in CLIENTS {
        builder = builder.workload(Workload::new(client).service_account(client));
    }
    for app in APPS {
        builder = builder.workload(http_app(app));
    }
    for (name, apps, stanzas) in services {
        let service = Service::new(name).port(PORT, APP_PORT);
        builder = builder
            .service(service.endpoints(apps.iter().copied()))
            .policy(&policy(name, name, &stanzas));
    }
    builder
        .service(Service::new("empty").port(PORT, APP_PORT))
        .policy(&policy("empty", "empty", NO_RETRIES))
}

/// One client's loads, all at the same time.
async fn loads(mesh: &Mesh, client: &'static str, many: u64) -> anyhow::Result<Seen> {
    let few = 120;
    let get = Shot::get;
    // Six shots each, so that a sixth is a whole number.
    let api = [
        get("/ok"),
        get("/ok"),
        get("/moved?status=302"),
        get("/missing?status=404"),
        get("/broken?status=500"),
        Shot::post("/posted", 2_000),
    ];
    let quick = get("/timed?delay_ms=30");
    let timed = [
        quick.clone(),
        quick.clone(),
        quick,
        get("/timed?delay_ms=150"),
        get("/timed?delay_ms=300"),
    ];
    let slow = format!("/slow?delay_ms={}", 3 * PATIENCE_MS);
    let plan: [(&'static str, usize, u64, Vec<Shot>); 10] = [
        ("api", 8, many, api.into()),
        ("timed", 20, 300, timed.into()),
        ("calls", 4, few, vec![Shot::post("/", 100)]),
        ("shut", 2, few, vec![get("/")]),
        ("again", 2, few, vec![get("/again?status=503")]),
        ("slow", 10, 10, vec![get(&slow)]),
        ("closed", 2, few, vec![get("/closed")]),
        ("rated", 2, few, vec![get("/rated")]),
        ("faulty", 2, few, vec![get("/faulty")]),
        ("empty", 2, few, vec![get("/empty")]),
    ];
    let running: Vec<_> = plan
        .into_iter()
        .map(|(service, clients, requests, shots)| {
            let mut load = Load::new(mesh.addr(service, PORT))
                .authority(service)
                .clients(clients)
                .requests(requests)
                .id_prefix(&format!("{client}-{service}"));
            if service == "calls" {
                load = load.protocol(Protocol::Grpc);
            }
            for shot in shots {
                load = load.shot(shot);
            }
            (service, load.start(&mesh.pod(client)))
        })
        .collect();
    let mut seen = Seen::new();
    for (service, load) in running {
        let report = load.ended().await;
        assert_accounted(&report);
        anyhow::ensure!(
            report.failed == 0,
            "{client}, {service}: {:?}",
            report.failures
        );
        seen.insert(service, report);
    }
    Ok(seen)
}

/// By the generator: what the mesh answered itself by its word, everything else is the application's.
fn outcomes(report: &Report) -> Outcomes {
    let mut all = report.outcomes.clone();
    let own: u64 = all.values().sum();
    if report.answered > own {
        all.insert("ok".to_owned(), report.answered - own);
    }
    all
}

/// By the metrics of both clients' sidecars.
async fn counted(mesh: &Mesh, service: &str) -> anyhow::Result<Outcomes> {
    let mut all = Outcomes::new();
    for client in CLIENTS {
        let metrics = metrics(mesh, client).await?;
        let labels = [("direction", "outbound"), ("service", service)];
        for sample in metrics.matching("weft_requests_total", &labels) {
            let outcome = sample.label("outcome").context("no outcome")?;
            *all.entry(outcome.to_owned()).or_default() += sample.value as u64;
        }
    }
    Ok(all)
}

/// By a line of `weft stat`.
fn told(line: &Value) -> anyhow::Result<Outcomes> {
    Ok(serde_json::from_value(line["outcomes"].clone())?)
}

fn merge(all: &mut Outcomes, more: &Outcomes) {
    for (outcome, count) in more {
        *all.entry(outcome.clone()).or_default() += count;
    }
}

fn lines(stat: &Value) -> anyhow::Result<&Vec<Value>> {
    stat["requests"].as_array().context("no lines")
}

fn line<'s>(stat: &'s Value, key: &str, name: &str) -> anyhow::Result<&'s Value> {
    let mut found = lines(stat)?.iter().filter(|it| it[key] == name);
    let line = found.next().with_context(|| format!("no {name}: {stat}"))?;
    anyhow::ensure!(found.next().is_none(), "{name} twice: {stat}");
    Ok(line)
}

fn stat_lines_of(stat: &Value, service: &str) -> usize {
    let lines = stat["requests"].as_array().into_iter().flatten();
    lines.filter(|it| it["service"] == service).count()
}

async fn stat(mesh: &Mesh, args: &[&str]) -> anyhow::Result<Value> {
    json(
        mesh,
        &[&["stat", "--since-start", "-o", "json"], args].concat(),
    )
    .await
}

async fn json(mesh: &Mesh, args: &[&str]) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&weft(mesh, args).await?)?)
}

async fn weft(mesh: &Mesh, args: &[&str]) -> anyhow::Result<String> {
    let (code, out) = run(mesh, args).await?;
    anyhow::ensure!(code == Some(0), "{args:?}: {out}");
    Ok(out)
}

/// Runs the command beside the control plane: its exit code and what it printed; both outputs, where it
/// failed.
async fn run(mesh: &Mesh, args: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
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
    let mut out = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        out.push_str(&String::from_utf8(output.stderr)?);
    }
    Ok((output.status.code(), out))
}
