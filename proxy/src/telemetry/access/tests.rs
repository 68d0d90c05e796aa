use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, Method, Request};
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::Value;
use weft_proto::logs::{LogControl, LogFormat, LogLevel, dispatch};

use super::*;
use crate::exchange::{Account, Exchange};
use crate::outcome::Failure;
use crate::policy::{AccessLogRule, PathMatch, RouteMatch};
use crate::telemetry::{PeerScopes, ProcessLabels, Telemetry, Tls};

/// A sink that can be read.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Scene {
    telemetry: Arc<Telemetry>,
    control: LogControl,
    kept: Kept,
    _dispatch: tracing::Dispatch,
}

impl Scene {
    /// With a log that says nothing but errors.
    fn new() -> Self {
        let telemetry = Telemetry::new(ProcessLabels {
            workload: "web".into(),
            namespace: "shop".into(),
        });
        let kept = Kept::default();
        let sink = Box::new(kept.clone());
        let (dispatch, control) =
            dispatch("weft-proxy", LogLevel::ERROR, LogFormat::Json, sink).unwrap();
        let lost = telemetry.limit("access_log");
        telemetry.watchers().log_to(control.access().clone(), lost);
        Self {
            telemetry,
            control,
            kept,
            _dispatch: dispatch,
        }
    }

    fn account(&self, direction: Origin) -> Account {
        Account {
            scopes: Arc::new(PeerScopes::new(
                Arc::clone(&self.telemetry),
                direction,
                "shop/cart:80".into(),
                "main".into(),
                "shop/cart-v2:80".into(),
            )),
            peer: "shop/cart".into(),
            tls: Tls::Mutual,
        }
    }

    fn exchange(&self, request: &Request<()>, policy: Option<&Arc<AccessLog>>) -> Exchange {
        let account = self.account(Origin::Outbound);
        let mut exchange = Exchange::begin(account, request.method().clone());
        if let Some(id) = request.headers().get("x-request-id") {
            exchange.identify(id.clone());
        }
        exchange.observe(request);
        exchange.log(request, policy);
        exchange
    }

    fn lines(&self) -> Vec<BTreeMap<String, Value>> {
        self.control.flush(Duration::from_secs(10));
        let bytes = self.kept.0.lock();
        let text = std::str::from_utf8(&bytes).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn log(percent: u32, fields: &[LogField]) -> Arc<AccessLog> {
    Arc::new(AccessLog {
        percent,
        fields: fields.to_vec(),
    })
}

fn request() -> Request<()> {
    Request::post("http://ann:secret@cart/pay/7?card=4711")
        .header("x-request-id", "r-1")
        .header("user-agent", "curl/8\t\u{1b}[31m".replace('\u{1b}', "~"))
        .header("authorization", "Bearer hush")
        .header("cookie", "session=hush")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .body(())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_line_says_what_its_policy_chose() {
    let scene = Scene::new();
    let mut exchange = scene.exchange(&request(), Some(&log(100, &LogField::ALL)));
    exchange.goes_to("10.0.0.7:8080".parse().unwrap());
    tokio::time::advance(Duration::from_micros(12_345)).await;
    exchange.finish(201, Some(0), Outcome::Ok);
    let [line] = &scene.lines()[..] else {
        panic!("one line")
    };
    let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("{name}"));
    for (name, wanted) in [
        ("level", "info"),
        ("service", "weft-proxy"),
        ("message", "request"),
        ("target", "access"),
        ("requestId", "r-1"),
        ("traceId", "0af7651916cd43dd8448eb211c80319c"),
        ("direction", "outbound"),
        ("method", "POST"),
        ("authority", "cart"),
        ("path", "/pay/7"),
        ("query", "card=4711"),
        ("protocol", "HTTP/1.1"),
        ("outcome", "ok"),
        ("destination", "shop/cart:80"),
        ("route", "main"),
        ("backend", "shop/cart-v2:80"),
        ("endpoint", "10.0.0.7:8080"),
        ("peer", "shop/cart"),
        ("tls", Tls::Mutual.as_str()),
        ("userAgent", "curl/8\t~[31m"),
    ] {
        assert_eq!(text(name), wanted, "{name}");
    }
    let number = |name: &str| line[name].as_f64().unwrap_or_else(|| panic!("{name}"));
    assert_eq!((number("status"), number("grpcStatus")), (201.0, 0.0));
    assert_eq!(line["tries"], 1);
    // Paused time goes on by whole milliseconds.
    assert!((12.0..14.0).contains(&number("durationMs")));
    assert_eq!(line["fallback"], Value::Bool(false));
    assert_eq!(line.len(), 5 + LogField::ALL.len());
}

#[test]
fn nothing_is_said_that_was_not_chosen_and_no_secret_ever() {
    let scene = Scene::new();
    let all_but = |left: LogField| {
        let fields = LogField::ALL.into_iter();
        fields.filter(|field| *field != left).collect::<Vec<_>>()
    };
    let policies = [
        log(100, &[LogField::Path, LogField::Status]),
        log(100, &all_but(LogField::Query)),
    ];
    for policy in &policies {
        let exchange = scene.exchange(&request(), Some(policy));
        exchange.finish(200, None, Outcome::Ok);
    }
    let lines = scene.lines();
    let names: Vec<_> = lines[0].keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "level",
            "message",
            "path",
            "service",
            "status",
            "target",
            "timestamp"
        ]
    );
    assert!(!lines[1].contains_key("query"));
    let said = String::from_utf8(scene.kept.0.lock().clone()).unwrap();
    for secret in ["hush", "secret", "4711"] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[test]
fn failures_have_lines_and_successes_by_share() {
    let scene = Scene::new();
    let ends: [(u16, Option<u8>, Outcome, bool); 7] = [
        (200, None, Outcome::Ok, false),
        (404, None, Outcome::Ok, false),
        (200, Some(0), Outcome::Ok, false),
        (500, None, Outcome::Ok, true),
        (200, Some(5), Outcome::Ok, true),
        (499, None, Outcome::ClientGone, true),
        (403, None, Outcome::Unauthorized, true),
    ];
    let mut wanted = 0;
    for percent in [0, 100] {
        for (status, grpc_status, outcome, fails) in ends {
            let policy = log(percent, &[LogField::Status]);
            let exchange = scene.exchange(&request(), Some(&policy));
            exchange.finish(status, grpc_status, outcome);
            wanted += usize::from(fails || percent == 100);
            assert_eq!(
                scene.lines().len(),
                wanted,
                "{percent} {status} {grpc_status:?}"
            );
        }
    }
}

#[test]
fn the_last_policy_holds_and_copies_have_no_line() {
    let scene = Scene::new();
    let policy = log(100, &[LogField::Status]);
    scene
        .exchange(&request(), None)
        .finish(500, None, Outcome::Ok);
    let mut silenced = scene.exchange(&request(), Some(&policy));
    silenced.log_by(None);
    silenced.finish(500, None, Outcome::Ok);
    let account = scene.account(Origin::Inbound);
    let mut copy = Exchange::uncounted(account.clone(), Method::GET);
    copy.log(&request(), Some(&policy));
    copy.finish(500, None, Outcome::Ok);
    assert_eq!(scene.lines().len(), 0);

    let mut routed = scene.exchange(&request(), None);
    routed.log_by(Some(&policy));
    // However it ends.
    drop(routed);
    let failure = Failure::never(Outcome::NoRoute, "unreadable");
    Exchange::refused(account.clone(), &failure, Some(&policy));
    Exchange::refused(account, &failure, None);
    let lines = scene.lines();
    let statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64()).collect();
    let refused = u64::from(failure.http_status().as_u16());
    assert_eq!(statuses, [Some(499), Some(refused)]);
}

