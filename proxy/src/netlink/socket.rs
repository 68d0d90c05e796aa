//! The socket: requests, dumps and batches, each to its end.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send,
    socket_with,
};

use super::message::{Frame, Frames, Malformed, Message, flags};

/// Longest wait for one datagram of an answer. The kernel answers within the send call, so that
/// only a lost answer takes this long.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel never makes a datagram longer than 32 KiB, and an error echoes one request.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Room for queued answers: a refused batch has one for each of its messages.
const RECEIVE_QUEUE: usize = 1024 * 1024;
/// Dumps begun anew because the table changed under them.
const DUMP_ATTEMPTS: usize = 5;

/// Message types that every family shares (linux/netlink.h).
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made or used.
    #[error("netlink socket: {0}")]
    Socket(#[source] Errno),
    /// The kernel said no.
    #[error("{errno}")]
    Refused {
        /// Its reason.
        errno: Errno,
        /// Which message of the batch; 0 for a single request.
        position: usize,
    },
    /// The kernel's answer cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An attribute is longer than 65,535 bytes, or a batch longer than the socket takes.
    #[error("netlink request too long")]
    TooLong,
    /// No answer within [`ANSWER_TIMEOUT`].
    #[error("the kernel did not answer")]
    NoAnswer,
    /// The table kept changing while it was being read.
    #[error("the kernel's table changed while it was being read")]
    Unstable,
}

impl Error {
    /// The kernel's reason, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Socket(errno) | Self::Refused { errno, .. } => Some(*errno),
            Self::Malformed(_) | Self::TooLong | Self::NoAnswer | Self::Unstable => None,
        }
    }
}

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Message type.
    pub kind: u16,
    /// The family's header, then attributes.
    pub payload: Vec<u8>,
}

/// A netlink socket of the network namespace that the calling thread is in. It stays in that
/// namespace wherever it is used.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// Of the next message. Numbers are never used twice, so that a late answer to a failed
    /// exchange is recognized and dropped.
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// For links, addresses and routes (`NETLINK_ROUTE`).
    pub fn route() -> Result<Self, Error> {
        Self::open(None)
    }

    /// For nf_tables (`NETLINK_NETFILTER`).
    pub fn netfilter() -> Result<Self, Error> {
        Self::open(Some(netlink::NETFILTER))
    }

    /// Connecting to port 0 makes the kernel the only peer: no other process can answer.
    fn open(protocol: Option<Protocol>) -> Result<Self, Error> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(Error::Socket)?;
        connect(&fd, &SocketAddrNetlink::new(0, 0)).map_err(Error::Socket)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_TIMEOUT)).map_err(Error::Socket)?;
        set_socket_recv_buffer_size(&fd, RECEIVE_QUEUE).map_err(Error::Socket)?;
        Ok(Self {
            fd,
            sequence: 1,
            buffer: vec![0; RECEIVE_BUFFER],
        })
    }

    /// Sends one request and waits for its acknowledgement; returns what came before it.
    pub fn request(&mut self, message: Message) -> Result<Vec<Reply>, Error> {
        let sequences = self.send(vec![(message, flags::ACK)])?;
        self.collect(&sequences)
    }

    /// Reads a whole table. Where it changes meanwhile, begins anew, a few times.
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Reply>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequences = self.send(vec![(message.clone(), flags::DUMP)])?;
            match self.collect(&sequences) {
                Err(Error::Unstable) => {}
                result => return result,
            }
        }
        Err(Error::Unstable)
    }

    /// Sends `begin`, `messages` and `end` in one datagram, which nf_tables takes as one
    /// transaction. Only the last of `messages` asks for an acknowledgement (each takes room in
    /// the queue); a refusal comes unasked. Positions in errors count from `begin`, which is 0.
    pub fn batch(
        &mut self,
        begin: Message,
        messages: Vec<Message>,
        end: Message,
    ) -> Result<(), Error> {
        let mut all = vec![(begin, 0)];
        all.extend(messages.into_iter().map(|message| (message, 0)));
        if let Some((_, more_flags)) = all.last_mut() {
            *more_flags = flags::ACK;
        }
        all.push((end, 0));
        let sequences = self.send(all)?;
        self.collect(&(sequences.start..sequences.end - 1))
            .map(|_| ())
    }

    /// Sends messages, each with further flags, in one datagram; returns their sequence numbers.
    fn send(&mut self, messages: Vec<(Message, u16)>) -> Result<Range<u32>, Error> {
        let first = self.sequence;
        let mut datagram = Vec::new();
        for (message, more_flags) in messages {
            let bytes = message.finish(self.sequence, more_flags);
            datagram.extend_from_slice(&bytes.ok_or(Error::TooLong)?);
            self.sequence += 1;
        }
        self.transmit(&datagram)?;
        Ok(first..self.sequence)
    }

    fn transmit(&self, datagram: &[u8]) -> Result<(), Error> {
        loop {
            match send(&self.fd, datagram, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::MSGSIZE) => return Err(Error::TooLong),
                Err(errno) => return Err(Error::Socket(errno)),
            }
        }
    }

    /// Reads until the last of `sequences` is acknowledged or done, or any of them is refused.
    fn collect(&mut self, sequences: &Range<u32>) -> Result<Vec<Reply>, Error> {
        let mut replies = Vec::new();
        let mut interrupted = false;
        loop {
            let Some(length) = self.receive()? else {
                continue;
            };
            for frame in Frames::new(&self.buffer[..length]) {
                let frame = frame?;
                if !sequences.contains(&frame.sequence) {
                    continue;
                }
                interrupted |= frame.flags & flags::DUMP_INTERRUPTED != 0;
                match read(&frame)? {
                    Answer::Reply(reply) => replies.push(reply),
                    Answer::Nothing => {}
                    Answer::Refused(errno) => {
                        let position = (frame.sequence - sequences.start) as usize;
                        return Err(Error::Refused { errno, position });
                    }
                    Answer::Accepted if frame.sequence + 1 < sequences.end => {}
                    Answer::Accepted if interrupted => return Err(Error::Unstable),
                    Answer::Accepted => return Ok(replies),
                }
            }
        }
    }

    /// One datagram into the buffer; `None` where the queue overflowed and what is left of it is
    /// worth reading: the first refusal, which is the one that counts, was queued first.
    fn receive(&mut self) -> Result<Option<usize>, Error> {
        loop {
            match recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((stored, length)) if stored == length => return Ok(Some(length)),
                Ok(_) => return Err(Error::Malformed(Malformed)),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Ok(None),
                Err(Errno::AGAIN) => return Err(Error::NoAnswer),
                Err(errno) => return Err(Error::Socket(errno)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

enum Answer {
    Reply(Reply),
    Nothing,
    Accepted,
    Refused(Errno),
}

/// `NLMSG_ERROR` carries a negated errno, 0 for an acknowledgement; so does `NLMSG_DONE`, which a
/// dump ends with.
fn read(frame: &Frame<'_>) -> Result<Answer, Malformed> {
    match frame.kind {
        NLMSG_NOOP => Ok(Answer::Nothing),
        NLMSG_ERROR | NLMSG_DONE => {
            let code = frame.payload.first_chunk().ok_or(Malformed)?;
            Ok(match i32::from_ne_bytes(*code) {
                0 => Answer::Accepted,
                code => Answer::Refused(Errno::from_raw_os_error(code.saturating_neg())),
            })
        }
        kind => Ok(Answer::Reply(Reply {
            kind,
            payload: frame.payload.to_vec(),
        })),
    }
}
