//! Where one HTTP/1 request ends and the next begins, decided before the HTTP library sees a byte.
//!
//! Request smuggling lives from two readers that frame the same bytes differently. The library is
//! lenient where one reading is probable (a length beside a transfer coding, the same length twice,
//! bare line feeds), and its service cannot see that it was. This guard reads the same stream first
//! and knows one reading only:
//!
//! * [`Guard::scan`] is a pure state machine over bytes: head, then the body's length or chunks, then
//!   the next head. Heads are looked at line by line, bodies of known length are skipped.
//! * **A head is cleared as a whole or not at all**: of one that is refused not a byte is handed on.
//!   What is cleared the library parses too, into the same requests.
//! * The verdict does not depend on how the bytes are cut into reads.
//! * After a head that asks to leave HTTP (`Upgrade`, CONNECT) nothing is cleared until somebody has
//!   decided what follows ([`Verdict::Wait`], [`Guard::go_on`]): it is either a request or none.
//! * It allocates nothing (but for targets that are not in origin form), and a byte of a head is looked
//!   at once, however slowly the head comes.
//!
//! What is refused and how is in [`Violation`]; the transport that acts on it is
//! `server::guarded`.

use self::head::{Body, Found, Head};
pub(crate) use self::violation::Violation;
use super::chunked::{Chunks, Framed};

mod head;
mod violation;

#[cfg(test)]
pub(super) mod tests;

/// Follows the requests of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    place: Place,
    heads: u64,
    limits: HeadLimits,
}

/// How much one head may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    /// Bytes, its last line end included.
    pub(super) bytes: usize,
    /// Fields.
    pub(super) fields: u16,
}

/// Where in the stream of requests the next byte stands.
#[derive(Debug)]
enum Place {
    Head(Head),
    Length { left: u64, wait: bool },
    Chunks { chunks: Chunks, wait: bool },
    Waiting,
}

/// What is to become of the bytes that were not cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are scanned again, with more bytes behind them.
    More,
    /// They stay until the exchange before them says what they are.
    Wait,
    /// They begin with a request that is not to be seen.
    Refused(Violation),
    /// They break the framing of a request whose head was cleared.
    Broken(Violation),
}

impl Guard {
    pub(super) fn new(limits: HeadLimits) -> Self {
        Self {
            place: Place::default(),
            heads: 0,
            limits,
        }
    }

    /// Whether the next byte is one of a head.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.place, Place::Head(_))
    }

    /// How many heads were cleared.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// Looks at `bytes`, which begin with whatever was not cleared the last time. Says how many of
    /// them may be handed on, and what about the rest.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> (usize, Verdict) {
        let mut cleared = 0;
        loop {
            let rest = &bytes[cleared..];
            match &mut self.place {
                // Also where nothing is left: `More` asks for nothing that is not there.
                _ if rest.is_empty() => return (cleared, Verdict::More),
                Place::Head(head) => match head.scan(rest, self.limits) {
                    Ok(Found::More) => return (cleared, Verdict::More),
                    Ok(Found::End { len, body, wait }) => {
                        cleared += len;
                        self.heads += 1;
                        self.place = match body {
                            Body::None => Place::after(wait),
                            Body::Length(left) => Place::Length { left, wait },
                            Body::Chunked => Place::Chunks {
                                chunks: Chunks::default(),
                                wait,
                            },
                        };
                    }
                    Err(violation) => return (cleared, Verdict::Refused(violation)),
                },
                Place::Length { left, wait } => {
                    let len =
                        usize::try_from(*left).map_or(rest.len(), |left| left.min(rest.len()));
                    cleared += len;
                    *left -= len as u64;
                    if *left == 0 {
                        self.place = Place::after(*wait);
                    }
                }
                Place::Chunks { chunks, wait } => {
                    let (len, framed) = chunks.scan(rest);
                    cleared += len;
                    match framed {
                        Framed::More => {}
                        Framed::End => self.place = Place::after(*wait),
                        Framed::Broken(violation) => {
                            return (cleared, Verdict::Broken(violation));
                        }
                    }
                }
                Place::Waiting => return (cleared, Verdict::Wait),
            }
        }
    }

    /// Whether the bytes that come next wait for the end of the exchange before them.
    pub(super) fn waits(&self) -> bool {
        matches!(self.place, Place::Waiting)
    }

    /// The exchange that was waited for is over, and HTTP goes on.
    pub(super) fn go_on(&mut self) {
        if self.waits() {
            self.place = Place::default();
        }
    }
}

impl Place {
    /// Behind the end of a request.
    fn after(wait: bool) -> Self {
        if wait { Self::Waiting } else { Self::default() }
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::Head(Head::default())
    }
}
