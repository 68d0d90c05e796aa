use clap::Parser;
use serde_json::{Value, json};

use super::table::WIDTH;
use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn answered(args: &[&str]) -> anyhow::Result<Answer> {
    let line = Line::try_parse_from([&["explain"], args].concat()).expect("a good command line");
    answer_for(&line.options)
}

/// The exit code and what is printed. Tests run in the crate's folder.
fn text_of(args: &[&str]) -> (u8, String) {
    let answer = answered(args).expect("an answer");
    (code(&answer), print(Output::Text, &answer, Paint::plain()))
}

fn json_of(args: &[&str]) -> Value {
    let answer = answered(args).expect("an answer");
    serde_json::from_str(&print(Output::Json, &answer, Paint::plain())).expect("JSON")
}

/// The exit code of a question without an answer, and what is said.
fn refused(args: &[&str]) -> (u8, String) {
    let error = answered(args).expect_err("no answer");
    (exit_of(&error), format!("{error:#}"))
}

const LEVELS: &str = "src/explain/testdata/levels";
const SPLIT: &str = "src/explain/testdata/split";

#[test]
fn texts_are_the_golden_ones() {
    let bare = ["-f", "src/explain/testdata/bare", "service/cart"];
    let conflict = ["-f", "src/explain/testdata/conflict", "service/cart"];
    let levels = [
        "-f",
        LEVELS,
        "service/cart",
        "--from",
        "web-1",
        "--request",
        "POST /orders/7?x=1",
        "--request",
        "GET /cart/1",
        "-H",
        "x-chaos: 1",
    ];
    let split = [
        "-f",
        SPLIT,
        "svc/shop/cart:http",
        "--request",
        "GET /",
        "-H",
        "cookie: weft-canary=user-7",
    ];
    for (args, wanted_code, wanted) in [
        (&bare[..], 0, include_str!("testdata/bare.txt")),
        (&levels, 0, include_str!("testdata/levels.txt")),
        (&split, 0, include_str!("testdata/split.txt")),
        (&conflict, PROBLEMS, include_str!("testdata/conflict.txt")),
    ] {
        let (code, printed) = text_of(args);
        assert_eq!(printed, wanted, "{printed}");
        assert_eq!(code, wanted_code, "{args:?}");
        assert!(printed.lines().all(|line| line.chars().count() <= WIDTH));
    }
}

#[test]
fn the_quickstart_is_explained() {
    let args = [
        "-f",
        "../examples/quickstart",
        "service/checkout",
        "--from",
        "web-1",
        "--request",
        "GET /report/7",
    ];
    let (code, printed) = text_of(&args);
    assert_eq!(code, 0);
    for said in [
        "split           policy shop/checkout (service)",
        "  route     rule report\n",
        "  deadline  400ms (timeouts.request), until the last byte\n",
        "shop/checkout-v2:80  10      10%",
    ] {
        assert!(printed.contains(said), "{said:?} is not in {printed}");
    }
}

#[test]
fn the_object_for_machines_has_a_stable_shape() {
    let object = json_of(&[
        "-f",
        SPLIT,
        "service/cart",
        "--request",
        "GET /",
        "-H",
        "x-canary: always",
    ]);
    let port = &object["ports"][0];
    assert_eq!(port["service"], json!("shop/cart"));
    assert_eq!(
        port["stanzas"][3],
        json!({"name": "connect", "from": "policy shop/cart (service)", "value": "500ms"})
    );
    assert_eq!(
        port["backends"][1]["stanzas"][0],
        json!({"name": "connect", "from": "policy shop/cart-v2 (service)", "own": true, "value": "100ms"})
    );
    let request = &port["requests"][0];
    assert_eq!(request["destination"]["by"], json!("forced"));
    assert_eq!(request["destination"]["backend"], json!("shop/cart-v2:80"));
    assert_eq!(
        request["destination"]["ranges"][0],
        json!({
            "backend": "shop/cart-v1:80",
            "weight": 95,
            "sharePercent": 95.0,
            "upToPercent": 95.0,
            "points": ["0000000000000000", "f333333333333333"],
            "endpoints": 1,
        })
    );
    let answer = answered(&["-f", SPLIT, "service/cart"]).expect("an answer");
    let yaml = print(Output::Yaml, &answer, Paint::plain());
    let json = print(Output::Json, &answer, Paint::plain());
    let yaml: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(yaml, serde_json::from_str::<Value>(&json).expect("JSON"));
}

#[test]
fn routes_are_taken_as_the_proxy_takes_them() {
    for (request, header, grpc, route) in [
        ("POST /orders", "a: b", false, "place-order"),
        ("POST /orders/1", "a: b", false, "place-order"),
        ("POST /ordersx", "a: b", false, "default"),
        ("GET /orders", "a: b", false, "default"),
        ("/shop.Orders/Place", "a: b", true, "place-order"),
        (
            "POST /shop.Orders/Place",
            "content-type: application/grpc+proto",
            false,
            "place-order",
        ),
        (
            "POST /shop.Orders/Place",
            "content-type: application/json",
            false,
            "default",
        ),
    ] {
        let mut args = vec![
            "-f",
            LEVELS,
            "service/cart:80",
            "--request",
            request,
            "-H",
            header,
        ];
        args.extend(grpc.then_some("--grpc"));
        let object = json_of(&args);
        let verdict = &object["ports"][0]["requests"][0];
        assert_eq!(verdict["route"], json!(route), "{request} {header}");
    }
}

