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
        let watched = self.namespaces.watched(name).await;
        let watched = watched.map(|namespace| request.judge(&self.settings, &namespace));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube::runtime::watcher::Event;
    use metrics::Counter;
    use serde_json::{Value, json};

    use super::*;
    use crate::events::Events;
    use crate::metrics::Metrics;
    use crate::settings::Settings;
    use crate::watch::namespaces::Namespaces;
    use crate::watch::testing::answering;

    fn namespace(labels: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": labels}})
    }

    /// What becomes of a pod where the watch has told this of its namespace, if anything, and the API
    /// server says that.
    async fn judged(
        watched: Option<Value>,
        (code, asked): (u16, Value),
        pod_label: &str,
    ) -> Answer {
        let client = answering(code, &asked);
        let namespaces = Namespaces::new(client.clone());
        if let Some(watched) = watched {
            let watched = serde_json::from_value(watched).expect("a namespace");
            namespaces.take(Event::Apply(watched));
        }
        let settings = Settings::new("weft", "cluster.local", Settings::default_image());
        let events = Events::start(client, "injector-1".to_owned(), Counter::noop());
        let metrics = Arc::new(Metrics::new());
        let server = Server::new(
            settings.expect("good"),
            Arc::new(namespaces),
            events,
            metrics,
        );
        let pod = json!({
            "metadata": {"name": "web", "labels": {"weft.dev/inject": pod_label}},
            "spec": {"containers": [{"name": "app"}]},
        });
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": "1", "kind": {"version": "v1", "kind": "Pod"}, "namespace": "shop",
                "operation": "CREATE", "object": pod},
        });
        let request = admission::Request::read(review.to_string().as_bytes());
        server.judge(&request.expect("a review")).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_doubted_where_nobody_should_have_asked() {
        let enabled = || namespace(&json!({"weft.dev/inject": "enabled"}));
        let none = || namespace(&json!({}));
        let disabled = || namespace(&json!({"weft.dev/inject": "disabled"}));
        let failing = || {
            (
                500,
                json!({"kind": "Status", "status": "Failure", "code": 500}),
            )
        };
        let missing = || {
            (
                404,
                json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}),
            )
        };
        for (watched, asked, pod_label, fate) in [
            // What is known and fits is not asked for.
            (Some(enabled()), failing(), "", Fate::Patched),
            (Some(none()), failing(), "enabled", Fate::Patched),
            (Some(none()), failing(), "disabled", Fate::Skipped),
            // The label was set, or taken away, a moment ago.
            (Some(none()), (200, enabled()), "", Fate::Patched),
            (Some(disabled()), (200, enabled()), "", Fate::Patched),
            (Some(none()), (200, none()), "", Fate::Skipped),
            (Some(none()), failing(), "", Fate::Failed),
            // It was made a moment ago, or not at all.
            (None, (200, enabled()), "", Fate::Patched),
            (None, (200, none()), "enabled", Fate::Patched),
            (None, missing(), "", Fate::Failed),
            (None, failing(), "enabled", Fate::Failed),
        ] {
            let answer = judged(watched.clone(), asked.clone(), pod_label).await;
            let case = format!("{watched:?} {asked:?} {pod_label}");
            assert_eq!(answer.fate, fate, "{case}: {}", answer.note);
            assert_eq!(answer.is_allowed(), fate != Fate::Failed, "{case}");
        }
    }
}
