//! Every page of the admin listener, as somebody asks it whom a reviewer knows.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::harness::Mesh;
use crate::serve::admin::Admin;
use crate::serve::admin::access::{AccessReviewer, Denied, Gate, Verb};

/// Knows an observer, an operator, somebody without rights, and one whom nobody can be asked about.
struct Known;

impl AccessReviewer for Known {
    fn review<'a>(&'a self, token: &'a str, verb: Verb) -> BoxFuture<'a, Result<String, Denied>> {
        let user = token.to_owned();
        let judged = match (token, verb) {
            ("observer", Verb::Observe) | ("operator", _) => Ok(user),
            ("observer" | "stranger", _) => Err(Denied::Forbidden { user }),
            ("unlucky", _) => Err(Denied::Unavailable("the API server is away".to_owned())),
            ("foreign", _) => Err(Denied::Invalid("it is for another audience".to_owned())),
            _ => Err(Denied::Invalid(
                "the API server does not believe it".to_owned(),
            )),
        };
        Box::pin(async move { judged })
    }

    fn namespace(&self) -> &'static str {
        "weft"
    }
}

async fn admin(mesh: &Mesh) -> SocketAddr {
    let reviewer: Arc<dyn AccessReviewer> = Arc::new(Known);
    let admin = Admin {
        progress: Default::default(),
        models: watch::channel(Some(mesh.models.subscribe())).1,
        streams: mesh.streams.clone(),
        metrics: mesh.metrics.clone(),
        replicas: watch::channel(Some(mesh.replicas.clone())).1,
        gate: Gate::reviewed(watch::channel(Some(reviewer)).1),
        keeper: watch::channel(None).1,
        log: None,
        end: CancellationToken::new(),
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(admin.run(listener));
    address
}

/// What is asked, and how it is answered to somebody who may.
struct Page {
    method: &'static str,
    path: &'static str,
    body: Value,
    verb: Option<Verb>,
    code: u16,
}

fn pages() -> Vec<Page> {
    let page = |method, path, verb, code| Page {
        method,
        path,
        body: Value::Null,
        verb,
        code,
    };
    let command = |command: Value, verb| Page {
        method: "POST",
        path: "/command",
        body: json!({"namespace": "shop", "command": command}),
        verb: Some(verb),
        code: 200,
    };
    let (observe, operate) = (Some(Verb::Observe), Some(Verb::Operate));
    vec![
        page("GET", "/live", None, 200),
        page("GET", "/ready", None, 200),
        page("GET", "/health", None, 200),
        page("GET", "/metrics", None, 200),
        page("GET", "/status", observe, 200),
        page("GET", "/edges", observe, 200),
        // There is no authority here, which only somebody who may is told.
        page("GET", "/identity", observe, 503),
        page("GET", "/nothing", observe, 404),
        page("POST", "/identity/rotate/root", operate, 503),
        page("POST", "/status", operate, 405),
        page("DELETE", "/identity", operate, 405),
        command(json!({"kind": "breakers"}), Verb::Observe),
        command(json!({"kind": "config"}), Verb::Observe),
        command(json!({"kind": "metrics"}), Verb::Observe),
        command(json!({"kind": "logLevel", "level": ""}), Verb::Observe),
        command(json!({"kind": "logLevel", "level": "debug"}), Verb::Operate),
        command(json!({"kind": "breaker", "action": "reset"}), Verb::Operate),
    ]
}

async fn ask(to: SocketAddr, page: &Page, token: Option<&str>) -> (u16, String) {
    let mut tcp = TcpStream::connect(to).await.unwrap();
    let body = match &page.body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let token = token.map_or_else(String::new, |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    let request = format!(
        "{} {} HTTP/1.1\r\nhost: admin\r\ncontent-type: application/json\r\n{token}connection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        page.method,
        page.path,
        body.len()
    );
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

/// By page and by who asks.
#[tokio::test]
async fn each_page_takes_its_right() {
    let mesh = Mesh::start().await;
    let at = admin(&mesh).await;
    for page in &pages() {
        let who = [
            (None, 401),
            (Some("nonsense"), 401),
            (Some("foreign"), 401),
            (Some("stranger"), 403),
            (Some("unlucky"), 503),
            (Some("operator"), page.code),
            (
                Some("observer"),
                if page.verb == Some(Verb::Operate) {
                    403
                } else {
                    page.code
                },
            ),
        ];
        for (token, wanted) in who {
            let wanted = if page.verb.is_none() {
                page.code
            } else {
                wanted
            };
            let (code, answer) = ask(at, page, token).await;
            let what = format!("{} {} {} as {token:?}", page.method, page.path, page.body);
            assert_eq!(code, wanted, "{what}: {answer}");
            if let (Some(token), 401 | 403 | 503) = (token, code) {
                let own = matches!(token, "observer" | "operator" | "stranger");
                assert!(own || !answer.contains(token), "{what}: {answer}");
            }
            if code == 401 {
                let verb = page.verb.unwrap().as_str();
                assert!(
                    answer.contains(&format!("verb=\"{verb}\"")),
                    "{what}: {answer}"
                );
            }
            if page.code != 503 && code == 503 {
                assert!(
                    answer.contains("the API server is away"),
                    "{what}: {answer}"
                );
            }
        }
    }
}
