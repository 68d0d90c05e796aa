//! At most two meshes at a time on one machine, over all processes: more would only measure how a
//! loaded machine behaves. A slot is a locked file, so that the kernel gives it back whatever
//! happens to its holder.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Meshes at a time.
const SLOTS: usize = 2;
const POLL: Duration = Duration::from_millis(50);

/// Held as long as a mesh lives.
#[derive(Debug)]
pub(crate) struct Slot {
    number: u8,
    _locked: File,
}

impl Slot {
    /// Waits for a free one.
    pub(crate) async fn take() -> io::Result<Self> {
        let files = (0..SLOTS).map(open).collect::<io::Result<Vec<_>>>()?;
        loop {
            for (number, file) in (0..).zip(&files) {
                match flock(file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => {
                        // A lock belongs to what was opened once, so a second handle keeps it.
                        return Ok(Self {
                            number,
                            _locked: file.try_clone()?,
                        });
                    }
                    Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Which one it is, from 0.
    pub(super) fn number(&self) -> u8 {
        self.number
    }
}

/// Another user's file is opened as it is: reading is enough for a lock, and a system may forbid to
/// open it with the wish to create it.
fn open(number: usize) -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("weft-mesh-slot-{number}.lock"));
    if let Ok(file) = File::open(&path) {
        return Ok(file);
    }
    let file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .open(&path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    Ok(file)
}
