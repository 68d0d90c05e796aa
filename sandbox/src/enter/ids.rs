//! Which users there are in a new user namespace: whoever may, takes all of them along, so that
//! processes can run as the users that they are told to; everybody else is root in it and alone.
//!
//! The map of all has to be written by a process that stayed outside (user_namespaces(7)): this
//! program once more, which waits until the namespace is there.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::Context as _;
use rustix::process::{getgid, getuid};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities};

use super::own_program;

/// Set in the process that writes the maps: whose.
pub(super) const MAP_ENV: &str = "WEFT_SANDBOX_MAP";
/// Every id there can be: from which on, to which, how many.
const ALL: &str = "0 0 4294967295";
/// A user and a group that nobody has by accident: those of a sidecar.
const TRIED: u32 = weft_proto::names::PROXY_UID;

/// Takes this process, which must have one thread, into a new user namespace.
pub(super) fn enter_user_namespace() -> io::Result<()> {
    let helper = may_map_all().then(start_helper).transpose()?;
    let (uid, gid) = (getuid(), getgid());
    super::unshare(UnshareFlags::NEWUSER)?;
    if let Some(helper) = helper
        && let_it_write(helper)?
    {
        return Ok(());
    }
    // Without this an unprivileged process may not write a gid map (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
    fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))
}

/// Whether processes can run as other users than this one.
pub(super) fn has_all() -> bool {
    ["/proc/self/uid_map", "/proc/self/gid_map"]
        .into_iter()
        .all(|map| fs::read_to_string(map).is_ok_and(|map| has(&map, TRIED)))
        && getuid().is_root()
}

/// The process outside: writes the maps when it is told to.
pub(super) fn write_maps(of: &str) -> anyhow::Result<()> {
    let directory = Path::new("/proc").join(of);
    io::stdin().read_exact(&mut [0])?;
    for map in ["uid_map", "gid_map"] {
        fs::write(directory.join(map), ALL).with_context(|| format!("writing {map}"))?;
    }
    Ok(())
}

fn may_map_all() -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETFCAP;
    capabilities(None).is_ok_and(|have| have.effective.contains(needed))
        && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| has(&map, u32::MAX - 1))
}

fn start_helper() -> io::Result<Child> {
    // As `/proc` calls it, which may be that of an outer process namespace.
    own_program()
        .env(MAP_ENV, fs::read_link("/proc/self")?)
        .stdin(Stdio::piped())
        .spawn()
}

/// Whether it has: where it could not, there is still the map of one.
fn let_it_write(mut helper: Child) -> io::Result<bool> {
    if let Some(mut stdin) = helper.stdin.take() {
        // One that has ended already says so below.
        let _ = stdin.write_all(b"!");
    }
    Ok(helper.wait()?.success())
}

/// Whether a map has an id, as the namespace's own processes know it.
fn has(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().flat_map(str::parse::<u64>);
        let (Some(first), Some(_), Some(count)) = (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first + count).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_as_the_kernel_writes_them() {
        let all = "         0          0 4294967295\n";
        assert!(has(all, TRIED) && has(all, u32::MAX - 1));
        let one = "         0       1000          1\n";
        assert!(has(one, 0) && !has(one, TRIED) && !has(one, 1000));
        let parts = "0 1000 1\n1 100000 65536\n";
        assert!(has(parts, TRIED) && !has(parts, 65537));
        assert!(!has("", 0));
    }
}
