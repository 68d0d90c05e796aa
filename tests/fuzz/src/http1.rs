//! Requests of an HTTP/1 client through server, handler and pool, to a server that reads strictly.
//!
//! Input: what the client sends; then, behind a separator, the sizes of the pieces that it comes in.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::input::{part, pieces};
use crate::parties::{Core, QUIET, hear, run, write};
use crate::strict::{self, Framing, Head, Read, Request};

/// What the server was asked, in order.
type Asked = Arc<Mutex<Vec<Served>>>;

#[derive(Debug)]
struct Served {
    request: Request,
    /// It has left HTTP.
    granted: bool,
}

/// Upstream come exactly the requests that a strict reader finds in the client's bytes and that were
/// not refused, each once and whole. What comes back is as many whole answers, then an end. Nothing
/// hangs.
pub fn target(data: &[u8]) {
    let (bytes, sizes) = (part(data, 0), part(data, 1));
    run(async {
        let (core, mut streams) = Core::new();
        let asked = Asked::default();
        let served = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(stream) = streams.recv().await {
                tokio::spawn(serve(stream, Arc::clone(&served)));
            }
        });

        let (mut client, task) = core.serve();
        let mut heard = Vec::new();
        write(&mut client, &pieces(bytes, sizes)).await;
        if !hear(&mut client, &mut heard).await {
            let _ = client.shutdown().await;
            let ended = hear(&mut client, &mut heard).await;
            assert!(ended, "no end after {:?}", String::from_utf8_lossy(&heard));
        }
        drop(client);
        let ended = tokio::time::timeout(QUIET, task).await;
        assert!(
            matches!(ended, Ok(Ok(()))),
            "the connection goes on: {ended:?}"
        );

        let served = asked.lock();
        let log = core.log.lock();
        let leaves = |number| {
            let at = log.sent.iter().position(|sent| *sent == number);
            at.and_then(|at| served.get(at))
                .is_some_and(|it| it.granted)
        };
        let (told, tunnel) = strict::requests(bytes, leaves);
        upstream(&told, &log.handled, &log.sent, &served);
        let echo = downstream(&told, log.handled.len(), log.refused, &heard);
        assert_eq!(echo, tunnel, "what follows HTTP is passed on as it is");
    });
}

fn upstream(told: &[Request], handled: &[(String, String)], sent: &[usize], served: &[Served]) {
    assert!(handled.len() <= told.len(), "{handled:?} of {told:?}");
    for (handled, told) in handled.iter().zip(told) {
        assert_eq!(handled.0, told.head.method());
        assert!(same_target(&handled.1, told.head.target()));
    }
    let whole = sent.iter().map(|number| &told[*number]);
    let whole: Vec<_> = whole.filter(|request| request.body.is_some()).collect();
    assert_eq!(served.len(), whole.len(), "{served:?} of {whole:?}");
    for (served, told) in served.iter().zip(whole) {
        assert_eq!(served.request.head.method(), told.head.method());
        let target = served.request.head.target();
        assert!(
            same_target(target, told.head.target()),
            "{target:?} of {told:?}"
        );
        assert_eq!(served.request.body, told.body);
    }
}

/// The library writes targets in absolute form its own way.
fn same_target(one: &str, other: &str) -> bool {
    let normal = |text: &str| text.parse::<http::Uri>().map(|uri| uri.to_string());
    one == other || matches!((normal(one), normal(other)), (Ok(one), Ok(other)) if one == other)
}

