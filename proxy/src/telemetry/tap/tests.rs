use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, Request};
use serde_json::Value;
use tokio::time::advance;

use super::testing::{answer, lines, poll};
use super::{Filter, LIFETIME, MAX_RECORDS, MAX_SESSIONS, Poll, TapError, WHOLE};
use crate::exchange::{Account, Exchange};
use crate::outcome::{Origin, Outcome};
use crate::telemetry::{PeerScopes, ProcessLabels, Telemetry, Tls};

fn telemetry() -> Arc<Telemetry> {
    Telemetry::new(ProcessLabels {
        workload: "web".into(),
        namespace: "shop".into(),
    })
}

fn account(telemetry: &Arc<Telemetry>, direction: Origin) -> Account {
    Account {
        scopes: Arc::new(PeerScopes::new(
            Arc::clone(telemetry),
            direction,
            "shop/cart:80".into(),
            "main".into(),
            "shop/cart:80".into(),
        )),
        peer: "unknown".into(),
        tls: Tls::None,
    }
}

/// A request that goes out, to `shop/cart:80` at the peer `shop/cart`.
fn call(telemetry: &Arc<Telemetry>, request: &Request<()>, status: u16, outcome: Outcome) {
    let account = account(telemetry, Origin::Outbound);
    let mut exchange = Exchange::begin(account, request.method().clone());
    exchange.observe(request);
    exchange.account().peer = "shop/cart".into();
    exchange.finish(status, None, outcome);
}

