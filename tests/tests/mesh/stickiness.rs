//! Sticky splits through real sidecars, from a canary's first five percent to its end: who is where
//! is counted by the servers and compared with shares that are fixed for ever, because so are the
//! keys and their hash. (`resilience::tests::stickiness` of the proxy has the same for its functions;
//! all of these numbers were computed by another implementation of the hash.)

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use http::header::{COOKIE, HeaderName, HeaderValue, SET_COOKIE};
use http::{Method, Request};
use http_body_util::Full;
use weft_sandbox::client::Answer;
use weft_sandbox::load::{Load, Protocol, Record, Report, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Workload};

use crate::Suite;
use crate::common::{
    Cx, PORT, assert_no_failure, http_app, mesh, policy, request, send, service, wait_for,
};

const KEY: HeaderName = HeaderName::from_static("x-user");
const COOKIE_NAME: &str = "weft-canary";
/// An edit's way to a sidecar; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys of the steady load, each of which comes again and again.
const REGULARS: u64 = 64;

pub(crate) fn register(suite: &mut Suite) {
    suite.add("stickiness::headers_between_two_backends", headers);
    suite.add("stickiness::cookies_between_three_backends", cookies);
    suite.add("stickiness::a_cookie_of_ours_is_kept", own_cookie);
    suite.add("stickiness::callers_by_identity", identities);
}

/// One step of a canary's life, for the keys `0..keys` of the service `shop`.
struct Step<const N: usize> {
    weights: [u32; N],
    /// How many of the first 1,000 keys, and of 10,000, are on each backend.
    thousand: [usize; N],
    all: [usize; N],
    /// A key that this step moves, and to which backend: who sees it there, has the edit.
    mover: (u64, usize),
}

/// 5 → 20 → 50 → 100, and none.
const TWO: [Step<2>; 5] = [
    Step {
        weights: [95, 5],
        thousand: [947, 53],
        all: [9504, 496],
        mover: (10, 0),
    },
    Step {
        weights: [80, 20],
        thousand: [810, 190],
        all: [7999, 2001],
        mover: (10, 1),
    },
    Step {
        weights: [50, 50],
        thousand: [510, 490],
        all: [5037, 4963],
        mover: (3, 1),
    },
    Step {
        weights: [0, 100],
        thousand: [0, 1000],
        all: [0, 10_000],
        mover: (0, 1),
    },
    Step {
        weights: [100, 0],
        thousand: [1000, 0],
        all: [10_000, 0],
        mover: (0, 0),
    },
];

/// The same for the last of three; what is left to the first never grows either, until the end.
const THREE: [Step<3>; 5] = [
    Step {
        weights: [85, 10, 5],
        thousand: [854, 93, 53],
        all: [8490, 1014, 496],
        mover: (3, 0),
    },
    Step {
        weights: [60, 20, 20],
        thousand: [599, 211, 190],
        all: [6013, 1986, 2001],
        mover: (3, 1),
    },
    Step {
        weights: [20, 30, 50],
        thousand: [199, 311, 490],
        all: [2059, 2978, 4963],
        mover: (0, 1),
    },
    Step {
        weights: [0, 0, 100],
        thousand: [0, 0, 1000],
        all: [0, 0, 10_000],
        mover: (0, 2),
    },
    Step {
        weights: [50, 50, 0],
        thousand: [510, 490, 0],
        all: [5037, 4963, 0],
        mover: (0, 0),
    },
];

/// From which step on each client's identity is on the canary of [`TWO`].
const CLIENTS: [(&str, usize); 4] = [
    ("client-7", 0),
    ("client-1", 1),
    ("client-12", 2),
    ("client-5", 3),
];

/// Keys in a header, two backends, policy edits while a steady load goes on, and a restart.
async fn headers(cx: Cx) -> anyhow::Result<()> {
    let sticky = "{type: Header, name: x-user}";
    let keys = |load: Load| load.number_in(KEY);
    let probe = |key: u64| (KEY, HeaderValue::from(key));
    cx.on(
        canary::<2>("headers", &split(&TWO[0].weights, sticky)),
        async |mesh| {
            let regulars = (0..REGULARS).fold(Load::new(mesh.addr("shop", PORT)), |load, key| {
                load.shot(Shot::get("/").header(KEY, HeaderValue::from(key)))
            });
            let steady = regulars.clients(4).rate(200.0).id_prefix("steady");
            let steady = steady.start(&mesh.pod("client"));
            let grown = grow(&cx, mesh, &TWO[..4], sticky, keys, probe).await?;
            // Everybody comes once more.
            let seen = steady.look(|report| report.sent);
            wait_for("the regulars", PATIENCE, async || {
                let now = steady.look(|report| report.sent);
                Ok((now > seen + 2 * REGULARS).then_some(()))
            })
            .await?;
            let steady = steady.stop().await;
            assert_no_failure(&steady);
            assert_regulars_never_leave(&steady);
            end(&cx, mesh, &TWO, &grown, sticky, keys, probe).await?;
            cx.measured(format!("{} requests of the steady load", steady.sent));
            Ok(())
        },
    )
    .await
}

