//! A small client, as the small ones are: it asks for the cluster's metadata, keeps a connection to every
//! broker that it needs, at the address that was advertised, and says what happened.
//!
//! It does not try again by itself. After an error it forgets the connection and what it knew of leaders, so
//! that the next call begins at the bootstrap addresses, as a client library does.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::requests::{Api, Head};
use super::wire::{Malformed, Reader, Writer};
use super::{Broker, Error, batch};
use crate::Pod;

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// What one fetch asks for, in bytes.
const FETCH_BYTES: i32 = 1 << 20;
/// That the leader is to have a message before it answers.
const ACKS: i16 = 1;
/// Offset behind the last record, by its meaning.
const LATEST: i64 = -1;

/// A record that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its offset in its partition.
    pub offset: i64,
    /// What it says.
    pub value: Vec<u8>,
}

/// A client in a pod.
#[derive(Debug)]
pub struct Client {
    pod: Pod,
    bootstrap: Vec<SocketAddr>,
    names: BTreeMap<String, IpAddr>,
    patience: Duration,
    brokers: Vec<Broker>,
    /// Leaders of the partitions of topics that were asked for.
    leaders: BTreeMap<String, BTreeMap<i32, i32>>,
    links: BTreeMap<i32, Link>,
    /// Connections that it has made.
    connections: u64,
}

impl Client {
    /// Begins at one of these addresses, and knows these names of brokers; each call may take this long.
    /// Connects when it has to.
    pub fn new(
        pod: &Pod,
        bootstrap: impl IntoIterator<Item = SocketAddr>,
        names: BTreeMap<String, IpAddr>,
        patience: Duration,
    ) -> Self {
        Self {
            pod: pod.clone(),
            bootstrap: bootstrap.into_iter().collect(),
            names,
            patience,
            brokers: Vec::new(),
            leaders: BTreeMap::new(),
            links: BTreeMap::new(),
            connections: 0,
        }
    }

    /// How many connections it has made so far.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// The brokers that it was told of last.
    pub fn brokers(&self) -> &[Broker] {
        &self.brokers
    }

    /// How many partitions a topic has.
    pub async fn partitions(&mut self, topic: &str) -> anyhow::Result<i32> {
        let asked = self.within(async |this| this.learn(topic).await).await;
        asked.with_context(|| format!("metadata of {topic}"))?;
        let leaders = self.leaders.get(topic);
        Ok(leaders.map_or(0, |leaders| leaders.len() as i32))
    }