fn get(path: &str) -> Request<()> {
    Request::get(path)
        .header("host", "cart.shop:80")
        .body(())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_filter_means_what_it_says() {
    let telemetry = telemetry();
    let matches = |filter: Filter| {
        let name = format!("{filter:?}").len().to_string() + &fastrand::u64(..).to_string();
        let mut asked = Poll {
            session: name,
            ..poll(1)
        };
        asked.settings.filter = filter;
        assert!(lines(&telemetry, &asked).is_empty());
        call(
            &telemetry,
            &get("/api/items?x=1"),
            503,
            Outcome::CircuitOpen,
        );
        asked.number = 2;
        asked.is_last = true;
        !lines(&telemetry, &asked).is_empty()
    };
    let some = |text: &str| Some(text.to_owned());
    let all = Filter::default;
    for (filter, wanted) in [
        (all(), true),
        (
            Filter {
                direction: Some(Origin::Outbound),
                ..all()
            },
            true,
        ),
        (
            Filter {
                direction: Some(Origin::Inbound),
                ..all()
            },
            false,
        ),
        (
            Filter {
                method: Some(Method::GET),
                ..all()
            },
            true,
        ),
        (
            Filter {
                method: Some(Method::PUT),
                ..all()
            },
            false,
        ),
        (
            Filter {
                path: some("/api"),
                ..all()
            },
            true,
        ),
        (
            Filter {
                path: some("/api/items/"),
                ..all()
            },
            false,
        ),
        (
            Filter {
                authority: some("Cart.Shop"),
                ..all()
            },
            true,
        ),
        (
            Filter {
                authority: some("cart.shop:80"),
                ..all()
            },
            true,
        ),
        (
            Filter {
                authority: some("cart"),
                ..all()
            },
            false,
        ),
        (
            Filter {
                service: some("shop/cart"),
                ..all()
            },
            true,
        ),
        (
            Filter {
                service: some("shop/cart:80"),
                ..all()
            },
            true,
        ),
        (
            Filter {
                service: some("shop/car"),
                ..all()
            },
            false,
        ),
        (
            Filter {
                service: some("shop/cart:8"),
                ..all()
            },
            false,
        ),
        (
            Filter {
                peer: some("shop/cart"),
                ..all()
            },
            true,
        ),
        (
            Filter {
                peer: some("unknown"),
                ..all()
            },
            false,
        ),
        (
            Filter {
                route: some("main"),
                ..all()
            },
            true,
        ),
        (
            Filter {
                route: some("other"),
                ..all()
            },
            false,
        ),
        (
            Filter {
                status: Some(500..=599),
                ..all()
            },
            true,
        ),
        (
            Filter {
                status: Some(200..=299),
                ..all()
            },
            false,
        ),
        (
            Filter {
                outcome: Some(Outcome::CircuitOpen),
                ..all()
            },
            true,
        ),
        (
            Filter {
                outcome: Some(Outcome::Ok),
                ..all()
            },
            false,
        ),
        (
            Filter {
                method: Some(Method::GET),
                outcome: Some(Outcome::Ok),
                ..all()
            },
            false,
        ),
    ] {
        assert_eq!(matches(filter.clone()), wanted, "{filter:?}");
    }
}

/// Of what comes in, the caller is known before anything is kept.
#[tokio::test(start_paused = true)]
async fn callers_are_asked_for_at_once() {
    let filter = Filter {
        peer: Some("shop/web".to_owned()),
        ..Filter::default()
    };
    let request = get("/");
    for (direction, peer, wanted) in [
        (Origin::Inbound, "shop/web", true),
        (Origin::Inbound, "shop/other", false),
        (Origin::Outbound, "unknown", true),
    ] {
        let place = crate::telemetry::record::Place {
            direction,
            service: "shop/cart:80",
            peer,
        };
        assert_eq!(
            filter.admits((&request).into(), place),
            wanted,
            "{direction:?} {peer}"
        );
    }
}

/// What is over the rate is counted and not kept, whether the begin tells what is wanted or the end.
#[tokio::test(start_paused = true)]
async fn the_rate_holds_every_second() {
    for outcome in [None, Some(Outcome::Ok)] {
        let telemetry = telemetry();
        let mut asked = poll(1);
        asked.settings.rate = 3;
        asked.settings.filter.outcome = outcome;
        lines(&telemetry, &asked);
        for _ in 0..10 {
            call(&telemetry, &get("/"), 200, Outcome::Ok);
        }
        advance(Duration::from_millis(1_100)).await;
        for _ in 0..2 {
            call(&telemetry, &get("/"), 200, Outcome::Ok);
        }
        asked.number = 2;
        let said = answer(&telemetry, &asked);
        assert_eq!(said["records"].as_array().unwrap().len(), 5);
        assert_eq!((&said["handed"], &said["overRate"]), (&5.into(), &7.into()));
    }
}

/// A session that is not polled holds no more than its room, in number and in bytes.
#[tokio::test(start_paused = true)]
async fn the_room_is_bounded() {
    let telemetry = telemetry();
    let many = |path: &str, count: usize, number: u64| {
        for _ in 0..count {
            call(&telemetry, &get(path), 200, Outcome::Ok);
        }
        answer(&telemetry, &poll(number))
    };
    answer(&telemetry, &poll(1));
    // Two seconds' worth.
    let half = MAX_RECORDS * 6 / 10;
    for _ in 0..half {
        call(&telemetry, &get("/"), 200, Outcome::Ok);
    }
    advance(Duration::from_secs(1)).await;
    let said = many("/", half, 2);
    assert_eq!(said["handed"], MAX_RECORDS);
    assert_eq!(said["noRoom"], 2 * half - MAX_RECORDS);
    advance(Duration::from_secs(1)).await;
    let said = many(&format!("/{}", "x".repeat(2_000)), 1_000, 3);
    let held = said["records"].as_array().unwrap().len();
    assert!((500..800).contains(&held), "{held}");
    assert_eq!(said["noRoom"], 2 * half - MAX_RECORDS + 1_000 - held);
    assert_eq!(said["handed"], MAX_RECORDS + held);
    // And the room is there again.
    advance(Duration::from_secs(1)).await;
    assert_eq!(many("/", 10, 4)["records"].as_array().unwrap().len(), 10);
}

/// The same poll again gets the same; nothing is told twice by another one.
#[tokio::test(start_paused = true)]
async fn a_poll_can_be_asked_again() {
    let telemetry = telemetry();
    lines(&telemetry, &poll(1));
    call(&telemetry, &get("/first"), 200, Outcome::Ok);
    let first = answer(&telemetry, &poll(2));
    call(&telemetry, &get("/second"), 200, Outcome::Ok);
    assert_eq!(answer(&telemetry, &poll(2)), first);
    let second = lines(&telemetry, &poll(3));
    let paths: Vec<&Value> = second.iter().map(|it| &it["path"]).collect();
    assert_eq!(paths, ["/second"]);
    assert!(lines(&telemetry, &poll(4)).is_empty());
}

/// Who goes away without a word costs nothing a little later; who says so, at once.
#[tokio::test(start_paused = true)]
async fn a_session_ends_with_its_polls() {
    let telemetry = telemetry();
    let tap = telemetry.watchers().tap();
    assert!(!tap.needs_sweeper(), "there is nothing to sweep");
    lines(&telemetry, &poll(1));
    assert!(tap.needs_sweeper());
    assert!(!tap.needs_sweeper(), "somebody does it");
    let almost = LIFETIME.checked_sub(Duration::from_secs(1)).unwrap();
    advance(almost).await;
    assert!(tap.sweep());
    lines(&telemetry, &poll(2));
    advance(almost).await;
    assert!(tap.sweep());
    advance(Duration::from_secs(2)).await;
    call(&telemetry, &get("/late"), 200, Outcome::Ok);
    assert!(!tap.sweep());
    assert!(!telemetry.watchers().any());
    assert!(!tap.needs_sweeper());
    // It is another session then, which has seen nothing.
    let said = answer(&telemetry, &poll(3));
    assert_eq!(said["handed"], 0);
    call(&telemetry, &get("/last"), 200, Outcome::Ok);
    let last = Poll {
        is_last: true,
        ..poll(4)
    };
    assert_eq!(lines(&telemetry, &last).len(), 1);
    assert!(!telemetry.watchers().any());
}

#[tokio::test(start_paused = true)]
async fn sessions_are_few() {
    let telemetry = telemetry();
    let tap = telemetry.watchers().tap();
    let named = |name: String| Poll {
        session: name,
        ..poll(1)
    };
    for number in 0..MAX_SESSIONS {
        assert!(tap.poll(named(number.to_string())).is_ok());
    }
    assert_eq!(tap.poll(named("more".to_owned())), Err(TapError::Full));
    assert!(tap.poll(named("0".to_owned())).is_ok(), "it goes on");
    advance(LIFETIME + Duration::from_secs(1)).await;
    assert!(tap.poll(named("more".to_owned())).is_ok());
    for wrong in [String::new(), "x".repeat(65)] {
        assert_eq!(tap.poll(named(wrong)), Err(TapError::BadName));
    }
}

#[tokio::test(start_paused = true)]
async fn a_share_is_drawn() {
    let telemetry = telemetry();
    let mut asked = poll(1);
    asked.settings.share = WHOLE / 10;
    lines(&telemetry, &asked);
    for _ in 0..1_000 {
        call(&telemetry, &get("/"), 200, Outcome::Ok);
    }
    asked.number = 2;
    let said = answer(&telemetry, &asked);
    let seen = said["records"].as_array().unwrap().len();
    assert!((40..=200).contains(&seen), "{seen}");
    assert_eq!(said["overRate"], 0);
}

/// Whatever somebody asks for, no secret of a request is in what they get.
#[tokio::test(start_paused = true)]
async fn secrets_are_not_told() {
    let telemetry = telemetry();
    let mut request = Request::post("http://ann:sesame@cart.shop/login?token=sesame&sesame");
    for (name, value) in [
        ("authorization", "Bearer sesame"),
        ("proxy-authorization", "Basic sesame"),
        ("cookie", "session=sesame"),
        ("x-api-key", "sesame"),
        ("x-forwarded-for", "sesame"),
        ("host", "ann:sesame@cart.shop"),
        ("user-agent", "curl/8"),
    ] {
        request = request.header(name, value);
    }
    let request = request.body(()).unwrap();
    let told = |headers: bool, show_query: bool| {
        let mut asked = poll(1);
        asked.session = format!("{headers} {show_query}");
        asked.settings.headers = headers;
        asked.settings.show_query = show_query;
        answer(&telemetry, &asked);
        call(&telemetry, &request, 200, Outcome::Ok);
        asked.number = 2;
        answer(&telemetry, &asked)
    };
    let (bare, headers, all) = (told(false, false), told(true, false), told(true, true));
    for said in [&bare, &headers] {
        assert!(!said.to_string().contains("sesame"), "{said}");
        assert_eq!(
            said["records"][0]["path"],
            "/login?token=<redacted>&<redacted>"
        );
        assert_eq!(said["records"][0]["authority"], "cart.shop");
    }
    // Another session of the same time asked for them, which is none of this one's business.
    assert_eq!(bare["records"][0]["headers"], Value::Null);
    let shown = headers["records"][0]["headers"].to_string();
    assert!(
        shown.contains(r#"["authorization","<redacted>"]"#),
        "{shown}"
    );
    assert!(shown.contains(r#"["user-agent","curl/8"]"#), "{shown}");
    // The query is all that can be asked for.
    assert_eq!(all["records"][0]["path"], "/login?token=sesame&sesame");
    assert_eq!(all.to_string().matches("sesame").count(), 2, "{all}");
}

/// Many threads at once, and polls meanwhile: every exchange is told once or counted as dropped.
#[test]
fn nothing_is_told_twice_or_forgotten() {
    const THREADS: usize = 4;
    const CALLS: usize = 3_000;
    let telemetry = telemetry();
    lines(&telemetry, &poll(1));
    let callers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let telemetry = Arc::clone(&telemetry);
            std::thread::spawn(move || {
                for number in 0..CALLS {
                    let request = get(&format!("/{thread}/{number}"));
                    call(&telemetry, &request, 200, Outcome::Ok);
                }
            })
        })
        .collect();
    let mut paths = std::collections::HashSet::new();
    let mut number = 2;
    loop {
        let is_over = callers.iter().all(std::thread::JoinHandle::is_finished);
        let said = answer(&telemetry, &poll(number));
        number += 1;
        for record in said["records"].as_array().unwrap() {
            let path = record["path"].as_str().unwrap().to_owned();
            assert!(paths.insert(path), "told twice: {record}");
        }
        if is_over {
            let count = |field: &str| said[field].as_u64().unwrap() as usize;
            assert_eq!(count("handed"), paths.len());
            let all = paths.len() + count("overRate") + count("noRoom");
            assert_eq!(all, THREADS * CALLS);
            assert!(!paths.is_empty());
            break;
        }
    }
    for caller in callers {
        caller.join().unwrap();
    }
}
