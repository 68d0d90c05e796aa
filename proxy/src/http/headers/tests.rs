use proptest::prelude::*;

use super::*;

#[test]
fn a_length_is_told_once() {
    let told = |lengths: &[&str]| {
        let mut request = Request::get("/");
        for length in lengths {
            request = request.header("content-length", *length);
        }
        one_length(&request.body(()).unwrap().into_parts().0).map_err(|failure| failure.outcome)
    };
    assert_eq!(told(&[]), Ok(()));
    assert_eq!(told(&["4"]), Ok(()));
    assert_eq!(told(&["4", "5"]), Err(Outcome::BadRequest));
    assert_eq!(told(&["4", "4"]), Err(Outcome::BadRequest));
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn request(
    method: &str,
    uri: &str,
    version: Version,
    pairs: &[(&'static str, &str)],
) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = uri.parse().unwrap();
    *request.version_mut() = version;
    *request.headers_mut() = headers(pairs);
    request
}

fn named(request: Request<()>) -> Result<Option<String>, Outcome> {
    authority(&request.into_parts().0)
        .map(|named| named.map(|named| named.to_string()))
        .map_err(|failure| failure.outcome)
}

#[test]
fn what_concerns_one_connection_is_stripped() {
    let mut map = headers(&[
        ("connection", "close, X-Listed"),
        ("connection", "te,host"),
        ("x-listed", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "trailers"),
        ("host", "a"),
        ("x-kept", "1"),
    ]);
    strip_hop_by_hop(&mut map, false);
    assert_eq!(
        map,
        headers(&[("te", "trailers"), ("host", "a"), ("x-kept", "1")])
    );
}

#[test]
fn an_upgrade_keeps_what_it_needs() {
    let mut map = headers(&[
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "websocket"),
        ("te", "gzip, trailers"),
    ]);
    strip_hop_by_hop(&mut map, true);
    assert_eq!(
        map,
        headers(&[("connection", "upgrade"), ("upgrade", "websocket")])
    );
}

#[test]
fn ours_are_stripped_and_ids_are_made_once() {
    let mut map = headers(&[
        ("x-weft-outcome", "ok"),
        ("x-weft-anything", "1"),
        ("x-weftless", "1"),
    ]);
    strip_ours(&mut map);
    assert_eq!(map, headers(&[("x-weftless", "1")]));
    let id = ensure_request_id(&mut map);
    assert_eq!(id.len(), 32);
    assert_eq!(ensure_request_id(&mut map), id);
    assert_eq!(new_request_id(0xa0), format!("0a{}", "0".repeat(30)));
}

#[test]
fn one_authority_or_none() {
    let h1 = Version::HTTP_11;
    assert_eq!(
        named(request("GET", "/", h1, &[("host", "a:1")])),
        Ok(Some("a:1".into()))
    );
    assert_eq!(
        named(request("GET", "http://A/", h1, &[("host", "a")])),
        Ok(Some("A".into()))
    );
    assert_eq!(
        named(request("GET", "http://b/", Version::HTTP_2, &[])),
        Ok(Some("b".into()))
    );
    assert_eq!(named(request("GET", "/", Version::HTTP_10, &[])), Ok(None));
    for bad in [
        request("GET", "/", h1, &[("host", "a"), ("host", "a")]),
        request("GET", "http://a/", h1, &[("host", "b")]),
        request("GET", "/", h1, &[("host", "a b")]),
        request("GET", "/", h1, &[("host", "u@b")]),
        request("GET", "/", h1, &[]),
    ] {
        assert_eq!(named(bad), Err(Outcome::BadRequest));
    }
}

#[test]
fn targets_fit_http1() {
    let mut origin = request("GET", "/a?b", Version::HTTP_11, &[("host", "x")]);
    remember_form(&mut origin);
    prepare_h1(&mut origin);
    assert_eq!(origin.uri(), "/a?b");

    let mut absolute = request("GET", "http://x/a?b", Version::HTTP_11, &[("host", "x")]);
    remember_form(&mut absolute);
    prepare_h1(&mut absolute);
    assert_eq!(absolute.uri(), "http://x/a?b");

    let crumbs = [("cookie", "a=1"), ("cookie", "b=2")];
    let mut from_h2 = request("GET", "http://x:1/a?b", Version::HTTP_2, &crumbs);
    remember_form(&mut from_h2);
    prepare_h1(&mut from_h2);
    assert_eq!(from_h2.uri(), "/a?b");
    assert_eq!(from_h2.version(), Version::HTTP_11);
    assert_eq!(from_h2.headers()["host"], "x:1");
    assert_eq!(from_h2.headers()["cookie"], "a=1; b=2");

    let mut tunnel = request("CONNECT", "x:1", Version::HTTP_11, &[]);
    prepare_h1(&mut tunnel);
    assert_eq!(tunnel.uri(), "x:1");
    let mut asterisk = request("OPTIONS", "*", Version::HTTP_11, &[("host", "x")]);
    prepare_h1(&mut asterisk);
    assert_eq!(asterisk.uri(), "*");
}

#[test]
fn targets_fit_http2() {
    let mut plain = request("GET", "/a?b", Version::HTTP_11, &[("host", "x:1")]);
    prepare_h2(&mut plain, &Scheme::HTTP).unwrap();
    assert_eq!(plain.uri(), "http://x:1/a?b");
    assert!(plain.headers().is_empty());
    let mut same = request("GET", "https://x/a", Version::HTTP_2, &[]);
    prepare_h2(&mut same, &Scheme::HTTP).unwrap();
    assert_eq!(same.uri(), "https://x/a");
    let mut nowhere = request("GET", "/", Version::HTTP_10, &[]);
    assert!(prepare_h2(&mut nowhere, &Scheme::HTTP).is_err());
}

#[test]
fn grpc_by_content_type() {
    for (value, grpc, streams) in [
        ("application/grpc", true, true),
        ("application/grpc+proto", true, true),
        ("Application/GRPC; x=y", true, true),
        ("application/grpc-web", false, true),
        ("application/json", false, false),
        ("text/event-stream;charset=utf-8", false, true),
        ("multipart/x-mixed-replace; boundary=x", false, true),
        ("application/x-ndjson", false, true),
        ("text/event-streams", false, false),
    ] {
        let map = headers(&[("content-type", value)]);
        assert_eq!(is_grpc(&map), grpc, "{value}");
        assert_eq!(response_streams(StatusCode::OK, &map), streams, "{value}");
    }
}

#[test]
fn requests_that_stream() {
    let h1 = Version::HTTP_11;
    let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
    assert!(request_streams(&request("GET", "/", h1, &upgrade)));
    assert!(!request_streams(&request(
        "GET",
        "/",
        Version::HTTP_10,
        &upgrade
    )));
    assert!(request_streams(&request("CONNECT", "x:1", h1, &[])));
    assert!(request_streams(&request(
        "GET",
        "/pods?limit=1&watch=true",
        h1,
        &[]
    )));
    assert!(!request_streams(&request(
        "GET",
        "/pods?watch=trueish",
        h1,
        &[]
    )));
    assert!(request_streams(&request(
        "GET",
        "/",
        h1,
        &[("accept", "text/event-stream")]
    )));
    assert!(!request_streams(&request(
        "GET",
        "/",
        h1,
        &[("accept", "*/*")]
    )));
}

prop_compose! {
    fn any_headers()(pairs in prop::collection::vec((
        prop::sample::select(vec![
            "connection", "te", "upgrade", "keep-alive", "transfer-encoding", "host", "x-a", "x-b",
            "x-weft-attempt", "x-request-id", "proxy-authorization",
        ]),
        prop::sample::select(vec![
            "close", "x-a", "x-a, X-B", "upgrade, te", "trailers", "gzip", "websocket", "",
            "keep-alive, host", "connection", ", ,x-b", "\u{fc}",
        ]),
    ), 0..12)) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }
}

