use http_body::Body;
use http_body_util::BodyExt;

use super::*;

#[tokio::test]
async fn http_callers_get_a_sentence() {
    let failure = Failure::never(Outcome::NoEndpoints, "checkout has none");
    let response = answer(&failure, Origin::Outbound, false);
    assert_eq!(response.status(), 503);
    assert_eq!(
        read_answer(response.headers()),
        Some((Outcome::NoEndpoints, Origin::Outbound))
    );
    assert_eq!(response.body().size_hint().exact(), Some(38));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "weft: no_endpoints: checkout has none\n");
}

#[test]
fn grpc_callers_get_trailers_only() {
    let failure = Failure::maybe(Outcome::RequestTimeout, "100 % \u{fc}ber\n");
    let response = answer(&failure, Origin::Inbound, true);
    assert_eq!(response.status(), 200);
    assert!(response.body().is_end_stream());
    let headers = response.headers();
    assert_eq!(headers["grpc-status"], "4");
    assert_eq!(
        headers["grpc-message"],
        "weft: request_timeout: 100 %25 %C3%BCber%0A"
    );
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(
        read_answer(headers),
        Some((Outcome::RequestTimeout, Origin::Inbound))
    );
}

#[test]
fn the_rate_limited_are_told_when_to_come_back() {
    let failure = Failure::never(Outcome::RateLimited, "500 per second");
    let response = answer(&failure, Origin::Inbound, false);
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "1");
    let after = Some(Duration::from_millis(2_100));
    let later = answer_later(&failure, Origin::Inbound, true, after);
    assert_eq!(later.headers()["retry-after"], "3");
}

#[test]
fn every_outcome_is_read_back_and_long_details_are_cut() {
    for outcome in Outcome::ALL {
        for origin in [Origin::Inbound, Origin::Outbound] {
            for grpc in [false, true] {
                let failure = Failure::maybe(outcome, "\u{fc}".repeat(MAX_SENTENCE));
                let response = answer(&failure, origin, grpc);
                assert_eq!(read_answer(response.headers()), Some((outcome, origin)));
                let size = response.body().size_hint().exact().unwrap_or(u64::MAX);
                assert!(size <= MAX_SENTENCE as u64 + 1);
            }
        }
    }
    assert_eq!(read_answer(&HeaderMap::new()), None);
}
