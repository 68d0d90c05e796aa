//! Pods in network namespaces: a whole mesh on one machine, in a few lines. The demo, the
//! end-to-end tests and the benchmarks stand on it.
//!
//! It needs no program of the system (`ip`, `nft`, `unshare`) and no privilege where the kernel
//! lets ordinary users make user namespaces. A program calls [`Sandbox::enter`] first thing in its
//! `main`; from then on everything that it starts lives in a process namespace of its own, so that
//! nothing outlives it, however it ends. A machine that has no namespaces for it gets the same meshes
//! on the host's loopback, without interception: [`Mode`] says so, and why.
//!
//! Data flows downhill: a module uses only what stands below it in this list.
//!
//! * [`kubelet`]: the Pods of an API server as processes: a node of a cluster.
//! * [`programs`]: real servers in pods: PostgreSQL, Redis, RabbitMQ, NATS, Prometheus.
//! * [`mesh`]: control plane, pods, sidecars and applications of one mesh: the builder.
//! * [`load`]: a load generator that hides nothing: no silent retry, no silent reconnect.
//! * [`client`]: single requests and connections out of a pod.
//! * [`metrics`]: reading what `/metrics` answers.
//! * [`app`]: the stand-in service, scripted through an admin port.
//! * [`pod`]: network namespaces, or shares of the loopback, with a thread, addresses and processes.
//! * [`process`]: child processes with their logs.
//! * [`enter`]: the way into the namespaces, the ladder of modes, and the run's directory.
//! * [`net`]: links, addresses and routes of a namespace.
#![forbid(unsafe_code)]

pub mod app;
pub mod client;
pub mod enter;
pub mod kubelet;
pub mod load;
pub mod mesh;
pub mod metrics;
pub mod net;
pub mod pod;
pub mod process;
pub mod programs;

pub use enter::{Mode, Sandbox};
pub use mesh::{AppSpec, Mesh, Programs, Service, Workload};
pub use pod::Pod;