    /// Adds records to a partition; the offset of the first of them.
    ///
    /// # Errors
    /// What its leader says against it, or what became of the connection: whether the records are there is
    /// not known then.
    pub async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        values: &[&[u8]],
    ) -> anyhow::Result<i64> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time = now.map_or(0, |now| now.as_millis() as i64);
        let batch = batch::encode(values, time);
        let patience = self.patience;
        let mut request = Writer::default();
        request
            .null_text()
            .i16(ACKS)
            .i32(patience.as_millis() as i32);
        request.array([topic], |request, topic| {
            request
                .text(topic)
                .array([partition], |request, partition| {
                    request.i32(partition).bytes(&batch);
                });
        });
        let answer = self
            .ask_leader(topic, partition, Api::Produce, request)
            .await?;
        let mut reader = Reader::new(&answer);
        let read = one_partition(&mut reader, |reader| {
            let code = reader.i16()?;
            let base = reader.i64()?;
            reader.i64()?;
            reader.i64()?;
            Ok((code, base))
        });
        let (code, base) = read?;
        self.check(code, topic, partition)?;
        Ok(base)
    }

    /// Records of a partition from an offset on; none where there are none within `wait`.
    ///
    /// # Errors
    /// As [`Self::produce`]; what is compressed or malformed.
    pub async fn fetch(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        wait: Duration,
    ) -> anyhow::Result<Vec<Message>> {
        let mut request = Writer::default();
        // No replica; until there is one byte; committed or not.
        request.i32(-1).i32(wait.as_millis() as i32).i32(1);
        request.i32(FETCH_BYTES).i8(0);
        request.array([topic], |request, topic| {
            request
                .text(topic)
                .array([partition], |request, partition| {
                    request.i32(partition).i64(offset).i64(0).i32(FETCH_BYTES);
                });
        });
        let answer = self
            .ask_leader(topic, partition, Api::Fetch, request)
            .await?;
        let mut reader = Reader::new(&answer);
        reader.i32()?;
        let read = one_partition(&mut reader, |reader| {
            let code = reader.i16()?;
            // Where the partition ends, is stable, and begins; transactions that were given up.
            for _ in 0..3 {
                reader.i64()?;
            }
            reader.array(|reader| Ok((reader.i64()?, reader.i64()?)))?;
            Ok((code, reader.bytes()?.to_vec()))
        });
        let (code, bytes) = read?;
        self.check(code, topic, partition)?;
        let mut messages = Vec::new();
        for batch in batch::split(&bytes) {
            let head = batch::head(batch)?;
            anyhow::ensure!(
                head.is_whole && head.is_plain,
                "a batch that cannot be read"
            );
            for (at, value) in batch::records(batch)? {
                if at >= offset {
                    messages.push(Message {
                        offset: at,
                        value: value.to_vec(),
                    });
                }
            }
        }
        Ok(messages)
    }

    /// The offset that the next record of a partition will have: what a consumer's lag is measured by.
    pub async fn end_offset(&mut self, topic: &str, partition: i32) -> anyhow::Result<i64> {
        let mut request = Writer::default();
        request.i32(-1).i8(0);
        request.array([topic], |request, topic| {
            request
                .text(topic)
                .array([partition], |request, partition| {
                    request.i32(partition).i64(LATEST);
                });
        });
        let answer = self
            .ask_leader(topic, partition, Api::ListOffsets, request)
            .await?;
        let mut reader = Reader::new(&answer);
        reader.i32()?;
        let read = one_partition(&mut reader, |reader| {
            let code = reader.i16()?;
            reader.i64()?;
            Ok((code, reader.i64()?))
        });
        let (code, offset) = read?;
        self.check(code, topic, partition)?;
        Ok(offset)
    }

    /// Asks whoever leads a partition, and forgets it where that fails.
    async fn ask_leader(
        &mut self,
        topic: &str,
        partition: i32,
        api: Api,
        request: Writer,
    ) -> anyhow::Result<Vec<u8>> {
        let request = request.into_bytes();
        let asked = self
            .within(async |this| {
                if !this.leaders.contains_key(topic) {
                    this.learn(topic).await?;
                }
                let leaders = this.leaders.get(topic);
                let leader = leaders.and_then(|leaders| leaders.get(&partition).copied());
                let leader = leader.context("nobody leads it")?;
                this.ask_broker(leader, api, &request).await
            })
            .await;
        asked.with_context(|| format!("{api:?} of {topic}/{partition}"))
    }

    async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let patience = self.patience;
        let done = match tokio::time::timeout(patience, work(self)).await {
            Ok(done) => done,
            Err(_) => Err(anyhow::anyhow!("not within {patience:?}")),
        };
        if done.is_err() {
            self.forget();
        }
        done
    }

    fn forget(&mut self) {
        self.leaders.clear();
        self.links.clear();
    }

    fn check(&mut self, code: i16, topic: &str, partition: i32) -> anyhow::Result<()> {
        let checked = Error::check(code);
        if checked.is_err() {
            self.forget();
        }
        checked.with_context(|| format!("{topic}/{partition}"))
    }

    async fn ask_broker(&mut self, id: i32, api: Api, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        if !self.links.contains_key(&id) {
            let broker = self.brokers.iter().find(|broker| broker.id == id);
            let Broker { host, port, .. } = broker.context("an unknown broker leads it")?;
            let address = host.parse().ok().or_else(|| self.names.get(host).copied());
            let address = address.with_context(|| format!("nobody knows the broker {host}"))?;
            let link = Link::open(&self.pod, SocketAddr::new(address, *port)).await;
            let link = link.with_context(|| format!("broker {id}, {host}:{port}"))?;
            self.connections += 1;
            self.links.insert(id, link);
        }
        let link = self.links.get_mut(&id).context("just connected")?;
        link.ask(api, request).await
    }

    /// Asks the first of the bootstrap addresses that answers who leads the partitions of a topic.
    async fn learn(&mut self, topic: &str) -> anyhow::Result<()> {
        let mut request = Writer::default();
        request.array([topic], |request, topic| {
            request.text(topic);
        });
        request.i8(1);
        let request = request.into_bytes();
        let mut refusals = Vec::new();
        for address in self.bootstrap.clone() {
            let asked = async {
                let mut link = Link::open(&self.pod, address).await?;
                link.ask(Api::Metadata, &request).await
            };
            match asked.await {
                Ok(answer) => {
                    self.connections += 1;
                    return self.read_metadata(topic, &answer);
                }
                Err(error) => refusals.push(format!("{address}: {error:#}")),
            }
        }
        anyhow::bail!("no broker answers: {}", refusals.join("; "))
    }

    fn read_metadata(&mut self, topic: &str, answer: &[u8]) -> anyhow::Result<()> {
        let mut reader = Reader::new(answer);
        reader.i32()?;
        let brokers = reader.array(|reader| {
            let (id, host) = (reader.i32()?, reader.text()?);
            let port = u16::try_from(reader.i32()?).map_err(|_| Malformed)?;
            reader.text()?;
            Ok(Broker { id, host, port })
        })?;
        self.brokers = brokers.unwrap_or_default();
        reader.text()?;
        reader.i32()?;
        let topics = reader.array(|reader| {
            let code = reader.i16()?;
            reader.text()?;
            reader.i8()?;
            let partitions = reader.array(|reader| {
                let (_, partition, leader) = (reader.i16()?, reader.i32()?, reader.i32()?);
                for _ in 0..3 {
                    reader.array(Reader::i32)?;
                }
                Ok((partition, leader))
            })?;
            Ok((code, partitions.unwrap_or_default()))
        })?;
        let (code, leaders) = topics
            .and_then(|topics| topics.into_iter().next())
            .context("no word of the topic")?;
        Error::check(code)?;
        self.leaders
            .insert(topic.to_owned(), leaders.into_iter().collect());
        Ok(())
    }
}