/// Keys in a cookie, three backends, over HTTP/2.
async fn cookies(cx: Cx) -> anyhow::Result<()> {
    let sticky = "{type: Cookie, name: weft-canary, ttl: 24h}";
    let keys = |load: Load| load.protocol(Protocol::Http2).number_in_cookie(COOKIE_NAME);
    let probe = |key: u64| {
        let cookie = format!("{COOKIE_NAME}={key}");
        (COOKIE, HeaderValue::try_from(cookie).expect("digits"))
    };
    cx.on(
        canary::<3>("cookies", &split(&THREE[0].weights, sticky)),
        async |mesh| {
            let grown = grow(&cx, mesh, &THREE[..4], sticky, keys, probe).await?;
            end(&cx, mesh, &THREE, &grown, sticky, keys, probe).await
        },
    )
    .await
}

/// A client keeps the cookie that Weft sets, and so its side: as the canary grows, and after the
/// sidecar's restart.
async fn own_cookie(cx: Cx) -> anyhow::Result<()> {
    let sticky = "{type: Cookie, name: weft-canary, ttl: 24h}";
    cx.on(
        canary::<2>("own-cookie", &split(&TWO[1].weights, sticky)),
        async |mesh| {
            let mut jars = Vec::new();
            let mut sides = Vec::new();
            for user in 0..cx.pick(60, 600) {
                let answer = ask(mesh, &format!("first-{user}"), None).await?;
                let set = answer
                    .header(SET_COOKIE.as_str())
                    .context("no cookie was set")?;
                let (pair, attributes) = set.split_once("; ").context("attributes")?;
                assert!(attributes.contains("Max-Age=86400"), "{set}");
                jars.push((COOKIE, HeaderValue::from_str(pair)?));
                sides.push(side(&answer)?);
            }
            let first = canaries(&sides);
            // By chance; 5 standard deviations.
            assert!(
                (first as f64 / sides.len() as f64 - 0.2).abs() < 0.26,
                "{first}"
            );

            let visit = async |round: &str, before: &[usize]| {
                let mut now = Vec::new();
                for (user, jar) in jars.iter().enumerate() {
                    let answer = ask(mesh, &format!("{round}-{user}"), Some(jar.clone())).await?;
                    assert!(!answer.headers.contains_key(SET_COOKIE), "set once");
                    now.push(side(&answer)?);
                }
                let back = before.iter().zip(&now).filter(|(old, new)| new < old);
                assert_eq!(back.count(), 0, "{round}: users who left the canary");
                anyhow::Ok(now)
            };
            let again = visit("again", &sides).await?;
            assert_eq!(again, sides);
            reach(mesh, &TWO[2], sticky, "half", &|key| {
                (
                    COOKIE,
                    HeaderValue::try_from(format!("{COOKIE_NAME}={key}")).expect("digits"),
                )
            })
            .await?;
            let half = visit("half", &sides).await?;
            mesh.restart_sidecar("client").await?;
            let restarted = visit("restarted", &half).await?;
            assert_eq!(restarted, half);
            // What clients were told is what the servers saw.
            for (index, app) in apps::<2>().iter().enumerate() {
                let seen = ids(mesh, app, "restarted-").await?;
                let told = |user: &usize| restarted[*user] == index;
                let told: BTreeSet<u64> = (0..jars.len())
                    .filter(told)
                    .map(|user| user as u64)
                    .collect();
                assert_eq!(seen, told, "{app}");
            }
            let (half, all) = (canaries(&half), jars.len());
            cx.measured(format!("{first}, then {half} of {all} on the canary"));
            Ok(())
        },
    )
    .await
}

