//! A broker's side of a connection: requests one after another, each answered before the next is read.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::server::Shared;
use super::super::stats::Hasher;
use super::requests::{APIS, Api, Head};
use super::store::Found;
use super::wire::{Malformed, Reader, Writer};
use super::{Cluster, Error, batch};

/// Longest request, in bytes.
const MAX_REQUEST: usize = 8 << 20;
/// What an answer may have of records, in bytes.
const MAX_ANSWER: usize = 8 << 20;
/// The longest that a request for records may wait for some.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Fields that say that something does not exist.
const NONE: i32 = -1;
/// Offsets by their meaning instead of their number.
const EARLIEST: i64 = -2;

/// Serves until the peer closes, says what cannot be read, or the application ends.
pub(crate) async fn serve(app: Arc<Shared>, mut stream: TcpStream) {
    loop {
        let length = tokio::select! {
            length = stream.read_u32() => length,
            () = app.finish.cancelled() => return,
        };
        let Ok(length) = length else { return };
        if length as usize > MAX_REQUEST {
            return;
        }
        let mut request = vec![0; length as usize];
        if stream.read_exact(&mut request).await.is_err() {
            return;
        }
        let Ok(answer) = answer(&app, &request).await else {
            app.stats.lock().kafka("malformed", 1);
            return;
        };
        if let Some(answer) = answer
            && stream.write_all(&answer).await.is_err()
        {
            return;
        }
    }
}

/// The answer with its length; none to who wants none.
async fn answer(app: &Shared, request: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut reader = Reader::new(request);
    let head = Head::read(&mut reader)?;
    app.stats.lock().kafka(&format!("{:?}", head.api), 1);
    let mut writer = Writer::default();
    writer.i32(head.correlation);
    match head.api {
        Api::Versions => write_versions(&mut writer, head.version),
        Api::Metadata => metadata(app, &mut reader, &mut writer, head.version)?,
        Api::Produce => {
            if !produce(app, &mut reader, &mut writer, head.version)? {
                return Ok(None);
            }
        }
        Api::Fetch => fetch(app, &mut reader, &mut writer, head.version).await?,
        Api::ListOffsets => list_offsets(app, &mut reader, &mut writer, head.version)?,
        Api::FindCoordinator => find_coordinator(app, &mut writer, head.version),
        Api::InitProducerId => {
            let id = i64::from(fastrand::u32(..));
            writer.i32(0).i16(0).i64(id).i16(0);
        }
    }
    let body = writer.into_bytes();
    let mut whole = Writer::default();
    whole.bytes(&body);
    Ok(Some(whole.into_bytes()))
}

/// Whoever asks in a version of the future is answered in the first one, with an error.
fn write_versions(writer: &mut Writer, version: i16) {
    if version == 3 {
        writer.i16(0).unsigned(APIS.len() as u64 + 1);
        for (_, number, first, last) in APIS {
            writer.i16(number).i16(first).i16(last).unsigned(0);
        }
        writer.i32(0).unsigned(0);
        return;
    }
    let is_known = (0..3).contains(&version);
    writer.i16(if is_known { 0 } else { Error::Version.code() });
    writer.array(APIS, |writer, (_, number, first, last)| {
        writer.i16(number).i16(first).i16(last);
    });
    if is_known && version > 0 {
        writer.i32(0);
    }
}

fn metadata(
    app: &Shared,
    reader: &mut Reader<'_>,
    writer: &mut Writer,
    version: i16,
) -> Result<(), Malformed> {
    let asked = reader.array(Reader::text)?;
    let topics = asked.unwrap_or_else(|| app.kafka.topics());
    let cluster = app.kafka.cluster();
    if version >= 3 {
        writer.i32(0);
    }
    writer.array(&cluster.brokers, |writer, broker| {
        writer.i32(broker.id).text(&broker.host);
        writer.i32(broker.port.into()).null_text();
    });
    if version >= 2 {
        writer.text("weft-sandbox");
    }
    writer.i32(cluster.brokers.first().map_or(NONE, |broker| broker.id));
    writer.array(topics, |writer, topic| {
        write_topic(app, &cluster, writer, &topic, version);
    });
    Ok(())
}