/// What an answer says of its one partition.
fn one_partition<T>(
    reader: &mut Reader<'_>,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, Malformed>,
) -> anyhow::Result<T> {
    let topics = reader.array(|reader| {
        reader.text()?;
        reader.array(|reader| {
            reader.i32()?;
            read(reader)
        })
    })?;
    let first = topics.into_iter().flatten().flatten().flatten().next();
    first.context("an answer without a partition")
}

/// A connection to one broker.
#[derive(Debug)]
struct Link {
    stream: TcpStream,
    sent: i32,
}

impl Link {
    /// Connects, and sees that the broker knows what is spoken here.
    async fn open(pod: &Pod, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = pod.connect(to).await?;
        let mut this = Self { stream, sent: 0 };
        let mut own = Writer::default();
        own.unsigned(5)
            .raw(b"weft")
            .unsigned(2)
            .raw(b"1")
            .unsigned(0);
        let answer = this.ask(Api::Versions, &own.into_bytes()).await?;
        let mut reader = Reader::new(&answer);
        Error::check(reader.i16()?)?;
        let count = reader.unsigned()?.saturating_sub(1);
        let mut needed = [Api::Metadata, Api::Produce, Api::Fetch, Api::ListOffsets].to_vec();
        for _ in 0..count {
            let (number, first, last) = (reader.i16()?, reader.i16()?, reader.i16()?);
            reader.unsigned()?;
            needed.retain(|api| {
                let known = super::requests::APIS
                    .iter()
                    .any(|it| it.0 == *api && it.1 == number);
                !(known && (first..=last).contains(&api.newest()))
            });
        }
        anyhow::ensure!(needed.is_empty(), "the broker does not know {needed:?}");
        Ok(this)
    }

    async fn ask(&mut self, api: Api, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.sent = self.sent.wrapping_add(1);
        let head = Head {
            api,
            version: api.newest(),
            correlation: self.sent,
        };
        let mut message = Writer::default();
        head.write(&mut message);
        message.raw(request);
        let mut whole = Writer::default();
        whole.bytes(&message.into_bytes());
        self.stream.write_all(&whole.into_bytes()).await?;
        let length = self.stream.read_u32().await? as usize;
        anyhow::ensure!((4..=MAX_ANSWER).contains(&length), "{length} bytes");
        let correlation = self.stream.read_i32().await?;
        anyhow::ensure!(correlation == self.sent, "an answer to something else");
        let mut answer = vec![0; length - 4];
        self.stream.read_exact(&mut answer).await?;
        Ok(answer)
    }
}