#[test]
fn a_key_falls_where_the_proxy_puts_it() {
    use weft_proxy::policy::ServiceRef;
    use weft_proxy::resilience::split::KeyHasher;

    let service = ServiceRef {
        namespace: "shop".into(),
        name: "cart".into(),
        port: 80,
    };
    let mut canaries = 0;
    for user in 0..60 {
        let cookie = format!("cookie: weft-canary=user-{user}");
        let object = json_of(&[
            "-f",
            SPLIT,
            "service/cart",
            "--request",
            "GET /",
            "-H",
            &cookie,
        ]);
        let point = KeyHasher::new(&service).hash(format!("user-{user}").as_bytes());
        let destination = &object["ports"][0]["requests"][0]["destination"];
        assert_eq!(destination["point"], json!(format!("{point:016x}")));
        // 95 of 100 parts of the line, as whole numbers.
        let is_canary = (u128::from(point) * 100) >> 64 >= 95;
        let side = if is_canary {
            "shop/cart-v2:80"
        } else {
            "shop/cart-v1:80"
        };
        assert_eq!(destination["backend"], json!(side), "user-{user}");
        canaries += u32::from(is_canary);
    }
    assert!(canaries > 0, "no key tells the sides apart");
    let object = json_of(&["-f", SPLIT, "service/cart", "--request", "GET /"]);
    let destination = &object["ports"][0]["requests"][0]["destination"];
    assert_eq!(destination["by"], json!("newCookie"));
}

#[test]
fn grpc_deadlines_are_the_clients_too() {
    let args = [
        "-f",
        LEVELS,
        "service/cart:80",
        "--grpc",
        "--request",
        "/a.B/C",
        "-H",
        "grpc-timeout: 500m",
    ];
    let object = json_of(&args);
    let verdict = &object["ports"][0]["requests"][0];
    assert_eq!(
        verdict["deadline"],
        json!({
            "request": "2s",
            "grpcTimeout": "500ms",
            "deadline": "500ms",
            "until": "responseHead",
            "perTry": null,
            "idle": null,
            "stream": null,
        })
    );
    assert_eq!(verdict["streams"], json!(true));
}

#[test]
fn an_idempotency_key_lets_a_request_be_repeated() {
    let repeated = |header: &str| {
        let args = [
            "-f",
            LEVELS,
            "service/cart:80",
            "--request",
            "POST /x",
            "-H",
            header,
        ];
        let object = json_of(&args);
        let after = object["ports"][0]["requests"][0]["retries"]["after"].clone();
        let after = after.as_array().expect("a list").clone();
        let by_status = after.iter().find(|it| it["failure"] == "status 503");
        by_status.expect("the policy lists it")["repeated"].clone()
    };
    assert_eq!(repeated("idempotency-key: 1"), json!(true));
    assert_eq!(repeated("x-other: 1"), json!(false));
}

#[test]
fn callers_are_judged_by_what_they_prove() {
    let verdict = |from: &str, request: &str| {
        let args = [
            "-f",
            LEVELS,
            "service/cart:80",
            "-n",
            "shop",
            "--from",
            from,
            "--request",
            request,
        ];
        let object = json_of(&args);
        object["ports"][0]["requests"][0]["servers"][0]["verdict"].clone()
    };
    assert_eq!(verdict("shop/web-1", "GET /cart"), json!("allowed"));
    assert_eq!(verdict("shop/web-1", "GET /cartoon"), json!("denied"));
    assert_eq!(verdict("shop/web-1", "POST /cart"), json!("denied"));
    assert_eq!(verdict("batch/job-1", "GET /cart"), json!("denied"));
    assert_eq!(verdict("shop/old-1", "GET /cart"), json!("mtlsRequired"));
    let object = json_of(&["-f", LEVELS, "service/cart:80", "--request", "GET /cart"]);
    let servers = &object["ports"][0]["requests"][0]["servers"];
    assert_eq!(servers[0]["verdict"], json!("dependsOnCaller"));
}

#[test]
fn bad_questions_are_answered_with_what_is_near() {
    for (args, code, said) in [
        (
            &["service/cat"][..],
            2,
            "there is no service cat; did you mean shop/cart?",
        ),
        (
            &["service/cart:8080"],
            2,
            "service shop/cart has no port 8080; it has 80 (http), 81 (admin)",
        ),
        (
            &["service/cart", "-n", "batch"],
            2,
            "there is no service batch/cart; did you mean shop/cart?",
        ),
        (
            &["service/cart", "--from", "web"],
            2,
            "there is no workload web; did you mean shop/web-1?",
        ),
        (&["cart"], 2, "names no service"),
        (&["pod/cart"], 2, "names no service"),
        (
            &["service/shop/cart", "-n", "batch"],
            2,
            "is in namespace shop, and -n says batch",
        ),
        (
            &["service/cart", "--request", "/cart"],
            2,
            "write 'METHOD /path'",
        ),
        (
            &["service/cart", "--request", "GET cart"],
            2,
            "write 'METHOD /path'",
        ),
        (
            &["service/cart", "--request", "GET /", "-H", "x"],
            2,
            "write 'name: value'",
        ),
    ] {
        let (is, words) = refused(&[&["-f", LEVELS], args].concat());
        assert_eq!(is, code, "{args:?}: {words}");
        assert!(words.contains(said), "{args:?}: {words}");
    }
    let (code, _) = refused(&["-f", "no/such/path", "service/cart"]);
    assert_eq!(code, USAGE);
    let policies = format!("{LEVELS}/policies.yaml");
    let (code, words) = refused(&["-f", &policies, "service/cart"]);
    assert_eq!(code, BAD_INPUT);
    assert!(words.contains("no mesh.yaml"), "{words}");
}
