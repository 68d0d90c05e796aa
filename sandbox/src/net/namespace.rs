//! Making network namespaces.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::thread::UnshareFlags;

/// Moves the calling thread into a new, empty network namespace and returns a handle to it. The
/// namespace lives as long as a thread is in it, or a handle or a socket of it is open; threads
/// that this one starts are born in it.
///
/// Needs `CAP_SYS_ADMIN` in the user namespace that the process is in.
pub fn unshare_net() -> io::Result<OwnedFd> {
    #[expect(
        deprecated,
        reason = "unsafe only where descriptors are unshared, which NEWNET does not do"
    )]
    rustix::thread::unshare(UnshareFlags::NEWNET)?;
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}