/// Judges what came back; returns what followed the last answer, where it left HTTP.
fn downstream<'h>(
    told: &[Request],
    handled: usize,
    refused: usize,
    heard: &'h [u8],
) -> Option<&'h [u8]> {
    let (answers, behind) = answers(told, heard);
    let is_whole = behind != Behind::Part;
    let last = handled.checked_sub(1).map(|last| &told[last]);
    // A request that breaks off may not get its answer.
    let broken = last.is_some_and(|last| last.body.is_none());
    assert!(is_whole || broken, "a part of an answer: {heard:?}");
    // The library itself refuses what the guard has let through, and what never ends.
    let own = usize::from(answers.len() > handled + refused);
    assert!(answers.len() <= handled + refused + own);
    assert!(answers.len() + usize::from(broken) >= handled + refused);
    if own > 0 {
        let status = answers.last().map_or(0, Head::status);
        assert!((400..500).contains(&status), "{answers:?}");
    }
    let ends = |head: &Head| head.lists("connection", "close") || head.start[2] == "HTTP/1.0";
    // A refusal of the sidecar's leaves the body unread: the connection cannot go on.
    let refuses = |head: &Head| !head.values("x-weft-outcome").is_empty();
    let ended = last.is_some_and(|last| ends(&last.head))
        || answers
            .last()
            .is_some_and(|head| ends(head) || refuses(head));
    assert!(
        handled == told.len() || refused + own > 0 || ended || broken,
        "{handled} of {told:?}: {answers:?}",
    );
    match behind {
        Behind::Tunnel(bytes) => Some(bytes),
        Behind::Nothing | Behind::Part => None,
    }
}

/// What follows the last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind<'h> {
    Nothing,
    /// It is not whole itself.
    Part,
    /// Bytes that are no HTTP.
    Tunnel(&'h [u8]),
}

/// The heads of the answers that were heard, without interim ones.
fn answers<'h>(told: &[Request], heard: &'h [u8]) -> (Vec<Head>, Behind<'h>) {
    let mut answers = Vec::new();
    let mut rest = heard;
    while !rest.is_empty() {
        let told = told.get(answers.len());
        let to = told.map_or("GET", |told| told.head.method());
        let (head, framing) = match strict::response_head(rest, to) {
            Read::Whole(found, len) => {
                rest = &rest[len..];
                found
            }
            Read::Part => return (answers, Behind::Part),
            Read::Bad(why) => panic!("{why} in an answer: {:?}", String::from_utf8_lossy(heard)),
        };
        let leaves = head.leaves(to);
        if head.status() < 200 && !leaves {
            continue;
        }
        answers.push(head);
        if leaves {
            return (answers, Behind::Tunnel(rest));
        }
        match strict::body(rest, framing) {
            Read::Whole(_, len) => rest = &rest[len..],
            // What could not be read may have been a HEAD.
            _ if told.is_none() && rest.is_empty() => {}
            _ => return (answers, Behind::Part),
        }
    }
    (answers, Behind::Nothing)
}

/// Answers each request when it is whole. CONNECT, and a wish for `x`, are granted; what follows is
/// sent back.
async fn serve(mut stream: DuplexStream, asked: Asked) {
    let mut heard = Vec::new();
    let mut taken = 0;
    loop {
        let rest = &heard[taken..];
        let Some((request, len)) = request(rest) else {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => heard.extend_from_slice(&buffer[..read]),
            }
            continue;
        };
        taken += len;
        let head = &request.head;
        let upgrades = head.lists("upgrade", "x") && head.lists("connection", "upgrade");
        let connects = head.method() == "CONNECT";
        let answer = match (connects, upgrades, head.method()) {
            (true, ..) => "HTTP/1.1 200 OK\r\n\r\n",
            (_, true, _) => "HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            (.., "HEAD") => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
        };
        let granted = connects || upgrades;
        asked.lock().push(Served { request, granted });
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        if granted {
            let _ = stream.write_all(&heard[taken..]).await;
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
            return;
        }
    }
}

/// The request that `bytes` begin with, where it is whole. What a sidecar sends is always one.
fn request(bytes: &[u8]) -> Option<(Request, usize)> {
    let bad = |why| -> ! { panic!("{why} upstream: {:?}", String::from_utf8_lossy(bytes)) };
    let ((head, framing), head_len) = match strict::request_head(bytes) {
        Read::Whole(found, len) => (found, len),
        Read::Part => return None,
        Read::Bad(why) => bad(why),
    };
    assert_ne!(framing, Framing::UntilClose);
    match strict::body(&bytes[head_len..], framing) {
        Read::Whole(body, len) => {
            let body = Some(body);
            Some((Request { head, body }, head_len + len))
        }
        Read::Part => None,
        Read::Bad(why) => bad(why),
    }
}
