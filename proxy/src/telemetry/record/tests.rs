use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Method, Request, Version};

use super::{Asked, MAX_HEADERS, MAX_PATH, MAX_TEXT};
use crate::exchange::{Account, Exchange};
use crate::outcome::{Failure, Origin, Outcome};
use crate::telemetry::tap::testing::{lines, poll};
use crate::telemetry::{PeerScopes, ProcessLabels, Telemetry, Tls};

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(ProcessLabels {
        workload: "web".into(),
        namespace: "shop".into(),
    })
}

fn account(telemetry: &Arc<Telemetry>) -> Account {
    Account {
        scopes: Arc::new(PeerScopes::new(
            Arc::clone(telemetry),
            Origin::Outbound,
            "shop/cart:80".into(),
            "main".into(),
            "shop/cart:80".into(),
        )),
        peer: "shop/cart".into(),
        tls: Tls::Mutual,
    }
}

fn counted(telemetry: &Telemetry) -> usize {
    let text = telemetry.render();
    let lines = text
        .lines()
        .filter(|it| it.starts_with("weft_requests_total{"));
    lines
        .filter_map(|it| it.rsplit(' ').next()?.parse::<usize>().ok())
        .sum()
}

/// However an exchange ends, it is told once, and counted once; nothing is kept where nobody looks.
#[tokio::test(start_paused = true)]
async fn every_end_is_told_once() {
    let telemetry = telemetry();
    let request = Request::get("http://cart/a?b=c").body(()).unwrap();
    let begin = || {
        let mut exchange = Exchange::begin(account(&telemetry), Method::GET);
        exchange.observe(&request);
        exchange
    };
    begin().finish(200, None, Outcome::Ok);
    assert!(!telemetry.watchers().any());
    assert!(lines(&telemetry, &poll(1)).is_empty());
    assert!(telemetry.watchers().any());

    begin().finish(200, None, Outcome::Ok);
    drop(begin());
    let failure = Failure::never(Outcome::NoRoute, "nowhere");
    begin().fail(&failure, true);
    let mut retried = begin();
    retried.goes_to("10.0.0.1:80".parse().unwrap());
    let result = crate::resilience::attempt::TryResult::failed(&failure);
    retried.retries(&result);
    retried.goes_to("10.0.0.2:80".parse().unwrap());
    retried.falls_back();
    tokio::time::advance(Duration::from_millis(1_500)).await;
    retried.finish(503, None, Outcome::CircuitOpen);
    Exchange::refused(account(&telemetry), &failure, None);
    let mut copy = Exchange::uncounted(account(&telemetry), Method::GET);
    copy.observe(&request);
    copy.finish(200, None, Outcome::Ok);

    let told = lines(&telemetry, &poll(2));
    let ends: Vec<_> = told
        .iter()
        .map(|it| {
            (
                it["status"].as_u64().unwrap(),
                it["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    let wanted = [
        (200, "ok"),
        (499, "client_gone"),
        (200, "no_route"),
        (503, "circuit_open"),
        (404, "no_route"),
        (200, "ok"),
    ];
    assert_eq!(ends, wanted);
    assert_eq!(
        counted(&telemetry),
        wanted.len(),
        "and one before, less a copy"
    );
    assert_eq!(told[2]["grpcStatus"], 12);
    let retried = &told[3];
    assert_eq!(retried["endpoint"], "10.0.0.2:80");
    assert_eq!(retried["retries"], 1);
    assert_eq!(retried["fallback"], true);
    assert_eq!(retried["durationSeconds"], 1.5);
    assert_eq!(retried["service"], "shop/cart:80");
    assert_eq!(retried["peer"], "shop/cart");
    assert_eq!(retried["tls"], "mutual");
    assert_eq!(
        (&told[4]["method"], &told[4]["path"]),
        (&"UNREAD".into(), &"".into())
    );
    assert_eq!(
        (&told[5]["copy"], &told[0]["copy"]),
        (&true.into(), &false.into())
    );
}

/// What a client says is cut to bounds, and passwords are no part of it.
#[tokio::test(start_paused = true)]
async fn a_record_is_bounded() {
    let telemetry = telemetry();
    let mut asked = poll(1);
    asked.settings.headers = true;
    lines(&telemetry, &asked);
    let long = "é".repeat(10_000);
    let path = format!("/{}", "a".repeat(10_000));
    let mut request = Request::get(format!("http://ann:pass@{}.shop{path}", "h".repeat(500)));
    request = request.header("user-agent", HeaderValue::from_str(&long).unwrap());
    for number in 0..1_000 {
        request = request.header(format!("x-{number}"), &*"v".repeat(1_000));
    }
    let request = request.body(()).unwrap();
    let mut exchange = Exchange::begin(account(&telemetry), Method::GET);
    exchange.observe(&request);
    exchange.finish(200, None, Outcome::Ok);
    asked.number = 2;
    let told = lines(&telemetry, &asked);
    let [line] = &told[..] else {
        panic!("{told:?}")
    };
    let length = |field: &str| line[field].as_str().unwrap().len();
    assert_eq!(length("path"), MAX_PATH);
    assert_eq!(length("authority"), MAX_TEXT);
    assert!(length("userAgent") <= MAX_TEXT);
    assert_eq!(line["headers"].as_array().unwrap().len(), MAX_HEADERS);
    let whole = line.to_string();
    assert!(!whole.contains("pass") && !whole.contains("vvv"), "{whole}");
    assert!(whole.len() < 32 * 1_024, "{}", whole.len());
}

#[test]
fn an_authority_has_two_places() {
    let of = |request: &Request<()>| Asked::from(request).authority().to_owned();
    let absolute = Request::get("http://cart:80/").header("host", "other");
    assert_eq!(of(&absolute.body(()).unwrap()), "cart:80");
    let relative = Request::get("/").header("host", "ann:pass@cart");
    assert_eq!(of(&relative.body(()).unwrap()), "cart");
    let mut neither = Request::get("/").body(()).unwrap();
    *neither.version_mut() = Version::HTTP_10;
    assert_eq!(of(&neither), "");
}