/// Each workload instance is one user, whatever it sends and however often it starts.
async fn identities(cx: Cx) -> anyhow::Result<()> {
    let sticky = "{type: ClientIdentity}";
    let mut builder = canary::<2>("identities", &split(&TWO[0].weights, sticky));
    for (client, _) in CLIENTS {
        builder = builder.workload(Workload::new(client));
    }
    cx.on(builder, async |mesh| {
        let requests = cx.pick(100, 1_000);
        let visit = async |client: &str, canary: bool, round: &str| {
            // The edit's way to this sidecar.
            wait_for("the edit", PATIENCE, async || {
                let get = request(Method::GET, "/", "probe", "");
                let answer = send(&mesh.pod(client), mesh.addr("shop", PORT), get).await?;
                Ok((side(&answer)? == usize::from(canary)).then_some(()))
            })
            .await?;
            let prefix = format!("{client}-{round}");
            let load = Load::new(mesh.addr("shop", PORT))
                .clients(4)
                .requests(requests);
            let load = load.number_in(KEY).id_prefix(&prefix);
            assert_no_failure(&load.run(&mesh.pod(client)).await);
            let mut counts = [0; 2];
            for (count, app) in counts.iter_mut().zip(apps::<2>()) {
                *count = ids(mesh, &app, &format!("{prefix}-")).await?.len() as u64;
            }
            let expected = if canary { [0, requests] } else { [requests, 0] };
            assert_eq!(counts, expected, "{client} in step {round}, at the servers");
            anyhow::Ok(())
        };
        for (number, step) in TWO.iter().enumerate() {
            mesh.apply_policy("shop", &split(&step.weights, sticky))?;
            for (client, from) in CLIENTS {
                let canary = number >= from && number < 4;
                visit(client, canary, &number.to_string()).await?;
            }
        }
        mesh.apply_policy("shop", &split(&TWO[1].weights, sticky))?;
        for (client, from) in CLIENTS {
            mesh.restart_sidecar(client).await?;
            visit(client, from <= 1, "restarted").await?;
        }
        Ok(())
    })
    .await
}

/// Through the steps in which the canary grows; the keys on each backend in the last but one.
async fn grow<const N: usize>(
    cx: &Cx,
    mesh: &Mesh,
    steps: &[Step<N>],
    sticky: &str,
    keys: impl Fn(Load) -> Load,
    probe: impl Fn(u64) -> (HeaderName, HeaderValue),
) -> anyhow::Result<[BTreeSet<u64>; N]> {
    let mut passes: Vec<[BTreeSet<u64>; N]> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let name = format!("grow{number}");
        reach(mesh, step, sticky, &name, &probe).await?;
        let now = pass(cx, mesh, step, &name, &keys).await?;
        if let Some(before) = passes.last() {
            for backend in 1..N {
                let was: BTreeSet<_> = before[backend..].iter().flatten().collect();
                let is: BTreeSet<_> = now[backend..].iter().flatten().collect();
                let back = was.difference(&is).count();
                assert_eq!(back, 0, "keys that went back at {:?}", step.weights);
            }
        }
        passes.push(now);
    }
    let last_but_one = passes.len() - 2;
    Ok(passes.swap_remove(last_but_one))
}

/// Weight 0 clears the canary; and another start of the sidecar makes no difference: at half the
/// weight, everybody is where they were as the canary grew.
async fn end<const N: usize>(
    cx: &Cx,
    mesh: &Mesh,
    steps: &[Step<N>; 5],
    half: &[BTreeSet<u64>; N],
    sticky: &str,
    keys: impl Fn(Load) -> Load,
    probe: impl Fn(u64) -> (HeaderName, HeaderValue),
) -> anyhow::Result<()> {
    reach(mesh, &steps[4], sticky, "cleared", &probe).await?;
    let cleared = pass(cx, mesh, &steps[4], "cleared", &keys).await?;
    assert!(cleared[N - 1].is_empty(), "keys left on the canary");

    mesh.apply_policy("shop", &split(&steps[2].weights, sticky))?;
    mesh.restart_sidecar("client").await?;
    reach(mesh, &steps[2], sticky, "restarted", &probe).await?;
    let restarted = pass(cx, mesh, &steps[2], "restarted", &keys).await?;
    assert!(&restarted == half, "the same key, another side");
    Ok(())
}

/// Edits the policy, and waits until the client's sidecar follows it.
async fn reach<const N: usize>(
    mesh: &Mesh,
    step: &Step<N>,
    sticky: &str,
    name: &str,
    probe: &impl Fn(u64) -> (HeaderName, HeaderValue),
) -> anyhow::Result<()> {
    mesh.apply_policy("shop", &split(&step.weights, sticky))?;
    let (key, backend) = step.mover;
    wait_for("the edit", PATIENCE, async || {
        let answer = ask(mesh, &format!("probe-{name}"), Some(probe(key))).await?;
        Ok((side(&answer)? == backend).then_some(()))
    })
    .await
}

