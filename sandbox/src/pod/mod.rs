//! Network namespaces with a thread, addresses and processes; or shares of the host's loopback.
//!
//! A namespace lives as long as something is in it: its thread, a process, or a socket. Nothing is
//! pinned in the file system, so nothing is left behind.
//!
//! **A socket belongs to the namespace of the thread that made it, for good.** So a pod makes
//! sockets ([`Pod::connect`], [`Pod::listen`]) and hands them to whoever asked, who uses them on any
//! runtime. Clients and servers that make their own sockets run on a thread of the pod
//! ([`Pod::run_future`], [`Pod::thread`]).
//!
//! Where there are no namespaces a pod has [addresses on the host's loopback](loopback) instead, with
//! the same interface: [`Pod::connect`] and [`Pod::listen`] turn the addresses that a namespace would
//! have into those that there are. What makes its own sockets asks [`Pod::route`] and
//! [`Pod::app_address`].

mod forward;
pub mod loopback;
mod node;
mod worker;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::enter::follow;
use crate::net;
use crate::process::{Process, Program};
use loopback::Place;

pub use forward::Forward;
pub use node::Node;
use worker::Worker;

/// The device of every pod.
const DEVICE: &str = "eth0";
/// How many connections may wait for a listener of [`Pod::listen`].
const BACKLOG: u32 = 1024;

/// A place with addresses of its own, like a Kubernetes pod. Cheap to clone; the namespace ends with
/// the last clone, process and socket.
#[derive(Clone, Debug)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    /// Where there is no namespace.
    place: Option<Place>,
    worker: Worker,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its addresses: IPv4, and where there are namespaces IPv6.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let v6 = self.place().is_none().then_some(self.inner.v6.into());
        std::iter::once(self.inner.v4.into()).chain(v6).collect()
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.inner.v4
    }

    /// Its IPv6 address. Where there are no namespaces nothing reaches it.
    pub fn v6(&self) -> Ipv6Addr {
        self.inner.v6
    }

    /// Where it is, if it has no namespace.
    pub fn place(&self) -> Option<&Place> {
        self.inner.place.as_ref()
    }

    /// The address at which its application is to listen: every one in a namespace, else one.
    pub fn app_address(&self) -> IpAddr {
        match self.place() {
            Some(place) => place.app().into(),
            None => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Where a connection to `to` has to go: there, or to the pod's listener that stands for it.
    ///
    /// # Errors
    /// Without namespaces: `Unsupported` for IPv6, `ConnectionRefused` for what is no service's
    /// address and port, and for every service where the pod has no sidecar.
    pub fn route(&self, to: SocketAddr) -> io::Result<SocketAddr> {
        match self.place() {
            Some(place) => place.route(to),
            None => Ok(to),
        }
    }

    /// Runs `work` on the pod's thread, in its network namespace, and waits for the result. Keep it
    /// short: the thread serves everybody.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.inner.worker.run(work)
    }

    /// Runs `work` on a new thread in the pod's network namespace.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.inner.worker.thread(work)
    }

    /// Runs the future that `make` makes on a new thread with a current-thread runtime in the pod's
    /// network namespace; everything it spawns runs there too, until it ends.
    pub fn spawn_runtime<F>(
        &self,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + 'static,
    {
        self.thread(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime needs a few descriptors only");
            tokio::task::LocalSet::new().block_on(&runtime, make())
        })
    }

    /// [`Self::spawn_runtime`], and waits for the result without blocking the caller's runtime.
    ///
    /// # Panics
    /// When the future panics.
    pub async fn run_future<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> F::Output
    where
        F: Future<Output: Send + 'static> + 'static,
    {
        let (done, result) = tokio::sync::oneshot::channel();
        let pod = self.name().to_owned();
        drop(self.spawn_runtime(move || {
            let future = make();
            async move {
                // Nobody waits any more: the result is not wanted.
                let _ = done.send(future.await);
            }
        }));
        result
            .await
            .unwrap_or_else(|_| panic!("the future that ran in pod {pod} panicked"))
    }

    /// A TCP connection out of the pod, for use on the caller's runtime.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let at = self.route(to)?;
        let stream = self.socket(at.is_ipv4())?.connect(at).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A listener in the pod, for use on the caller's runtime.
    pub fn listen(&self, on: SocketAddr) -> io::Result<TcpListener> {
        let on = match self.place() {
            Some(place) => place.bind(on)?,
            None => on,
        };
        let socket = self.socket(on.is_ipv4())?;
        socket.set_reuseaddr(true)?;
        socket.bind(on)?;
        socket.listen(BACKLOG)
    }

    /// A socket of the pod, to set options on before it connects or listens.
    pub fn socket(&self, v4: bool) -> io::Result<TcpSocket> {
        self.run(move || {
            if v4 {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }
        })
    }

    /// Hands connections of a listener of the caller's, such as one on the host's loopback, on to
    /// `to` as seen from the pod. Ends with the returned guard. The caller's runtime carries it.
    pub fn forward(&self, listener: TcpListener, to: SocketAddr) -> Forward {
        forward::start(Some(self.clone()), listener, move || Some(to))
    }

    /// As [`Self::forward`], to what `to` says for every connection; `None` closes it.
    pub(crate) fn forward_to(
        &self,
        listener: TcpListener,
        to: impl Fn() -> Option<SocketAddr> + Send + Sync + 'static,
    ) -> Forward {
        forward::start(Some(self.clone()), listener, to)
    }

    /// Hands connections of a listener of the pod on to an address of the host.
    pub(crate) fn forward_out(&self, on: SocketAddr, to: SocketAddr) -> io::Result<Forward> {
        Ok(forward::start(None, self.listen(on)?, move || Some(to)))
    }

    /// A command for [`Self::start`] whose process ends with this one, however this one ends. Takes
    /// environment variables, but no further arguments.
    pub(crate) fn command(&self, program: &Program) -> Command {
        match self.place() {
            Some(_) => follow::command(program),
            None => program.command(),
        }
    }

    /// Starts a process in the pod; its output goes to the end of `log`.
    pub fn start(&self, name: &str, command: Command, log: &Path) -> io::Result<Process> {
        let (name, log) = (name.to_owned(), log.to_owned());
        self.run(move || Process::start(&name, command, &log))
    }

    /// Runs a process in the pod to its end, off the caller's runtime.
    pub async fn output(&self, mut command: Command) -> io::Result<Output> {
        let (done, result) = tokio::sync::oneshot::channel();
        drop(self.thread(move || {
            let _ = done.send(command.output());
        }));
        result
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread that waited has panicked")))
    }

    /// Makes the namespace; its device comes with [`Node::attach`].
    fn new(name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> io::Result<Self> {
        let worker = Worker::start(name)?;
        worker.run(net::set_loopback_up)?;
        Ok(Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                v4,
                v6,
                place: None,
                worker,
            }),
        })
    }

    /// A pod on the host's loopback.
    fn on_loopback(name: &str, place: Place, v6: Ipv6Addr) -> io::Result<Self> {
        Ok(Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                v4: place.address(),
                v6,
                worker: Worker::start_here(name)?,
                place: Some(place),
            }),
        })
    }

    fn namespace(&self) -> io::Result<OwnedFd> {
        self.inner.worker.namespace()
    }
}
