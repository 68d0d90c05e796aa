//! Connections and requests: who asks, what for, and whether a test wants it answered.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::access::{self, Attempt, MASTERS, User};
use super::failure::Failure;
use super::kinds::Sort;
use super::verbs::{self, Call, Reply};
use super::{Outage, Seen, Shared, tls, watch};

/// The longest body of a request.
const MAX_BODY: usize = 3 << 20;
/// Different callers, verbs and resources that are counted.
const MAX_SEEN: usize = 65_536;
/// How long to wait before listening or accepting is tried again.
const PAUSE: Duration = Duration::from_millis(20);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Listens, and again after every outage, until it is aborted; then nobody is connected any more.
pub(super) async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    at: SocketAddr,
    tls: TlsAcceptor,
) {
    let mut changed = shared.changed.subscribe();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        changed.mark_unchanged();
        let is_away = shared.store.lock().outage == Outage::Away;
        if is_away {
            listener = None;
            connections.shutdown().await;
            // Whoever changes something wakes this up.
            let _ = changed.changed().await;
            continue;
        }
        let Some(listening) = &listener else {
            match (shared.network.listen)(at) {
                Ok(again) => listener = Some(again),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            continue;
        };
        tokio::select! {
            accepted = listening.accept() => match accepted {
                Ok((stream, _)) => {
                    let (shared, tls) = (Arc::clone(&shared), tls.clone());
                    connections.spawn(async move {
                        let _ = stream.set_nodelay(true);
                        if let Ok(stream) = tls.accept(stream).await {
                            connection(shared, stream).await;
                        }
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            _ = changed.changed() => {}
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
) {
    let (_, session) = stream.get_ref();
    let known = session
        .peer_certificates()
        .and_then(|chain| tls::user(chain.first()?));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let (shared, known) = (Arc::clone(&shared), known.clone());
        async move { Ok::<_, Infallible>(answer(&shared, known, request).await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    // A client that goes away in the middle is no news.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    shared: &Arc<Shared>,
    known: Option<User>,
    request: Request<Incoming>,
) -> Response<Body> {
    shared.until_awake().await;
    let (parts, body) = request.into_parts();
    let answered = async {
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body
            .map_err(|error| Failure::bad(error.to_string()))?
            .to_bytes();
        let user = identify(shared, known, &parts.headers)?;
        let asked = Asked {
            method: &parts.method,
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            accept: text(&parts.headers, header::ACCEPT),
            content_type: text(&parts.headers, header::CONTENT_TYPE),
        };
        route(shared, user, &asked, &body).await
    };
    let answered = answered.await;
    shared.until_awake().await;
    let response = match answered {
        Ok(Answer::Reply(Reply::Object {
            code,
            object,
            warnings,
        })) => {
            let mut response = json(code, &object);
            for warning in warnings {
                let warning = format!("299 - \"{}\"", warning.replace('"', "\\\""));
                if let Ok(value) = warning.parse() {
                    response.headers_mut().append(header::WARNING, value);
                }
            }
            return response;
        }
        Ok(Answer::Reply(Reply::Watch(wanted))) => {
            let body = StreamBody::new(watch::start(shared, wanted));
            let json = "application/json";
            (
                Response::builder().header(header::CONTENT_TYPE, json),
                body.boxed_unsync(),
            )
        }
        Ok(Answer::Page(kind, page)) => (
            Response::builder().header(header::CONTENT_TYPE, kind),
            Full::new(page).boxed_unsync(),
        ),
        Err(failure) => return json(failure.code, &failure.status()),
    };
    let (builder, body) = response;
    builder.body(body).expect("these headers are good")
}

fn json(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    let response = Response::builder()
        .status(code)
        .header(header::CONTENT_TYPE, "application/json");
    response
        .body(body)
        .expect("codes are of this server's own choice")
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// Who asks: by token, else by certificate.
fn identify(shared: &Shared, known: Option<User>, headers: &HeaderMap) -> Result<User, Failure> {
    let unknown = || Failure::new(401, "Unauthorized");
    match text(headers, header::AUTHORIZATION).strip_prefix("Bearer ") {
        Some(token) => match access::recognise(&shared.store.lock(), token, &[]) {
            Ok((user, _)) => Ok(user),
            Err(_) => Err(unknown()),
        },
        None => known.ok_or_else(unknown),
    }
}

/// A request without its body.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) accept: &'a str,
    pub(super) content_type: &'a str,
}

pub(super) enum Answer {
    Reply(Reply),
    /// A page of this type that is no object.
    Page(&'static str, Bytes),
}

/// Finds out what is asked for, and does it.
pub(super) async fn route(
    shared: &Arc<Shared>,
    user: User,
    asked: &Asked<'_>,
    body: &[u8],
) -> Result<Answer, Failure> {
    let path: Vec<&str> = asked
        .path
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    if *asked.method == Method::GET {
        match path.as_slice() {
            ["healthz" | "livez" | "readyz"] => return Ok(Answer::Page("text/plain", "ok".into())),
            // No schemas: clients take it that nothing can be said about an object beforehand.
            ["openapi", "v2"] if asked.accept.contains("protobuf") => {
                let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
                return Ok(Answer::Page(kind, Bytes::new()));
            }
            _ => {}
        }
        if let Some(object) = shared.store.lock().kinds.page(&path) {
            let (code, warnings) = (200, Vec::new());
            return Ok(Answer::Reply(Reply::Object {
                code,
                object,
                warnings,
            }));
        }
    }
    let call = call(shared, user, asked, &path, body)?;
    shared.store.lock().allow(&call)?;
    verbs::serve(shared, call).await.map(Answer::Reply)
}

fn call(
    shared: &Shared,
    user: User,
    asked: &Asked<'_>,
    path: &[&str],
    body: &[u8],
) -> Result<Call, Failure> {
    let (group, version, rest) = match path {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(Failure::no_such_path()),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !matches!(rest, [] | ["status"]) => {
            (*namespace, rest)
        }
        rest => ("", rest),
    };
    let (plural, name, sub) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, sub] => (*plural, *name, *sub),
        _ => return Err(Failure::no_such_path()),
    };
    let resource = shared.store.lock().kinds.find(group, version, plural);
    let resource = resource.ok_or_else(Failure::no_such_path)?;
    let one = !name.is_empty();
    // Objects in namespaces can be listed everywhere, and only that.
    let everywhere = resource.namespaced && namespace.is_empty();
    if everywhere && one || !resource.namespaced && !namespace.is_empty() {
        return Err(Failure::no_such_path());
    }
    let query: HashMap<_, _> = form_urlencoded::parse(asked.query.as_bytes())
        .into_owned()
        .collect();
    let watches = query
        .get("watch")
        .is_some_and(|watch| watch == "true" || watch == "1");
    let verb = match (asked.method.as_str(), one) {
        ("GET", false) if watches => "watch",
        ("GET", false) => "list",
        ("GET", true) => "get",
        ("POST", false) if !everywhere || resource.sort == Sort::Question => "create",
        ("POST", true) if !sub.is_empty() => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) if !everywhere => "deletecollection",
        _ => {
            return Err(Failure::no_such_method());
        }
    };
    let body = match body {
        [] => Value::Null,
        body => serde_json::from_slice(body)
            .map_err(|error| Failure::bad(format!("this server reads JSON only: {error}")))?,
    };
    let content_type = asked
        .content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    Ok(Call {
        verb,
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        sub: sub.to_owned(),
        query,
        content_type: content_type.to_owned(),
        body,
        user,
        resource,
    })
}

impl super::store::Store {
    /// Counts a request, and refuses it where roles or a test want that.
    fn allow(&mut self, call: &Call) -> Result<(), Failure> {
        let (plural, sub) = (&call.resource.plural, &call.sub);
        let resource = if sub.is_empty() {
            plural.clone()
        } else {
            format!("{plural}/{sub}")
        };
        let attempt = Attempt {
            verb: call.verb,
            group: &call.resource.group,
            resource: &resource,
            namespace: &call.namespace,
            name: call.asked_name(),
        };
        let seen = Seen {
            user: call.user.name.clone(),
            verb: call.verb,
            resource: super::kinds::id(&call.resource.group, &resource),
        };
        if self.enforces_roles && !access::may(self, &call.user, attempt) {
            if self.forbidden.len() < MAX_SEEN || self.forbidden.contains_key(&seen) {
                *self.forbidden.entry(seen).or_default() += 1;
            }
            return Err(attempt.refusal(&call.user));
        }
        if self.seen.len() < MAX_SEEN || self.seen.contains_key(&seen) {
            *self.seen.entry(seen.clone()).or_default() += 1;
        }
        // Tests themselves are not to be hindered.
        if call.user.groups.iter().any(|group| group == MASTERS) && call.user.name == "test" {
            return Ok(());
        }
        let refusals = self.refusals.iter_mut();
        let mut refusals = refusals.filter(|refusal| {
            refusal.left > 0 && refusal.verb == seen.verb && refusal.resource == seen.resource
        });
        if let Some(refusal) = refusals.next() {
            refusal.left -= 1;
            return Err(Failure::new(refusal.code, "a test wants this refused"));
        }
        match self.outage {
            Outage::Failing(code) => Err(Failure::new(code, "a test wants everything refused")),
            _ => Ok(()),
        }
    }
}
