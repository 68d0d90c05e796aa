//! A small client of AMQP 0-9-1, the protocol of RabbitMQ: durable queues, persistent messages that the
//! broker confirms, deliveries that are acknowledged one by one.
//!
//! Numbers of classes and methods are those of the AMQP 0-9-1 specification and of RabbitMQ's extension for
//! confirmations. One channel, no heartbeats: who is silent is not known to be gone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;

use super::Counts;
use super::wire::Wire;
use crate::Pod;

/// Kinds of frames, and what each ends with.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;
/// Methods, class and number.
const START: (u16, u16) = (10, 10);
const START_OK: (u16, u16) = (10, 11);
const TUNE: (u16, u16) = (10, 30);
const TUNE_OK: (u16, u16) = (10, 31);
const OPEN: (u16, u16) = (10, 40);
const OPEN_OK: (u16, u16) = (10, 41);
const CLOSE: (u16, u16) = (10, 50);
const CHANNEL_OPEN: (u16, u16) = (20, 10);
const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const DECLARE: (u16, u16) = (50, 10);
const DECLARE_OK: (u16, u16) = (50, 11);
const QOS: (u16, u16) = (60, 10);
const QOS_OK: (u16, u16) = (60, 11);
const CONSUME: (u16, u16) = (60, 20);
const CONSUME_OK: (u16, u16) = (60, 21);
const PUBLISH: (u16, u16) = (60, 40);
const DELIVER: (u16, u16) = (60, 60);
const ACK: (u16, u16) = (60, 80);
const CONFIRM: (u16, u16) = (85, 10);
const CONFIRM_OK: (u16, u16) = (85, 11);
/// The one channel.
const CHANNEL: u16 = 1;
/// Of a queue: it outlives the broker's end.
const DURABLE: u8 = 0b10;
/// Property of a message: its mode of delivery follows, here that it is kept on disk.
const HAS_DELIVERY_MODE: u16 = 0x1000;
const PERSISTENT: u8 = 2;
/// Longest frame and message, in bytes.
const MAX_FRAME: u32 = 128 * 1024;
const MAX_MESSAGE: u64 = 16 << 20;
/// What a frame has beside its content.
const FRAME_REST: usize = 8;
/// Deliveries at a time that were not acknowledged.
const PREFETCH: u16 = 100;
/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection with its channel. After an error it is of no more use.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    frame_max: usize,
}

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What it says; what is no UTF-8 is replaced.
    pub text: String,
    /// It was delivered before, and not acknowledged.
    pub redelivered: bool,
    tag: u64,
}

impl Connection {
    /// Connects out of the pod as `guest` and opens a channel on which the broker confirms.
    ///
    /// # Errors
    /// Where nobody answers in time, or the broker refuses.
    pub async fn connect(pod: &Pod, to: SocketAddr) -> anyhow::Result<Self> {
        let wire = Wire::connect(pod, to, PATIENCE).await?;
        let mut this = Self {
            wire,
            frame_max: MAX_FRAME as usize,
        };
        tokio::time::timeout(PATIENCE, this.agree())
            .await
            .with_context(|| format!("no agreement within {PATIENCE:?}"))??;
        Ok(this)
    }

    /// Makes a durable queue where there is none; how many messages wait in it.
    pub async fn declare(&mut self, queue: &str) -> anyhow::Result<u32> {
        let arguments = Arguments::new().short(0).text(queue)?.byte(DURABLE).long(0);
        let answer = self.call(CHANNEL, DECLARE, arguments, DECLARE_OK).await?;
        let name = usize::from(*answer.first().context("an empty answer")?);
        let count = answer.get(1 + name..5 + name).context("no count")?;
        Ok(u32::from_be_bytes(count.try_into()?))
    }

