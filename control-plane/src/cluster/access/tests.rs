//! Against an API server that answers as it is told.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;

const TOKEN: &str = "secret-token";

/// Answers to reviews of tokens and of rights; a number is a failure with that code.
#[derive(Clone)]
struct Server {
    token: Value,
    right: Value,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl tower_service::Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, kube::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let is_token = request.uri().path().ends_with("/tokenreviews");
            let body = request.into_body().collect().await?.to_bytes();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            server.asked.lock().push(review["spec"].clone());
            let answer = [server.right, server.token][usize::from(is_token)].clone();
            if let Some(code) = answer.as_u64() {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                    "message": format!("no {TOKEN}"), "reason": "Forbidden",
                });
                let answer = Response::builder().status(u16::try_from(code).unwrap());
                let body = Body::from(status.to_string().into_bytes());
                return Ok(answer.body(body).unwrap());
            }
            review["status"] = answer;
            Ok(Response::new(Body::from(review.to_string().into_bytes())))
        })
    }
}

fn good() -> Value {
    json!({
        "authenticated": true, "audiences": [ADMIN_AUDIENCE],
        "user": {"username": "alice", "uid": "7", "groups": ["sre"], "extra": {"k": ["v"]}},
    })
}

async fn judged(token: Value, right: Value) -> (Result<String, Denied>, Vec<Value>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let server = Server {
        token,
        right,
        asked: asked.clone(),
    };
    let reviews = AccessReviews::new(Client::new(server, "default"), "mesh");
    let judged = reviews.review(TOKEN, Verb::Operate).await;
    let asked = asked.lock().clone();
    (judged, asked)
}

#[tokio::test]
async fn the_whole_user_is_asked_about() {
    let (judged, asked) = judged(good(), json!({"allowed": true})).await;
    assert_eq!(judged, Ok("alice".to_owned()));
    assert_eq!(asked[0]["audiences"], json!([ADMIN_AUDIENCE]));
    assert_eq!(
        asked[1],
        json!({
            "user": "alice", "uid": "7", "groups": ["sre"], "extra": {"k": ["v"]},
            "resourceAttributes": {"group": "weft.dev", "resource": "meshes", "verb": "operate"},
        })
    );
}

#[tokio::test]
async fn nothing_is_allowed_by_less_than_two_clear_answers() {
    let with = |key: &str, value: Value| {
        let mut answer = good();
        answer[key] = value;
        answer
    };
    for token in [
        json!({}),
        with("authenticated", json!(false)),
        with("audiences", json!(null)),
        with("audiences", json!(["weft.dev"])),
        with("user", json!({})),
        with("user", json!({"username": ""})),
    ] {
        let (judged, asked) = judged(token.clone(), json!({"allowed": true})).await;
        assert!(
            matches!(judged, Err(Denied::Invalid(_))),
            "{token} {judged:?}"
        );
        assert_eq!(asked.len(), 1, "nobody's rights are asked for");
    }
    for right in [
        json!({"allowed": false}),
        json!({"allowed": true, "denied": true}),
    ] {
        let (judged, _) = judged(good(), right).await;
        let user = "alice".to_owned();
        assert_eq!(judged, Err(Denied::Forbidden { user }));
    }
    for (token, right) in [
        (json!(403), json!({"allowed": true})),
        (json!(500), json!({"allowed": true})),
        (good(), json!(403)),
        (good(), json!(503)),
        (good(), json!(null)),
    ] {
        let (judged, _) = judged(token, right).await;
        assert!(matches!(judged, Err(Denied::Unavailable(_))), "{judged:?}");
    }
}

#[tokio::test]
async fn a_token_is_in_no_words() {
    let (judged, _) = judged(json!(500), json!(null)).await;
    let words = judged.unwrap_err().to_string();
    assert!(!words.contains(TOKEN), "{words}");
}