#[test]
fn of_several_services_the_one_that_logs_most_decides() {
    let prefixed = |path: &str| RouteMatch {
        path: Some(PathMatch::Prefix(path.into())),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        grpc: false,
    };
    let rule = |path: &str, log: Option<&Arc<AccessLog>>| AccessLogRule {
        matches: vec![prefixed(path)],
        log: log.cloned(),
    };
    let [few, some, all] = [0, 10, 100].map(|percent| log(percent, &[LogField::Path]));
    let other_some = log(10, &[LogField::Method]);
    let logs = [
        InboundAccessLog {
            rules: vec![rule("/silent", None), rule("/all", Some(&all))],
            otherwise: Some(Arc::clone(&few)),
        },
        InboundAccessLog {
            rules: Vec::new(),
            otherwise: Some(Arc::clone(&some)),
        },
        InboundAccessLog {
            rules: Vec::new(),
            otherwise: Some(Arc::clone(&other_some)),
        },
    ];
    let of = |logs: &[InboundAccessLog], path: &str| {
        let request = Request::get(path).body(()).unwrap();
        most(logs, Some(Asked::from(&request))).cloned()
    };
    assert_eq!(of(&logs, "/all/1"), Some(all));
    assert_eq!(of(&logs, "/"), Some(Arc::clone(&some)));
    assert_eq!(of(&logs, "/silent"), Some(some));
    assert_eq!(of(&logs[..1], "/silent"), None);
    assert_eq!(of(&logs[..1], "/"), Some(Arc::clone(&few)));
    assert_eq!(most(&logs[..1], None), Some(&few));
    assert_eq!(most(&[], None), None);
}

/// Who shares an id shares the choice, and a share of ids is a share of lines.
#[test]
fn shares_are_fair_and_the_same_everywhere() {
    let share = |id: &str| share_of(Some(&HeaderValue::from_str(id).unwrap()));
    let mut counts = [0_u32; 100];
    for number in 0..100_000 {
        let id = format!("6f1c2f9e-0000-4000-8000-{number:012x}");
        assert_eq!(share(&id), share(&id));
        counts[share(&id) as usize] += 1;
    }
    // 1,000 each, and five times the deviation of a fair draw.
    assert!(
        counts.iter().all(|count| (843..1_157).contains(count)),
        "{counts:?}"
    );
    let mut drawn = (0..1_000).map(|_| share_of(None));
    assert!(drawn.by_ref().any(|it| it < 50) && drawn.any(|it| it >= 50));
}

proptest! {
    /// Whatever a request says, its line is one line of JSON.
    #[test]
    fn hostile_values_stay_in_their_line(
        path in "/[!-~]{0,200}",
        agent in proptest::collection::vec(prop_oneof![32_u8..127, 128_u8..=255, Just(b'\t')], 0..400),
    ) {
        let Ok(mut request) = Request::get(path).body(()) else {
            return Ok(());
        };
        let value = HeaderValue::from_bytes(&agent).unwrap();
        let headers: &mut HeaderMap = request.headers_mut();
        headers.insert(HeaderName::from_static("user-agent"), value.clone());
        headers.insert(HeaderName::from_static("x-request-id"), value);
        let scene = Scene::new();
        let exchange = scene.exchange(&request, Some(&log(100, &LogField::ALL)));
        exchange.finish(200, None, Outcome::Ok);
        prop_assert_eq!(scene.lines().len(), 1);
    }
}