#[test]
fn a_byte_that_is_no_text_hides_no_member_of_a_list() {
    let mut map = HeaderMap::new();
    let list = HeaderValue::from_bytes(b"x-a, \xe4, x-b").unwrap();
    map.insert("connection", list);
    map.insert("x-a", HeaderValue::from_static("1"));
    map.insert("x-b", HeaderValue::from_static("2"));
    map.insert("x-c", HeaderValue::from_static("3"));
    strip_hop_by_hop(&mut map, false);
    let names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-c"]);
}

#[test]
fn an_answer_says_its_length_once() {
    let lengths = |values: &[&str]| {
        let mut map = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_str(value).unwrap();
            map.append("content-length", value);
        }
        frame_once(&mut map).then(|| {
            let left = map.get_all("content-length").iter();
            let left = left.map(|value| value.to_str().unwrap().to_owned());
            left.collect::<Vec<_>>()
        })
    };
    assert_eq!(lengths(&[]), Some(Vec::new()));
    for same in [&["2"][..], &["2", "2"], &["2, 2"], &["2 ,2", "2"]] {
        assert_eq!(lengths(same), Some(vec!["2".to_owned()]), "{same:?}");
    }
    for bad in [
        &["2", "3"][..],
        &["2, 3"],
        &["+2"],
        &[""],
        &["2", "x"],
        &["x", "2"],
        &["0x2"],
    ] {
        assert_eq!(lengths(bad), None, "{bad:?}");
    }
}

proptest! {
    #[test]
    fn stripping_twice_is_stripping_once(map in any_headers(), upgrading: bool) {
        let mut once = map;
        strip_hop_by_hop(&mut once, upgrading);
        strip_ours(&mut once);
        let mut twice = once.clone();
        strip_hop_by_hop(&mut twice, upgrading);
        strip_ours(&mut twice);
        prop_assert_eq!(&once, &twice);
        prop_assert!(!once.contains_key("keep-alive"));
        prop_assert!(!once.contains_key("transfer-encoding"));
        prop_assert!(!once.contains_key("x-weft-attempt"));
        prop_assert_eq!(once.contains_key("connection"), upgrading);
    }
}

#[test]
fn hosts_that_are_not_parsed_are_authorities() {
    for plain in [
        "api",
        "api.shop.svc.cluster.local:8080",
        "10.0.0.1",
        "a-b:65535",
        "-.-:99999",
        "a:0",
    ] {
        assert!(is_plain_host(plain.as_bytes()), "{plain}");
        assert!(Authority::try_from(plain).is_ok(), "{plain}");
    }
    for other in [
        "", ":80", "a:", "a:b", "a:1:2", "a:123456", "user@a", "[::1]:80", "a/b", "a b", "\u{e4}",
    ] {
        assert!(!is_plain_host(other.as_bytes()), "{other}");
    }
}

#[test]
fn numbers_are_written_as_they_are() {
    for number in [0, 7, 10, 60_000, u64::MAX] {
        assert_eq!(super::number(number), number.to_string());
    }
}