fn write_topic(app: &Shared, cluster: &Cluster, writer: &mut Writer, topic: &str, version: i16) {
    let known = if cluster.brokers.is_empty() {
        Err(Error::NoLeader)
    } else {
        app.kafka.know(topic)
    };
    writer.i16(code(known)).text(topic).i8(0);
    let partitions = if known.is_ok() { cluster.partitions } else { 0 };
    let partitions: Vec<i32> = (0..partitions).collect();
    writer.array(partitions, |writer, partition| {
        let leader = cluster.leader(partition).unwrap_or(NONE);
        writer.i16(0).i32(partition).i32(leader);
        // It is its own only replica.
        for _ in 0..2 {
            writer.i32(1).i32(leader);
        }
        if version >= 5 {
            writer.i32(0);
        }
    });
}

/// Whether the client wants an answer.
fn produce(
    app: &Shared,
    reader: &mut Reader<'_>,
    writer: &mut Writer,
    version: i16,
) -> Result<bool, Malformed> {
    // The name of a transaction, and how long others may take.
    reader.text()?;
    let wants_answer = reader.i16()? != 0;
    reader.i32()?;
    let topics = reader.array(|reader| {
        let topic = reader.text()?;
        let partitions = reader.array(|reader| {
            let partition = reader.i32()?;
            let added = add(app, &topic, partition, reader.bytes()?);
            Ok((partition, added))
        })?;
        Ok((topic, partitions.unwrap_or_default()))
    })?;
    writer.array(topics.unwrap_or_default(), |writer, (topic, partitions)| {
        writer.text(&topic);
        writer.array(partitions, |writer, (partition, added)| {
            writer.i32(partition).i16(code(added));
            writer.i64(added.unwrap_or(-1)).i64(-1);
            if version >= 5 {
                writer.i64(0);
            }
        });
    });
    writer.i32(0);
    Ok(wants_answer)
}

fn add(app: &Shared, topic: &str, partition: i32, bytes: &[u8]) -> Result<i64, Error> {
    let added = app.kafka.add(topic, partition, bytes);
    let mut stats = app.stats.lock();
    let (base, head) = match added {
        Ok(added) => added,
        Err(error) => {
            count_refused(&mut stats, error);
            return Err(error);
        }
    };
    stats.kafka(&format!("produced {topic}/{partition}"), head.count as u64);
    // What is compressed is counted, and not looked into.
    let records = if head.is_plain {
        batch::records(bytes).unwrap_or_default()
    } else {
        Vec::new()
    };
    for (_, value) in records {
        let mut hash = Hasher::default();
        hash.update(value);
        stats.body_ended(hash);
    }
    Ok(base)
}

/// One partition that a client asks for.
struct Wanted {
    partition: i32,
    offset: i64,
    most: usize,
}

async fn fetch(
    app: &Shared,
    reader: &mut Reader<'_>,
    writer: &mut Writer,
    version: i16,
) -> Result<(), Malformed> {
    reader.i32()?;
    let wait = u64::try_from(reader.i32()?).unwrap_or(0);
    let least = reader.i32()?;
    let most = usize::try_from(reader.i32()?).unwrap_or(0).min(MAX_ANSWER);
    reader.i8()?;
    let topics = reader.array(|reader| {
        let topic = reader.text()?;
        let partitions = reader.array(|reader| {
            let partition = reader.i32()?;
            let offset = reader.i64()?;
            if version >= 5 {
                reader.i64()?;
            }
            let most = usize::try_from(reader.i32()?).unwrap_or(0);
            Ok(Wanted {
                partition,
                offset,
                most,
            })
        })?;
        Ok((topic, partitions.unwrap_or_default()))
    })?;
    let topics = topics.unwrap_or_default();
    let until = Instant::now() + Duration::from_millis(wait).min(MAX_WAIT);
    let found = loop {
        // Asked to be told before it looks, so that nothing falls in between.
        let added = app.kafka.added.notified();
        let mut added = std::pin::pin!(added);
        added.as_mut().enable();
        let (found, is_enough) = read_all(app, &topics, most, least);
        if is_enough || tokio::time::timeout_at(until, added).await.is_err() {
            break found;
        }
    };
    writer.i32(0);
    let mut found = found.into_iter();
    writer.array(&topics, |writer, (topic, partitions)| {
        writer.text(topic);
        writer.array(partitions, |writer, wanted| {
            let found = found.next().unwrap_or(Err(Error::Unknown));
            write_found(app, writer, version, (topic, wanted.partition), found);
        });
    });
    Ok(())
}

