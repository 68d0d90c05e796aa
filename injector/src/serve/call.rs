//! One request: from its head to its answer.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};
use weft_proto::names::cluster::WEBHOOK_PATH;

use super::Server;
use crate::admission::{self, Answer};
use crate::metrics::Fate;

/// Bytes of a review. API servers take objects of up to 3 MiB, and a review has one.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// From a request's head to its answer: less than the 5 s that API servers wait, so that they are told why.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(4_500);

/// Why a request has no review as its answer.
struct Failed {
    code: StatusCode,
    reason: &'static str,
    words: String,
}

impl Server {
    /// Answers whatever comes.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != WEBHOOK_PATH {
            return text(StatusCode::NOT_FOUND, "no such page".to_owned());
        }
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "POST only".to_owned());
        }
        let begun = Instant::now();
        let answered = timeout(REQUEST_TIMEOUT, self.review(request)).await;
        let answered = answered.unwrap_or_else(|_| {
            Err(Failed {
                code: StatusCode::SERVICE_UNAVAILABLE,
                reason: "timeout",
                words: "the webhook has too much to do, or the request did not come whole"
                    .to_owned(),
            })
        });
        match answered {
            Ok(answer) => {
                self.metrics
                    .count(answer.fate, answer.reason, begun.elapsed());
                let body = Full::new(Bytes::from(answer.review.to_string()));
                let response = Response::builder().header(CONTENT_TYPE, "application/json");
                response
                    .body(body)
                    .expect("a content type of ours is a header value")
            }
            Err(Failed {
                code,
                reason,
                words,
            }) => {
                self.metrics.count(Fate::Failed, reason, begun.elapsed());
                tracing::warn!(code = code.as_u16(), reason, "no review: {words}");
                text(code, words)
            }
        }
    }

    async fn review(&self, request: Request<Incoming>) -> Result<Answer, Failed> {
        let _turn = self.turns.acquire().await;
        let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Failed {
                    code: StatusCode::PAYLOAD_TOO_LARGE,
                    reason: "too_large",
                    words: format!("a review has at most {MAX_BODY} bytes"),
                }
            } else {
                Failed {
                    code: StatusCode::BAD_REQUEST,
                    reason: "broken",
                    words: format!("the request did not come whole: {error}"),
                }
            }
        })?;
        let request = admission::Request::read(&body.to_bytes()).map_err(|error| Failed {
            code: StatusCode::BAD_REQUEST,
            reason: match error {
                admission::Malformed::Other { .. } => "other_version",
                admission::Malformed::Unreadable(_) => "malformed",
            },
            words: error.to_string(),
        })?;
        let mut answer = self.judge(&request).await;
        tracing::info!(
            namespace = request.namespace,
            pod = request.name,
            outcome = answer.fate.word(),
            reason = answer.reason,
            dry_run = request.dry_run,
            "{}",
            if answer.note.is_empty() {
                "judged"
            } else {
                &answer.note
            },
        );
        if let Some(news) = answer.news.take() {
            self.events.tell(news);
        }
        Ok(answer)
    }

    async fn judge(&self, request: &admission::Request) -> Answer {
        if let Some(reason) = request.left_alone {
            return request.leave_alone(reason);
        }
        let name = &request.namespace;
        let watched = match self.namespaces.watched(name).await {
            Some(namespace) => Some(request.judge(&self.settings, &namespace)),
            None => None,
        };
        // The API server knows better: a label that was set a moment ago, or a namespace just made.
        let asked = match watched {
            Some(answer) if !answer.is_doubtful => return answer,
            _ => self.namespaces.ask(name).await,
        };
        match asked {
            Ok(namespace) => request.judge(&self.settings, &namespace),
            Err(why) => request.fail(&why),
        }
    }
}

fn text(code: StatusCode, words: String) -> Response<Full<Bytes>> {
    Response::builder()
        .status(code)
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(Full::new(Bytes::from(words + "\n")))
        .expect("a content type of ours is a header value")
}