/// Every key once; what each server saw of it, which is the golden share.
async fn pass<const N: usize>(
    cx: &Cx,
    mesh: &Mesh,
    step: &Step<N>,
    name: &str,
    keys: &impl Fn(Load) -> Load,
) -> anyhow::Result<[BTreeSet<u64>; N]> {
    let (count, expected) = cx.pick((1_000, step.thousand), (10_000, step.all));
    let load = Load::new(mesh.addr("shop", PORT))
        .clients(8)
        .requests(count);
    let report = keys(load.id_prefix(name)).run(&mesh.pod("client")).await;
    assert_no_failure(&report);
    let mut seen: [BTreeSet<u64>; N] = std::array::from_fn(|_| BTreeSet::new());
    for (seen, app) in seen.iter_mut().zip(apps::<N>()) {
        *seen = ids(mesh, &app, &format!("{name}-")).await?;
    }
    let counts = seen.each_ref().map(BTreeSet::len);
    assert_eq!(counts, expected, "{:?}, at the servers", step.weights);
    cx.measured(format!(
        "{:?} of {count} at weights {:?}",
        counts, step.weights
    ));
    Ok(seen)
}

/// The numbers of the requests of one load that an application saw, each of them once.
async fn ids(mesh: &Mesh, app: &str, prefix: &str) -> anyhow::Result<BTreeSet<u64>> {
    let stats = mesh.app(app).stats().await?;
    assert_eq!(stats.not_listed, 0, "the server's tables are too small");
    let of_load = stats.ids.iter().filter_map(|(id, count)| {
        let number = id.strip_prefix(prefix)?;
        Some((number, count))
    });
    of_load
        .map(|(number, count)| {
            assert_eq!(*count, 1, "{prefix}{number} came twice");
            number.parse().context("a number")
        })
        .collect()
}

/// One request over a connection of its own, with the key.
async fn ask(
    mesh: &Mesh,
    id: &str,
    key: Option<(HeaderName, HeaderValue)>,
) -> anyhow::Result<Answer> {
    let mut get: Request<Full<_>> = request(Method::GET, "/", id, "");
    get.headers_mut().extend(key);
    let answer = send(&mesh.pod("client"), mesh.addr("shop", PORT), get).await?;
    anyhow::ensure!(answer.status == 200, "{}", answer.text());
    Ok(answer)
}

/// Each regular stays where it is or goes to the canary, by the numbers of its requests, which are
/// in the order of sending.
fn assert_regulars_never_leave(report: &Report) {
    let mut records: Vec<&Record> = report.records.iter().collect();
    records.sort_unstable_by_key(|record| record.number);
    let is_canary = |record: &Record| record.served_by.as_deref() == Some("v2-1");
    for key in 0..REGULARS {
        let visits: Vec<bool> = records
            .iter()
            .filter(|record| record.number % REGULARS == key)
            .map(|record| is_canary(record))
            .collect();
        assert!(visits.len() > 2, "the load is too small: {}", records.len());
        assert!(visits.is_sorted(), "{key} left the canary: {visits:?}");
        assert!(visits.last().is_some_and(|last| *last), "{key} at 100");
    }
}

/// The backend that answered, by its place in the split.
fn side(answer: &Answer) -> anyhow::Result<usize> {
    let name = answer.served_by().context("nobody answered")?;
    apps::<3>()
        .iter()
        .position(|app| app == name)
        .with_context(|| format!("{name} is no backend"))
}

fn canaries(sides: &[usize]) -> usize {
    sides.iter().filter(|side| **side == 1).count()
}

fn apps<const N: usize>() -> [String; N] {
    std::array::from_fn(|index| format!("v{}-1", index + 1))
}

/// A service with `N` versions behind it.
fn canary<const N: usize>(name: &str, manifest: &str) -> Builder {
    let mut builder = mesh(name).workload(Workload::new("client"));
    let apps = apps::<N>();
    for (index, app) in apps.iter().enumerate() {
        let version = format!("v{}", index + 1);
        builder = builder
            .workload(http_app(app).version(&version))
            .service(service(&format!("shop-{version}"), [app.as_str()]));
    }
    let all = apps.each_ref().map(String::as_str);
    builder
        .service(service("shop", all))
        .named_policy("shop", manifest)
}

fn split(weights: &[u32], sticky: &str) -> String {
    let backends: Vec<String> = (1..)
        .zip(weights)
        .map(|(version, weight)| format!("{{name: shop-v{version}, weight: {weight}}}"))
        .collect();
    let backends = backends.join(", ");
    let stanza = format!("split: {{backends: [{backends}], sticky: {sticky}}}");
    policy("shop", "shop", &stanza)
}