    /// Publishes a persistent message to a queue, and waits until the broker has it.
    ///
    /// # Errors
    /// Where the broker does not confirm in time: whether it has the message is not known then.
    pub async fn publish(&mut self, queue: &str, text: &str) -> anyhow::Result<()> {
        let arguments = Arguments::new().short(0).text("")?.text(queue)?.byte(0);
        self.send(CHANNEL, PUBLISH, arguments).await?;
        let header = Arguments::new()
            .short(PUBLISH.0)
            .short(0)
            .longlong(text.len() as u64)
            .short(HAS_DELIVERY_MODE)
            .byte(PERSISTENT);
        self.frame(HEADER, CHANNEL, &header.0).await?;
        for part in text.as_bytes().chunks(self.frame_max - FRAME_REST) {
            self.frame(BODY, CHANNEL, part).await?;
        }
        let confirmed = tokio::time::timeout(PATIENCE, self.expect(ACK)).await;
        confirmed.context("the broker has not confirmed")??;
        Ok(())
    }

    /// Asks for the messages of a queue.
    pub async fn consume(&mut self, queue: &str) -> anyhow::Result<()> {
        let arguments = Arguments::new().long(0).short(PREFETCH).byte(0);
        self.call(CHANNEL, QOS, arguments, QOS_OK).await?;
        let arguments = Arguments::new()
            .short(0)
            .text(queue)?
            .text("")?
            .byte(0)
            .long(0);
        self.call(CHANNEL, CONSUME, arguments, CONSUME_OK).await?;
        Ok(())
    }

    /// The next message, however long it takes.
    pub async fn next(&mut self) -> anyhow::Result<Delivery> {
        let arguments = self.expect(DELIVER).await?;
        let tag = usize::from(*arguments.first().context("an empty delivery")?);
        let rest = arguments.get(1 + tag..10 + tag).context("no tag")?;
        let redelivered = rest[8] & 1 == 1;
        let tag = u64::from_be_bytes(rest[..8].try_into()?);
        let header = self.content(HEADER).await?;
        let length = header.get(4..12).context("no length")?;
        let length = u64::from_be_bytes(length.try_into()?);
        anyhow::ensure!(length <= MAX_MESSAGE, "a message of {length} bytes");
        let mut body = Vec::new();
        while (body.len() as u64) < length {
            body.extend(self.content(BODY).await?);
        }
        Ok(Delivery {
            text: String::from_utf8_lossy(&body).into_owned(),
            redelivered,
            tag,
        })
    }

    /// Says that a message need not come again.
    pub async fn acknowledge(&mut self, delivery: &Delivery) -> anyhow::Result<()> {
        let arguments = Arguments::new().longlong(delivery.tag).byte(0);
        self.send(CHANNEL, ACK, arguments).await
    }

    async fn agree(&mut self) -> anyhow::Result<()> {
        self.wire.send(b"AMQP\0\0\x09\x01").await?;
        self.expect(START).await?;
        let arguments = Arguments::new()
            .long(0)
            .text("PLAIN")?
            .long_text("\0guest\0guest")
            .text("en_US")?;
        self.send(0, START_OK, arguments).await?;
        let tune = self.expect(TUNE).await?;
        let offered = tune.get(2..6).context("no size of frames")?;
        let offered = u32::from_be_bytes(offered.try_into()?);
        // 0 is no limit.
        let frame = if offered == 0 { MAX_FRAME } else { offered }.min(MAX_FRAME);
        anyhow::ensure!(frame as usize > FRAME_REST, "frames of {frame} bytes");
        self.frame_max = frame as usize;
        let arguments = Arguments::new().short(CHANNEL).long(frame).short(0);
        self.send(0, TUNE_OK, arguments).await?;
        let arguments = Arguments::new().text("/")?.text("")?.byte(0);
        self.call(0, OPEN, arguments, OPEN_OK).await?;
        let arguments = Arguments::new().text("")?;
        self.call(CHANNEL, CHANNEL_OPEN, arguments, CHANNEL_OPEN_OK)
            .await?;
        let arguments = Arguments::new().byte(0);
        self.call(CHANNEL, CONFIRM, arguments, CONFIRM_OK).await?;
        Ok(())
    }

