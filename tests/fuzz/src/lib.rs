//! What hostile bytes must not do: one function per reader of bytes from outside.
//!
//! Each target takes any bytes and panics where a promise is broken: libFuzzer looks for such bytes
//! (`libfuzzer/`), and ordinary tests replay what it has found (`corpus/`, `tests/replay.rs`). A target
//! depends on its bytes alone: no clock, no randomness, no state that outlives it.
//!
//! * [`detection`]: a verdict about a protocol never changes, and is that of a slow reading.
//! * [`client_hello`]: so does the verdict about TLS; names that end in labels are plain.
//! * [`http1`]: requests through server, handler and client: as many upstream as a strict reader of the
//!   client's bytes counts, with the same bodies; everything ends.
//! * [`http1_answers`]: a server's bytes are never taken for the answer to somebody else's request.
//! * [`http2_frames`]: no frames make more requests than they have heads.
//! * [`headers`]: what concerns one connection is removed, and nothing else.
//! * [`route`]: the route is that of a slow, obvious matcher.
//! * [`spiffe`]: ids print back; [`certificate`]: a certificate has the id that another parser finds.
//! * [`init_args`]: arguments of `weft-proxy init` are refused or all obeyed.
//! * [`mesh_yaml`], [`traffic_policy`]: files are refused with a place, or survive being written again.
#![forbid(unsafe_code)]

pub mod certificate;
pub mod client_hello;
pub mod detection;
pub mod headers;
pub mod http1;
pub mod http1_answers;
pub mod http2_frames;
pub mod init_args;
mod input;
pub mod mesh_yaml;
pub mod mutate;
mod parties;
pub mod route;
pub mod spiffe;
mod strict;
pub mod traffic_policy;

/// A target's name, which its corpus and its libFuzzer program have too, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 12] = [
    ("certificate", certificate::target),
    ("client_hello", client_hello::target),
    ("detection", detection::target),
    ("headers", headers::target),
    ("http1", http1::target),
    ("http1_answers", http1_answers::target),
    ("http2_frames", http2_frames::target),
    ("init_args", init_args::target),
    ("mesh_yaml", mesh_yaml::target),
    ("route", route::target),
    ("spiffe", spiffe::target),
    ("traffic_policy", traffic_policy::target),
];
