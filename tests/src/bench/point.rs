//! The kinds of load, and what is told of each.

use super::protocol::Protocol;
use super::wire::{Direction, Load, Shape};

/// What is measured, and its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) name: &'static str,
    pub(super) what: What,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// In every round.
    Load(Load),
    /// Memory, before there is any load.
    Memory,
    /// How long a sidecar needs until it is ready.
    Ready,
    /// Memory by how many services are known.
    Services,
    /// The program as a file.
    Binary,
}

/// All, in the order in which they are shown.
pub(super) const POINTS: [Point; 22] = [
    http1("http1-1k-c1", 1, 1 << 10, None),
    http1("http1-1k-c8", 8, 1 << 10, None),
    http1("http1-1k-c16", 16, 1 << 10, None),
    http1("http1-1k-c64", 64, 1 << 10, None),
    http1("http1-64k-c8", 8, 64 << 10, None),
    http1("http1-1k-1000rps", 8, 1 << 10, Some(1_000)),
    http1("http1-64k-500rps", 8, 64 << 10, Some(500)),
    of(Protocol::Http2, "http2-1k-c1", 1, 1 << 10, None),
    of(Protocol::Http2, "http2-1k-c8", 8, 1 << 10, None),
    of(Protocol::Http2, "http2-1k-c64", 64, 1 << 10, None),
    of(Protocol::Http2, "http2-64k-c8", 8, 64 << 10, None),
    of(Protocol::Grpc, "grpc-1k-c1", 1, 1 << 10, None),
    of(Protocol::Grpc, "grpc-1k-c8", 8, 1 << 10, None),
    of(Protocol::Grpc, "grpc-1k-c64", 64, 1 << 10, None),
    of(Protocol::Grpc, "grpc-1k-1000rps", 8, 1 << 10, Some(1_000)),
    point("tcp-up", Load::Stream(Direction::Up)),
    point("tcp-down", Load::Stream(Direction::Down)),
    point("tcp-connect", Load::Connections(8)),
    once("memory", What::Memory),
    once("ready", What::Ready),
    once("services", What::Services),
    once("binary", What::Binary),
];

const fn http1(name: &'static str, connections: usize, size: usize, rate: Option<u32>) -> Point {
    of(Protocol::Http1, name, connections, size, rate)
}

const fn of(
    protocol: Protocol,
    name: &'static str,
    connections: usize,
    size: usize,
    rate: Option<u32>,
) -> Point {
    let shape = Shape {
        protocol,
        connections,
        size,
        rate,
    };
    point(name, Load::Requests(shape))
}

const fn point(name: &'static str, load: Load) -> Point {
    once(name, What::Load(load))
}

const fn once(name: &'static str, what: What) -> Point {
    Point { name, what }
}

/// One value of a measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// In JSON.
    pub(super) key: &'static str,
    /// In the table.
    pub(super) title: &'static str,
    /// After the point.
    pub(super) digits: usize,
    /// Whether it is shown with its spread and its ratio, or as a median by itself.
    pub(super) compared: bool,
}

const fn compared(key: &'static str, title: &'static str, digits: usize) -> Column {
    Column {
        key,
        title,
        digits,
        compared: true,
    }
}

const fn shown(key: &'static str, title: &'static str, digits: usize) -> Column {
    Column {
        compared: false,
        ..compared(key, title, digits)
    }
}

const OWN: Column = shown("ownCpu", "own CPU", 1);
const RSS: [Column; 2] = [
    shown("clientResidentMiB", "RSS cl", 1),
    shown("serverResidentMiB", "RSS srv", 1),
];

/// Of requests as many as there can be.
const SATURATED: [Column; 8] = [
    compared("perSecond", "requests/s", 0),
    compared("cpuMicros", "CPU us/request", 1),
    OWN,
    shown("p50Micros", "p50 us", 0),
    shown("p99Micros", "p99 us", 0),
    shown("p999Micros", "p99.9 us", 0),
    RSS[0],
    RSS[1],
];

/// Of requests at a rate: the added ones are what they are longer than `direct`'s of the same round.
const PACED: [Column; 12] = [
    compared("addedP50Micros", "added p50 us", 0),
    compared("addedP99Micros", "added p99 us", 0),
    shown("addedP90Micros", "+p90", 0),
    shown("addedP999Micros", "+p99.9", 0),
    compared("cpuMicros", "CPU us/request", 1),
    shown("p50Micros", "p50 us", 0),
    shown("p90Micros", "p90 us", 0),
    shown("p99Micros", "p99 us", 0),
    shown("p999Micros", "p99.9 us", 0),
    shown("perSecond", "rate/s", 0),
    RSS[0],
    RSS[1],
];

const STREAM: [Column; 5] = [
    compared("gigabytesPerSecond", "GB/s", 2),
    compared("cpuSecondsPerGigabyte", "CPU s/GB", 2),
    shown("ownCpuSecondsPerGigabyte", "own CPU", 2),
    RSS[0],
    RSS[1],
];

const CONNECTIONS: [Column; 8] = [
    compared("perSecond", "connections/s", 0),
    shown("failed", "failed", 0),
    compared("cpuMicros", "CPU us/connection", 0),
    OWN,
    shown("p50Micros", "p50 us", 0),
    shown("p99Micros", "p99 us", 0),
    RSS[0],
    RSS[1],
];

const MEMORY: [Column; 6] = [
    shown("clientIdleMiB", "idle cl", 1),
    shown("serverIdleMiB", "idle srv", 1),
    compared("clientMiBPer1000Tcp", "1,000 TCP cl", 1),
    compared("serverMiBPer1000Tcp", "1,000 TCP srv", 1),
    compared("clientMiBPer1000Http1", "1,000 HTTP/1 cl", 1),
    shown("serverMiBPer1000Http1", "srv", 1),
];

const READY: [Column; 2] = [
    compared("millis", "ms to ready", 1),
    compared("millisAfterAnswer", "ms after answer", 1),
];
const SERVICES: [Column; 4] = [
    shown("clientMiB10", "10 services", 1),
    shown("clientMiB100", "100", 1),
    shown("clientMiB1000", "1,000", 1),
    shown("kibPerService", "KiB each", 2),
];
const BINARY: [Column; 1] = [shown("MiB", "stripped MiB", 1)];

/// Which values of [`PACED`] a latency is told with, and what of it is added.
pub(super) const ADDED: [(&str, &str); 4] = [
    ("addedP50Micros", "p50Micros"),
    ("addedP90Micros", "p90Micros"),
    ("addedP99Micros", "p99Micros"),
    ("addedP999Micros", "p999Micros"),
];

impl Column {
    /// Whether `direct`'s value of the same round is in it.
    pub(super) fn is_added(&self) -> bool {
        ADDED.iter().any(|(added, _)| *added == self.key)
    }
}

impl What {
    /// Whether it is measured in every round.
    pub(super) fn is_load(self) -> bool {
        matches!(self, Self::Load(_))
    }

    /// What a measurement of it tells, in this order.
    pub(super) fn columns(self) -> &'static [Column] {
        match self {
            Self::Load(Load::Requests(shape)) if shape.rate.is_some() => &PACED,
            Self::Load(Load::Requests(_)) => &SATURATED,
            Self::Load(Load::Stream(_)) => &STREAM,
            Self::Load(Load::Connections(_)) => &CONNECTIONS,
            Self::Memory => &MEMORY,
            Self::Ready => &READY,
            Self::Services => &SERVICES,
            Self::Binary => &BINARY,
        }
    }
}