    async fn call(
        &mut self,
        channel: u16,
        method: (u16, u16),
        arguments: Arguments,
        answer: (u16, u16),
    ) -> anyhow::Result<Vec<u8>> {
        self.send(channel, method, arguments).await?;
        tokio::time::timeout(PATIENCE, self.expect(answer))
            .await
            .with_context(|| format!("no answer to {method:?} within {PATIENCE:?}"))?
    }

    async fn send(
        &mut self,
        channel: u16,
        (class, method): (u16, u16),
        arguments: Arguments,
    ) -> anyhow::Result<()> {
        let head = Arguments::new().short(class).short(method);
        self.frame(METHOD, channel, &[head.0, arguments.0].concat())
            .await
    }

    async fn frame(&mut self, kind: u8, channel: u16, content: &[u8]) -> anyhow::Result<()> {
        let mut frame = Arguments::new()
            .byte(kind)
            .short(channel)
            .long(content.len() as u32)
            .0;
        frame.extend_from_slice(content);
        frame.push(FRAME_END);
        Ok(self.wire.send(&frame).await?)
    }

    /// The arguments of the next method, which is to be this one.
    async fn expect(&mut self, wanted: (u16, u16)) -> anyhow::Result<Vec<u8>> {
        let content = self.content(METHOD).await?;
        let (head, arguments) = content.split_at_checked(4).context("a short method")?;
        let class = u16::from_be_bytes([head[0], head[1]]);
        let found = (class, u16::from_be_bytes([head[2], head[3]]));
        if found == CLOSE || found == CHANNEL_CLOSE {
            let said = arguments.get(3..).unwrap_or_default();
            anyhow::bail!("the broker closes: {}", String::from_utf8_lossy(said));
        }
        anyhow::ensure!(found == wanted, "{found:?} came instead of {wanted:?}");
        Ok(arguments.to_vec())
    }

    async fn content(&mut self, wanted: u8) -> anyhow::Result<Vec<u8>> {
        let kind = self.wire.byte().await?;
        self.wire.bytes(2, 2).await?;
        let length = self.wire.u32().await? as usize;
        let content = self.wire.bytes(length, MAX_FRAME as usize).await?;
        let end = self.wire.byte().await?;
        anyhow::ensure!(
            end == FRAME_END && kind == wanted,
            "a frame of kind {kind} instead of {wanted}"
        );
        Ok(content)
    }
}

/// A consumer in the background, which acknowledges what comes and connects again after a pause. Ends when
/// dropped.
#[derive(Debug)]
pub struct Consumer {
    counts: Counts,
    task: JoinHandle<()>,
}

impl Consumer {
    /// Starts one of a queue, which it makes where there is none.
    pub fn start(pod: &Pod, to: SocketAddr, queue: &str, pause: Duration) -> Self {
        let counts = Counts::default();
        let (pod, queue, seen) = (pod.clone(), queue.to_owned(), counts.clone());
        let task = tokio::spawn(async move {
            loop {
                let error = match take(&pod, to, &queue, &seen).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                seen.loses(&error);
                tokio::time::sleep(pause).await;
            }
        });
        Self { counts, task }
    }

    /// What it has lived through, and every message with how often it came.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(
    pod: &Pod,
    to: SocketAddr,
    queue: &str,
    counts: &Counts,
) -> anyhow::Result<std::convert::Infallible> {
    let mut connection = Connection::connect(pod, to).await?;
    connection.declare(queue).await?;
    connection.consume(queue).await?;
    counts.connects();
    loop {
        let delivery = connection.next().await?;
        counts.does(&delivery.text);
        connection.acknowledge(&delivery).await?;
    }
}

/// Arguments of a method, written one after another.
struct Arguments(Vec<u8>);

impl Arguments {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn byte(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn short(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Also the length of an empty table.
    fn long(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn longlong(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// At most 255 bytes.
    fn text(mut self, text: &str) -> anyhow::Result<Self> {
        self.0
            .push(u8::try_from(text.len()).context("a long name")?);
        self.0.extend(text.as_bytes());
        Ok(self)
    }

    fn long_text(self, text: &str) -> Self {
        let mut this = self.long(text.len() as u32);
        this.0.extend(text.as_bytes());
        this
    }
}
