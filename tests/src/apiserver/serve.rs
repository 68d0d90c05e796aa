//! Connections and requests: who asks, what for, and whether a test wants it answered.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::access::{self, User};
use super::failure::Failure;
use super::kinds::Sort;
use super::verbs::{self, Body, Call, Reply};
use super::{Outage, Seen, Shared};

/// The longest body of a request.
const MAX_BODY: usize = 3 << 20;
/// Different callers, verbs and resources that are counted.
const MAX_SEEN: usize = 65_536;
/// How long to wait before listening or accepting is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens, and again after every outage, until it is aborted; then nobody is connected any more.
pub(super) async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    at: SocketAddr,
    tls: TlsAcceptor,
) {
    let mut listener = Ok(listener);
    loop {
        match &listener {
            Ok(listener) => tokio::select! {
                () = accept(&shared, listener, &tls) => {}
                () = shared.until(Outage::Away, true) => {}
            },
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        // Not to listen is to refuse.
        drop(listener);
        shared.until(Outage::Away, false).await;
        listener = super::listen(at);
    }
}

/// Serves whoever comes. When this ends, so do they.
async fn accept(shared: &Arc<Shared>, listener: &TcpListener, tls: &TlsAcceptor) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(shared), tls.clone(), stream));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(shared: Arc<Shared>, tls: TlsAcceptor, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    // A client that goes away in the middle is no news.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    shared.until(Outage::Hang, false).await;
    let (parts, body) = request.into_parts();
    let answered = async {
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body.map_err(|error| Failure::bad(error.to_string()))?;
        let token = header(&parts.headers, AUTHORIZATION).strip_prefix("Bearer ");
        let user = access::recognise(&shared.store.lock(), token.unwrap_or_default(), &[]);
        let (user, _) = user.map_err(|_| Failure::new(401, "Unauthorized"))?;
        route(shared, user, Request::from_parts(parts, body.to_bytes())).await
    };
    let answered = answered.await;
    shared.until(Outage::Hang, false).await;
    let answered = answered.unwrap_or_else(|Failure(code, status)| Reply::Object(code, status));
    let (code, kind, body) = match answered {
        Reply::Body(kind, body) => (200, kind, body),
        Reply::Object(code, object) => {
            let body = Full::new(Bytes::from(object.to_string())).boxed_unsync();
            (code, "application/json", body)
        }
    };
    let response = Response::builder().status(code).header(CONTENT_TYPE, kind);
    let response = response.body(body);
    response.expect("codes and types are of this server's own choice")
}

fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// Finds out what is asked for, and does it.
pub(super) async fn route(
    shared: &Arc<Shared>,
    user: User,
    request: Request<Bytes>,
) -> Result<Reply, Failure> {
    let path = request.uri().path().trim_matches('/');
    let path: Vec<&str> = path.split('/').collect();
    if request.method() == Method::GET {
        // No schemas: clients take it that nothing can be said about an object beforehand.
        let accepts = header(request.headers(), ACCEPT);
        if path == ["openapi", "v2"] && accepts.contains("protobuf") {
            let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
            return Ok(Reply::Body(kind, Full::default().boxed_unsync()));
        }
        if let Some(object) = shared.store.lock().kinds.page(&path) {
            return Ok(Reply::Object(200, object));
        }
    }
    let call = call(shared, user, &request, &path)?;
    shared.store.lock().allow(&call)?;
    verbs::serve(shared, call).await
}

fn call(
    shared: &Shared,
    user: User,
    request: &Request<Bytes>,
    path: &[&str],
) -> Result<Call, Failure> {
    let (group, version, rest) = match path {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(Failure::no_such_path()),
    };
    let (namespace, rest) = match rest {
        rest @ (["namespaces", _] | ["namespaces", _, "status"]) => ("", rest),
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let (plural, name, sub) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, sub] => (*plural, *name, *sub),
        _ => return Err(Failure::no_such_path()),
    };
    let key = format!("{}/{version}", super::kinds::id(group, plural));
    let resource = shared.store.lock().kinds.0.get(&key).cloned();
    let resource = resource.ok_or_else(Failure::no_such_path)?;
    let one = !name.is_empty();
    // Objects in namespaces can be listed everywhere, and only that.
    let everywhere = resource.namespaced && namespace.is_empty();
    if everywhere && one || !resource.namespaced && !namespace.is_empty() {
        return Err(Failure::no_such_path());
    }
    let query = form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    let query: HashMap<String, String> = query.into_owned().collect();
    let watches = ["true", "1"].contains(&query.get("watch").map_or("", String::as_str));
    let is_question = resource.sort == Sort::Question;
    let verb = match (request.method().as_str(), one) {
        (method, _) if is_question && method != "POST" => return Err(Failure::no_such_method()),
        ("GET", false) if watches => "watch",
        ("GET", false) => "list",
        ("GET", true) => "get",
        ("POST", false) if !everywhere || is_question => "create",
        ("POST", true) if !sub.is_empty() => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) if !everywhere => "deletecollection",
        _ => return Err(Failure::no_such_method()),
    };
    let body = match &request.body()[..] {
        [] => Value::Null,
        body => serde_json::from_slice(body)
            .map_err(|error| Failure::bad(format!("this server reads JSON only: {error}")))?,
    };
    let content_type = header(request.headers(), CONTENT_TYPE).split(';').next();
    Ok(Call {
        verb,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        sub: sub.to_owned(),
        query,
        content_type: content_type.unwrap_or_default().trim().to_owned(),
        body,
        user,
        resource,
    })
}

impl super::store::Store {
    /// Counts a request, and refuses it where roles or a test want that.
    fn allow(&mut self, call: &Call) -> Result<(), Failure> {
        // Of a list, roles are asked for the name that it selects.
        let selected = call.option("fieldSelector").strip_prefix("metadata.name=");
        let name = selected.unwrap_or(&call.name);
        let (group, plural) = (&call.resource.group, &call.resource.plural);
        let attributes = json!({
            "verb": call.verb, "group": group, "resource": plural, "subresource": call.sub,
            "namespace": call.namespace, "name": name,
        });
        let seen = Seen {
            user: call.user.name.clone(),
            verb: call.verb,
            resource: super::kinds::id(group, &access::resource(&attributes)),
        };
        let may = !self.enforces_roles || access::may(self, &call.user, &attributes);
        let counts = if may {
            &mut self.seen
        } else {
            &mut self.forbidden
        };
        if counts.len() < MAX_SEEN || counts.contains_key(&seen) {
            *counts.entry(seen.clone()).or_default() += 1;
        }
        if !may {
            return Err(access::forbidden(&call.user, &attributes));
        }
        // Tests themselves are not to be hindered.
        if call.user.is_master() && call.user.name == "test" {
            return Ok(());
        }
        let is_meant = |(verb, resource, _): &(String, String, u16)| {
            *verb == seen.verb && *resource == seen.resource
        };
        if let Some(at) = self.refusals.iter().position(is_meant) {
            let (_, _, code) = self.refusals.remove(at);
            return Err(Failure::new(code, "a test wants this refused"));
        }
        match self.outage {
            Outage::Failing(code) => Err(Failure::new(code, "a test wants everything refused")),
            _ => Ok(()),
        }
    }
}