/// What there is of everything that is wanted, in order, and whether it need not wait for more.
fn read_all(
    app: &Shared,
    topics: &[(String, Vec<Wanted>)],
    most: usize,
    least: i32,
) -> (Vec<Result<Found, Error>>, bool) {
    let mut all = Vec::new();
    let mut room = most;
    let mut bytes = 0;
    let mut failed = false;
    for (topic, partitions) in topics {
        for wanted in partitions {
            let most = wanted.most.min(room);
            let found = app.kafka.read(topic, wanted.partition, wanted.offset, most);
            failed |= found.is_err();
            let found = found.map(|found| {
                let length: usize = found.batches.iter().map(bytes::Bytes::len).sum();
                // The first batch of all may be longer than what is wanted, no other.
                if bytes > 0 && length > room {
                    return Found {
                        end: found.end,
                        ..Found::default()
                    };
                }
                room = room.saturating_sub(length);
                bytes += length;
                found
            });
            all.push(found);
        }
    }
    let is_enough = failed || bytes >= usize::try_from(least).unwrap_or(0);
    (all, is_enough)
}

fn write_found(
    app: &Shared,
    writer: &mut Writer,
    version: i16,
    (topic, partition): (&str, i32),
    found: Result<Found, Error>,
) {
    let mut stats = app.stats.lock();
    let (error, found) = match found {
        Ok(found) => (0, found),
        Err(error) => {
            count_refused(&mut stats, error);
            (error.code(), Found::default())
        }
    };
    let records = found.records as u64;
    if records > 0 {
        stats.kafka(&format!("fetched {topic}/{partition}"), records);
    }
    writer.i32(partition).i16(error).i64(found.end);
    writer.i64(found.end);
    if version >= 5 {
        writer.i64(0);
    }
    // No transactions were given up.
    writer.i32(NONE);
    writer.bytes(&found.batches.concat());
}

fn list_offsets(
    app: &Shared,
    reader: &mut Reader<'_>,
    writer: &mut Writer,
    version: i16,
) -> Result<(), Malformed> {
    reader.i32()?;
    if version >= 2 {
        reader.i8()?;
        writer.i32(0);
    }
    let topics = reader.array(|reader| {
        let topic = reader.text()?;
        let partitions = reader.array(|reader| {
            let (partition, time) = (reader.i32()?, reader.i64()?);
            let found = app.kafka.read(&topic, partition, 0, 0);
            // Times of records are not looked for: everything is new.
            let offset = found.map(|found| if time == EARLIEST { 0 } else { found.end });
            Ok((partition, offset))
        })?;
        Ok((topic, partitions.unwrap_or_default()))
    })?;
    writer.array(topics.unwrap_or_default(), |writer, (topic, partitions)| {
        writer.text(&topic);
        writer.array(partitions, |writer, (partition, offset)| {
            if let Err(error) = offset {
                count_refused(&mut app.stats.lock(), error);
            }
            writer.i32(partition).i16(code(offset)).i64(-1);
            writer.i64(offset.unwrap_or(-1));
        });
    });
    Ok(())
}

/// There are no groups: whoever looks for a group's coordinator is told that there is none yet.
fn find_coordinator(app: &Shared, writer: &mut Writer, version: i16) {
    app.stats.lock().kafka("groups refused", 1);
    if version >= 1 {
        writer.i32(0);
    }
    writer.i16(Error::NoCoordinator.code());
    if version >= 1 {
        writer.null_text();
    }
    writer.i32(NONE).text("").i32(NONE);
}

fn count_refused(stats: &mut super::super::Stats, error: Error) {
    let what = match error {
        Error::NotLeader => "misdirected",
        _ => "refused",
    };
    stats.kafka(what, 1);
}

fn code<T>(result: Result<T, Error>) -> i16 {
    result.err().map_or(0, Error::code)
}
