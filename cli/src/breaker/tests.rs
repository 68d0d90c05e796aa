use serde_json::{Value, json};

use super::listing::Listing;
use super::{Action, Backend, breakers, text};
use crate::order::{Output, Told, print};
use crate::paint::Paint;

fn breaker(endpoint: Option<&str>, state: &str, left: Option<f64>) -> Value {
    json!({
        "scope": if endpoint.is_some() { "Endpoint" } else { "Backend" },
        "endpoint": endpoint,
        "state": state,
        "kind": "circuit_breaker",
        "forSeconds": 61.5,
        "consecutiveFailures": 5,
        "openForSeconds": left,
    })
}

fn answers(answers: &Value) -> Told {
    let replica = json!({"name": "a", "address": null, "error": null});
    let all = json!({"replicas": [replica], "answers": answers, "notConnected": []});
    serde_json::from_value(all).unwrap()
}

fn answer(name: &str, error: Option<&str>, payload: &Value) -> Value {
    json!({
        "replica": "a", "namespace": "shop", "name": name, "error": error, "payload": payload,
    })
}

fn listed() -> Told {
    let cart = |breakers: Value| {
        json!({"backends": [
            {"backend": "shop/cart:80", "service": "shop/cart:80", "breakers": breakers, "limits": null},
        ]})
    };
    answers(&json!([
        answer(
            "api",
            None,
            &cart(json!([
                breaker(None, "forced_open", None),
                breaker(Some("10.0.0.1:8080"), "closed", None),
            ]))
        ),
        answer(
            "late",
            Some("the sidecar did not answer in time"),
            &Value::Null
        ),
        answer(
            "web",
            None,
            &cart(json!([
                breaker(Some("10.0.0.1:8080"), "open", Some(1.2)),
                breaker(Some("10.0.0.2:8080"), "closed", None),
            ]))
        ),
    ]))
}

#[test]
fn who_is_not_closed_comes_first() {
    let answers = listed();
    let mut listing = Listing::of(&answers);
    assert_eq!(
        text::list(&listing, &answers, Paint::plain()),
        "\
WORKLOAD  BACKEND       ENDPOINT       FAILURES  FOR   STATE
shop/api  shop/cart:80  all            5         1m1s  forced_open
shop/web  shop/cart:80  10.0.0.1:8080  5         1m1s  open, 2s more
shop/api  shop/cart:80  10.0.0.1:8080  5         1m1s  closed
shop/web  shop/cart:80  10.0.0.2:8080  5         1m1s  closed

4 breakers in 2 sidecars, 2 not closed.
shop/late: the sidecar did not answer in time
"
    );
    listing.keep(Some("shop/cart:80"), Some("10.0.0.1:8080".parse().unwrap()));
    assert_eq!(listing.breakers.len(), 2);
    listing.keep(Some("shop/cart:81"), None);
    assert!(listing.breakers.is_empty());
    let printed = text::list(&listing, &answers, Paint::plain());
    assert!(
        printed.starts_with("No breakers in 2 sidecars.\n"),
        "{printed}"
    );
}

#[test]
fn the_table_fits() {
    let long = "a-workload-with-quite-a-long-name-5d4f8c9b7-x2x4z-and-more";
    let endpoint = "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535";
    let backend = format!("{long}/{long}:8080");
    let payload = json!({"backends": [
        {"backend": backend, "breakers": [breaker(Some(endpoint), "forced_closed", None)]},
    ]});
    let answers = answers(&json!([answer(long, None, &payload)]));
    let printed = text::list(&Listing::of(&answers), &answers, Paint::plain());
    let widest = printed.lines().map(|line| line.chars().count()).max();
    assert!(widest.unwrap() <= 100, "{printed}");
    assert!(printed.contains("forced_closed"), "{printed}");
}

#[test]
fn how_many_did_it_is_said() {
    let two = json!({"breakers": 2});
    let none = json!({"breakers": 0});
    let of = |all: &[(&str, &Value)]| {
        let all = all
            .iter()
            .map(|(name, payload)| answer(name, None, payload));
        answers(&all.collect())
    };
    let one = of(&[("api", &two), ("web", &none), ("job", &none)]);
    assert_eq!(breakers(&one), (2, 1));
    assert_eq!(
        text::changed(Action::Open, " of shop/cart:80", &one),
        "Opened 2 breakers of shop/cart:80 in 1 sidecar; 2 others have none.\n"
    );
    let both = of(&[("api", &two), ("web", &two)]);
    assert_eq!(
        text::changed(Action::Reset, "", &both),
        "Reset 4 breakers in 2 sidecars.\n"
    );
    let nobody = of(&[("web", &none)]);
    assert_eq!(breakers(&nobody), (0, 0));
    let said = text::changed(Action::Close, " of shop/cart:80", &nobody);
    assert!(
        said.starts_with("None of 1 sidecar has a breaker of shop/cart:80; "),
        "{said}"
    );
    let late = answers(&json!([
        answer("late", Some("too late"), &Value::Null),
        answer("web", None, &two),
    ]));
    assert_eq!(
        text::changed(Action::Close, "", &late),
        "Closed 2 breakers in 1 sidecar.\nshop/late: too late\n"
    );
}

#[test]
fn machines_get_all_of_it() {
    let listing = Listing::of(&listed());
    let json = print(Output::Json, &listing, String::new);
    assert_eq!(serde_json::from_str::<Listing>(&json).unwrap(), listing);
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["breakers"][1]["workload"], "shop/web");
    assert_eq!(value["breakers"][1]["openForSeconds"], 1.2);
    assert_eq!(value["failed"][0]["workload"], "shop/late");
    let yaml = print(Output::Yaml, &listing, String::new);
    assert_eq!(serde_saphyr::from_str::<Listing>(&yaml).unwrap(), listing);
}

#[test]
fn backends_have_a_port() {
    assert!("shop/cart:80".parse::<Backend>().is_ok());
    for wrong in [
        "",
        "cart:80",
        "shop/cart",
        "shop/cart:0",
        "shop/cart:65536",
        "a/b/c:80",
    ] {
        assert!(wrong.parse::<Backend>().is_err(), "{wrong}");
    }
}
