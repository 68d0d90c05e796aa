//! Bytes: the first of a connection says what is to become of the others.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Counter, Direction, connect};

/// One write or read at most.
const CHUNK: usize = 256 << 10;
/// What goes there and back on a connection that is soon over, its first byte included.
const ECHO: usize = 1 << 10;

/// The server takes all until the end, and then says how many bytes these were.
const TAKE: u8 = 1;
/// The server gives until nobody takes.
const GIVE: u8 = 2;
/// The server returns [`ECHO`] bytes and closes.
const RETURN: u8 = 3;
/// The server returns [`ECHO`] bytes and leaves it at that.
const STAY: u8 = 4;

/// After a connection that failed: who has no room for more is not helped by the next.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// Serves until it is dropped.
pub(in crate::bench) async fn serve(listener: TcpListener) {
    let gift: Rc<[u8]> = vec![b'x'; CHUNK].into();
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let gift = Rc::clone(&gift);
        connections.spawn_local(async move {
            // The client tells what went wrong.
            let _ = attend(stream, &gift).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn attend(mut stream: TcpStream, gift: &[u8]) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; ECHO];
    stream.read_exact(&mut buffer[..1]).await?;
    match buffer[0] {
        TAKE => {
            let taken = drain(&mut stream).await? + 1;
            stream.write_all(&taken.to_be_bytes()).await?;
        }
        GIVE => loop {
            stream.write_all(gift).await?;
        },
        word @ (RETURN | STAY) => {
            stream.read_exact(&mut buffer[1..]).await?;
            stream.write_all(&buffer).await?;
            if word == STAY {
                drain(&mut stream).await?;
            }
        }
        other => anyhow::bail!("nobody says {other}"),
    }
    Ok(())
}

/// Reads until the end; how many bytes. Has nothing on the heap while there is nothing to read.
async fn drain(stream: &mut TcpStream) -> anyhow::Result<u64> {
    let mut taken = 0;
    loop {
        stream.readable().await?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match stream.try_read(&mut buffer) {
                Ok(0) => return Ok(taken),
                Ok(read) => taken += read as u64,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Bytes one way until the end; how many count.
pub(super) async fn stream(
    to: SocketAddr,
    direction: Direction,
    counter: Counter,
) -> anyhow::Result<u64> {
    let mut stream = connect(to).await?;
    match direction {
        Direction::Up => give(&mut stream, &counter).await,
        Direction::Down => take(&mut stream, &counter).await,
    }
}

/// Counts what the server has got in the end, too: what was only sent is no throughput.
async fn give(stream: &mut TcpStream, counter: &Counter) -> anyhow::Result<u64> {
    let chunk = vec![TAKE; CHUNK];
    let (mut counted, mut sent) = (0, 0);
    loop {
        let wrote = stream.write(&chunk).await.context("sending")? as u64;
        sent += wrote;
        let now = Instant::now();
        if counter.counts(now) {
            counted += wrote;
        }
        if now >= counter.end {
            break;
        }
    }
    stream.shutdown().await?;
    let got = stream.read_u64().await.context("the server's count")?;
    anyhow::ensure!(got == sent, "the server got {got} bytes of {sent}");
    Ok(counted)
}

async fn take(stream: &mut TcpStream, counter: &Counter) -> anyhow::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    stream.write_all(&[GIVE]).await.context("sending")?;
    let mut counted = 0;
    loop {
        let read = stream.read(&mut buffer).await.context("receiving")? as u64;
        anyhow::ensure!(read > 0, "the server gives no more");
        let now = Instant::now();
        if counter.counts(now) {
            counted += read;
        }
        if now >= counter.end {
            return Ok(counted);
        }
    }
}

/// One connection after the other until the end; how many count. One that fails is counted as such.
pub(super) async fn connections(to: SocketAddr, counter: Counter) -> anyhow::Result<u64> {
    let mut counted = 0;
    loop {
        let due = Instant::now();
        let came = echo(to).await;
        let now = Instant::now();
        match came {
            Ok(()) => counted += u64::from(counter.record(due, now)?),
            Err(error) => {
                counter.fail(now, error);
                sleep(AFTER_FAILURE).await;
            }
        }
        if now >= counter.end {
            return Ok(counted);
        }
    }
}

/// A connection, 1 KiB there and back. The server closes first: its ends, which need no port of their own,
/// wait for what may still be under way, and no client runs out of ports.
pub(super) async fn echo(to: SocketAddr) -> anyhow::Result<()> {
    let mut stream = connect(to).await?;
    ask(&mut stream, RETURN).await?;
    let more = stream.read(&mut [0; 1]).await.context("the end")?;
    anyhow::ensure!(more == 0, "more than was sent");
    Ok(())
}

/// A connection that is left open after 1 KiB there and back.
pub(super) async fn hold(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = connect(to).await?;
    ask(&mut stream, STAY).await?;
    Ok(stream)
}

async fn ask(stream: &mut TcpStream, word: u8) -> anyhow::Result<()> {
    let said = [word; ECHO];
    stream.write_all(&said).await.context("sending")?;
    let mut heard = [0; ECHO];
    stream.read_exact(&mut heard).await.context("the echo")?;
    anyhow::ensure!(heard == said, "other bytes than were sent");
    Ok(())
}
