//! Processes that see files of their own: a container, without an image.
//!
//! As with [`super::follow`], the program starts itself once more, which makes a mount namespace, puts
//! what is mounted where it belongs, gives up what the container may not have, and becomes the program
//! that was meant. What is not mounted over is the host's. Directories that a mount needs and the host
//! has not are made in a memory file system, in which everything that was there is too.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use rustix::fs::{OFlags, StatVfsMountFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount,
};
use rustix::thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set};
use serde::{Deserialize, Serialize};

use super::own_program;

/// Set in a process that is to be a container: [`Container`] as JSON.
pub(super) const CONTAINER_ENV: &str = "WEFT_SANDBOX_CONTAINER";
/// The highest capability that any kernel knows, and some room.
const CAPABILITIES: u32 = 63;

/// What a container's process is given and what it may.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Container {
    /// The program's file, with arguments that it always gets.
    pub(crate) program: Vec<String>,
    /// What it calls itself.
    pub(crate) name: String,
    /// Further arguments.
    pub(crate) args: Vec<String>,
    /// All of its environment.
    pub(crate) env: Vec<(String, String)>,
    /// What it sees in places of its own.
    pub(crate) mounts: Vec<Mount>,
    /// User and group; `None` where it stays who it is.
    pub(crate) user: Option<(u32, u32)>,
    /// The only capabilities that it may ever have, as `NET_ADMIN`; `None` where nothing is taken.
    pub(crate) capabilities: Option<Vec<String>>,
    /// Nothing that it starts may have more than it has itself.
    pub(crate) no_new_privileges: bool,
    /// It writes to nothing but its mounts.
    pub(crate) read_only_root: bool,
}

/// A file or directory in another place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    /// Absolute.
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// A command whose process becomes the container.
pub(crate) fn command(container: &Container) -> io::Result<Command> {
    let mut command = own_program();
    command
        .env_clear()
        .env(CONTAINER_ENV, serde_json::to_string(container)?);
    Ok(command)
}

/// The process that is to be a container. Comes back with an error only.
pub(super) fn obey(meant: &str) -> anyhow::Error {
    match become_container(meant) {
        Ok(never) => match never {},
        Err(error) => error.context("becoming a container"),
    }
}

fn become_container(meant: &str) -> anyhow::Result<std::convert::Infallible> {
    let container: Container = serde_json::from_str(meant)?;
    let (program, fixed) = container.program.split_first().context("no program")?;
    // By its descriptor, as the container's user may have no way to the file. It stays open.
    let file = rustix::fs::open(program, OFlags::PATH, rustix::fs::Mode::empty())
        .with_context(|| format!("opening {program}"))?;
    super::unshare(UnshareFlags::NEWNS)?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let mut room = Room::default();
    for mount in &container.mounts {
        let target = mount.target.display();
        room.mount(mount)
            .with_context(|| format!("mounting {target}"))?;
    }
    if container.read_only_root {
        make_read_only(Path::new("/")).context("making / read-only")?;
    }
    if let Some(kept) = &container.capabilities {
        keep_only(kept)?;
    }
    if container.no_new_privileges {
        rustix::thread::set_no_new_privs(true)?;
    }
    let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    command
        .arg0(&container.name)
        .args(fixed)
        .args(&container.args)
        .env_clear()
        .envs(container.env.iter().map(|(name, value)| (name, value)));
    if let Some((user, group)) = container.user {
        command.uid(user).gid(group);
    }
    let error = command.exec();
    Err(anyhow::Error::new(error).context(format!("starting {program}")))
}

/// Where directories were made for mounts.
#[derive(Default)]
struct Room {
    covered: BTreeSet<PathBuf>,
}

impl Room {
    fn mount(&mut self, mount: &Mount) -> io::Result<()> {
        let target = self.make(&mount.target, mount.source.is_dir())?;
        mount_bind_recursive(&mount.source, &target)?;
        if mount.read_only {
            make_read_only(&target)?;
        }
        Ok(())
    }

    /// Something to mount over.
    fn make(&mut self, target: &Path, is_dir: bool) -> io::Result<PathBuf> {
        let mut there = target;
        while !there.exists() {
            there = there.parent().unwrap_or(Path::new("/"));
        }
        let ground = there.canonicalize()?;
        if there == target {
            return Ok(ground);
        }
        if !self
            .covered
            .iter()
            .any(|covered| ground.starts_with(covered))
        {
            cover(&ground)?;
            self.covered.insert(ground.clone());
        }
        let missing = target.strip_prefix(there).map_err(io::Error::other)?;
        let target = ground.join(missing);
        if is_dir {
            fs::create_dir_all(&target)?;
        } else {
            target.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&target, "")?;
        }
        Ok(target)
    }
}

/// Puts a memory file system over a directory, with everything in it that was in the directory.
fn cover(directory: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = rustix::fs::open(directory, flags, rustix::fs::Mode::empty())?;
    let entries: Vec<(OsString, fs::FileType)> = fs::read_dir(directory)?
        .map(|entry| entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))))
        .collect::<io::Result<_>>()?;
    mount(
        "tmpfs",
        directory,
        "tmpfs",
        MountFlags::empty(),
        c"mode=755",
    )?;
    let before = PathBuf::from(format!("/proc/self/fd/{}", before.as_raw_fd()));
    for (name, kind) in entries {
        let (old, new) = (before.join(&name), directory.join(&name));
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&old)?, new)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&new)?;
        } else {
            fs::write(&new, "")?;
        }
        mount_bind_recursive(&old, &new)?;
    }
    Ok(())
}

/// The mount itself, not those below it.
fn make_read_only(target: &Path) -> io::Result<()> {
    // A user namespace may add a flag to what it has got, and take none away.
    let have = rustix::fs::statvfs(target)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (known, flag) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if have.contains(known) {
            flags |= flag;
        }
    }
    Ok(mount_remount(target, flags, c"")?)
}

/// Takes every other capability out of what any program of this process can come by.
fn keep_only(kept: &[String]) -> anyhow::Result<()> {
    let mut keep = CapabilitySet::empty();
    for name in kept {
        let known = CapabilitySet::from_name(name);
        keep |= known.with_context(|| format!("no capability {name}"))?;
    }
    for bit in 0..=CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !keep.contains(one) {
            // Those that the kernel does not know are not there to be taken.
            match remove_capability_from_bounding_set(one) {
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
