//! A hostile server's bytes on their way to clients.
//!
//! Input: what the server sends when the first request has come; then, each behind a separator, the sizes
//! of its pieces, and one byte that says how the first client asks.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::input::{part, pieces};
use crate::parties::{Core, hear, run, write};
use crate::strict::{self, Head, Read};

/// How a client asks: its method, and the whole request.
const ASKED: [(&str, &str); 6] = [
    ("GET", "GET /hostile HTTP/1.1\r\nhost: a\r\n\r\n"),
    ("HEAD", "HEAD /hostile HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        "POST",
        "POST /hostile HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
    ),
    (
        "CONNECT",
        "CONNECT hostile:1 HTTP/1.1\r\nhost: hostile:1\r\n\r\n",
    ),
    (
        "GET",
        "GET /hostile HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    ),
    (
        "POST",
        "POST /hostile HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ),
];
const HONEST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nx-honest: yes\r\n\r\nhonest";

/// The client that asked gets at most one answer, well formed. Every other client gets the answer that
/// the server gave to its own request, or a refusal of the sidecar's.
pub fn target(data: &[u8]) {
    let script = Script {
        bytes: part(data, 0).to_vec(),
        sizes: part(data, 1).to_vec(),
        closes: part(data, 2).first().is_some_and(|byte| byte & 0x80 != 0),
    };
    let how = part(data, 2)
        .first()
        .map_or(0, |byte| usize::from(byte & 0x7f));
    let (method, asked) = ASKED[how % ASKED.len()];
    run(async {
        let (core, mut streams) = Core::new();
        let script = Arc::new(Mutex::new(Some(script)));
        tokio::spawn(async move {
            while let Some(stream) = streams.recv().await {
                tokio::spawn(serve(stream, Arc::clone(&script)));
            }
        });
        let (mut first, _task) = core.serve();
        let mut heard = Vec::new();
        write(&mut first, &[asked.as_bytes()]).await;
        let ended = hear(&mut first, &mut heard).await;
        judge(method, &heard, ended);
        drop(first);

        // The same client connection for two, so that an answer too many would be found.
        let (mut other, _task) = core.serve();
        for path in ["/b", "/c"] {
            let mut heard = Vec::new();
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            write(&mut other, &[request.as_bytes()]).await;
            hear(&mut other, &mut heard).await;
            let text = String::from_utf8_lossy(&heard);
            let (heads, bodies) = answers("GET", &heard).expect("a well-formed answer");
            let [head] = &heads[..] else {
                panic!("{path} was answered with {text}");
            };
            let honest = head.values("x-honest") == [b"yes"] && bodies == [b"honest"];
            let ours = head.values("x-weft-outcome").len() == 1;
            assert!(honest || ours, "{path} was answered with {text}");
            if head.lists("connection", "close") {
                break;
            }
        }
    });
}

/// What the first client hears is well formed as far as it goes, and one answer at most.
fn judge(method: &str, heard: &[u8], ended: bool) {
    let text = String::from_utf8_lossy(heard);
    match answers(method, heard) {
        Ok((heads, _)) => assert!(heads.len() <= 1, "{text}"),
        // The server broke off, or goes on for ever; hostile bytes end nothing.
        Err(Broken::Part) => {}
        Err(Broken::Bad(why)) => panic!("{why}, ended {ended}: {text}"),
    }
}

#[derive(Debug)]
enum Broken {
    Part,
    Bad(&'static str),
}

/// Final answers with their bodies, to requests of one method.
fn answers(method: &str, heard: &[u8]) -> Result<(Vec<Head>, Vec<Vec<u8>>), Broken> {
    let (mut heads, mut bodies) = (Vec::new(), Vec::new());
    let mut rest = heard;
    while !rest.is_empty() {
        let (head, framing) = match strict::response_head(rest, method) {
            Read::Whole(found, len) => {
                rest = &rest[len..];
                found
            }
            Read::Part => return Err(Broken::Part),
            Read::Bad(why) => return Err(Broken::Bad(why)),
        };
        let leaves = head.leaves(method);
        if head.status() < 200 && !leaves {
            continue;
        }
        heads.push(head);
        if leaves {
            return Ok((heads, bodies));
        }
        match strict::body(rest, framing) {
            Read::Whole(body, len) => {
                bodies.push(body);
                rest = &rest[len..];
            }
            Read::Part => return Err(Broken::Part),
            Read::Bad(why) => return Err(Broken::Bad(why)),
        }
    }
    Ok((heads, bodies))
}

struct Script {
    bytes: Vec<u8>,
    sizes: Vec<u8>,
    /// The connection is ended behind the bytes.
    closes: bool,
}

/// Answers the first request of all with the script, and every other one honestly.
async fn serve(mut stream: DuplexStream, script: Arc<Mutex<Option<Script>>>) {
    let mut heard = Vec::new();
    loop {
        let whole = match strict::request_head(&heard) {
            Read::Whole((_, framing), head_len) => {
                match strict::body(&heard[head_len..], framing) {
                    Read::Whole(_, len) => Some(head_len + len),
                    Read::Part => None,
                    Read::Bad(why) => panic!("{why} upstream"),
                }
            }
            Read::Part => None,
            Read::Bad(why) => panic!("{why} upstream"),
        };
        let Some(len) = whole else {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => heard.extend_from_slice(&buffer[..read]),
            }
            continue;
        };
        let is_first = find(&heard[..len], b"hostile");
        heard.drain(..len);
        let now = script.lock().take_if(|_| is_first);
        let Some(script) = now else {
            if stream.write_all(HONEST.as_bytes()).await.is_err() {
                return;
            }
            continue;
        };
        write(&mut stream, &pieces(&script.bytes, &script.sizes)).await;
        if script.closes {
            return;
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
