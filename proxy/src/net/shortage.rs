//! What this machine, not its peer, lacks for one more connection.

use std::io;

use rustix::io::Errno;

/// What there is none of any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Source ports towards one address and port.
    Ports,
    /// File descriptors, of this process or of the machine; or the kernel's memory for sockets.
    Descriptors,
}

impl Shortage {
    /// What an error of dialling says; `None` where it speaks of the peer or the way to it.
    pub fn behind(error: &io::Error) -> Option<Self> {
        if error.kind() == io::ErrorKind::AddrNotAvailable {
            return Some(Self::Ports);
        }
        match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => Some(Self::Descriptors),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_our_own_fault() {
        for (errno, shortage) in [
            (Errno::ADDRNOTAVAIL, Some(Shortage::Ports)),
            (Errno::MFILE, Some(Shortage::Descriptors)),
            (Errno::NFILE, Some(Shortage::Descriptors)),
            (Errno::CONNREFUSED, None),
            (Errno::HOSTUNREACH, None),
            (Errno::TIMEDOUT, None),
        ] {
            assert_eq!(Shortage::behind(&errno.into()), shortage, "{errno}");
        }
        assert_eq!(Shortage::behind(&io::Error::other("TLS")), None);
    }
}
