//! Netlink: the datagrams in which the kernel's network tables are read and changed.
//!
//! [`Message`] and its attributes are plain bytes, built and parsed without touching the kernel;
//! [`Socket`] carries them. Whatever the kernel refuses comes back as [`Error::Refused`] with the
//! errno and, in a batch, the position of the message that it refused. Everything blocks, for at
//! most [`ANSWER_TIMEOUT`] per datagram: these exchanges happen while a process starts, never on
//! the data path.
//!
//! Layout (netlink(7)): every message and every attribute starts at a multiple of four; headers
//! are in the machine's byte order, and so are attribute values unless a family says otherwise
//! (nf_tables wants big-endian ones).

mod message;
mod socket;

#[cfg(test)]
mod tests;

pub use message::{Attribute, Attributes, Frame, Frames, Malformed, Message, flags};
pub use socket::{ANSWER_TIMEOUT, Error, Reply, Socket};
