//! What the environment says.
//!
//! Reading is pure: [`Settings::from_vars`] takes a look-up and touches nothing else. Whatever is
//! wrong is told at once, whole: each bad variable with its value, what is expected and how to mend
//! it. A variable that is empty is one that is not set. The variables' names are in
//! [`weft_proto::names::env`].

mod header_label;
mod limits;
mod parse;
#[cfg(test)]
mod tests;
mod trace;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub(super) use parse::drain_timeout as time;
use weft_proto::names::{env, ports};
use weft_proto::spiffe::SpiffeId;

use crate::bounds::ProcessLimits;
use crate::http::floods::FloodLimits;
use crate::http::forwarded::ForwardedFor;
use crate::net::age::AgeCap;
use crate::telemetry::HeaderLabelSettings;
use crate::telemetry::trace::TraceSettings;
use weft_proto::logs::{LogFormat, LogLevel};

/// Data workers that can be asked for.
pub const MAX_WORKERS: usize = 256;
/// The longest drain that can be asked for.
pub const MAX_DRAIN_TIMEOUT: Duration = Duration::from_secs(3_600);
/// The shortest age of connections that can be asked for.
pub const MIN_CONNECTION_AGE: Duration = Duration::from_secs(1);
/// The longest one.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The drain where none is asked for: Kubernetes' default grace period.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Exit status of a process whose settings are wrong (EX_USAGE of sysexits.h).
pub const EXIT_BAD_SETTINGS: u8 = 64;

/// Everything that a sidecar is told from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The workload's name.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// Its zone; empty when unknown.
    pub zone: String,
    /// Where the control plane is.
    pub control_plane_addr: HostPort,
    /// Who the control plane must prove to be.
    pub control_plane_id: SpiffeId,
    /// PEM file with the trust roots to meet the control plane with.
    pub trust_bundle_file: PathBuf,
    /// File with the token that proves who the workload is.
    pub token_file: PathBuf,
    /// Ports that the application declares, in order, each once.
    pub inbound_ports: Vec<u16>,
    /// The workload's own addresses; never empty under [`Interception::Redirect`].
    pub workload_addresses: Vec<IpAddr>,
    /// How connections come here.
    pub interception: Interception,
    /// Listeners for what is sent to the application; none under [`Interception::Redirect`].
    pub explicit_inbound: Vec<ExplicitInbound>,
    /// Mark on the sidecar's own packets; `None` where its uid exempts it.
    pub mark: Option<u32>,
    /// Data workers; `None` to follow the CPU quota.
    pub workers: Option<usize>,
    /// What is borne in all.
    pub limits: ProcessLimits,
    /// What is borne of one HTTP/2 connection.
    pub floods: FloodLimits,
    /// How old connections between sidecars become.
    pub max_connection_age: AgeCap,
    /// Names of HTTP/1 headers are written as they were spelled.
    pub keep_header_case: bool,
    /// What the application is told of its clients' addresses.
    pub forwarded_for: ForwardedFor,
    /// What is told of exchanges to a collector; `None` where nothing is.
    pub trace: Option<TraceSettings>,
    /// A further label of request metrics; `None` where there is none.
    pub header_label: Option<HeaderLabelSettings>,
    /// The longest time from SIGTERM to exit.
    pub drain_timeout: Duration,
    /// How the sidecar's end is ordered with the application's.
    pub sidecar_mode: SidecarMode,
    /// Listeners for what the application sends: loopback only, at least one. Under
    /// [`Interception::Explicit`] neither these nor `inbound_addr` are bound.
    pub outbound_addrs: Vec<SocketAddr>,
    /// Listener for what is sent to the application.
    pub inbound_addr: ListenAddr,
    /// Listener of the admin endpoint.
    pub admin_addr: ListenAddr,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How lines look.
    pub log_format: LogFormat,
}

/// How connections come to the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interception {
    /// A listener per service; applications are told where.
    Explicit,
    /// The kernel redirects them.
    Redirect,
}

/// A listener for one port of the application, where nothing is redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExplicitInbound {
    /// What clients dial: an address of the workload and a port, which policy goes by.
    pub listen: SocketAddr,
    /// Where the application listens: on loopback.
    pub app: SocketAddr,
}

/// How the sidecar's end is ordered with the application's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidecarMode {
    /// Both are told at once.
    Legacy,
    /// The application ends first.
    Native,
}

/// A host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A DNS name, or an address (IPv6 without brackets).
    pub host: String,
    /// The port, never 0.
    pub port: u16,
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddr(SocketAddr);

/// Everything that is wrong with the environment. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsErrors(Vec<SettingError>);

/// What is wrong with one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// Its name.
    pub variable: &'static str,
    /// What it says, where that may be shown; `None` when it is not set.
    pub value: Option<String>,
    /// What it should say.
    pub expected: &'static str,
    /// How to mend it.
    pub mend: &'static str,
}

impl Settings {
    /// Reads the process's environment.
    pub fn from_env() -> Result<Self, SettingsErrors> {
        Self::from_vars(|name| {
            // What is not Unicode is nothing that any variable expects; its reader says so.
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    /// Reads whatever `look_up` answers. Tells everything that is wrong, not only the first.
    pub fn from_vars(look_up: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsErrors> {
        let mut reader = parse::Reader::new(look_up);

        let interception = reader.or(
            env::INTERCEPTION,
            Interception::Redirect,
            parse::interception,
            "Redirect or Explicit",
            "leave it out where `weft-proxy init` has set up redirection",
        );
        let workload_addresses = match interception {
            Interception::Redirect => reader.required(
                env::WORKLOAD_ADDRESSES,
                parse::list(parse::address),
                "the workload's own addresses, separated by commas",
                "in a pod, take it from the field status.podIPs",
            ),
            Interception::Explicit => Some(reader.or(
                env::WORKLOAD_ADDRESSES,
                Vec::new(),
                parse::list(parse::address),
                "the workload's own addresses, separated by commas",
                "leave it out, or give addresses such as 10.0.0.7",
            )),
        };
        let workload = reader.required(
            env::WORKLOAD,
            parse::dns_name,
            "a DNS name: lower-case letters, digits, dashes and dots, at most 253 characters",
            "in a pod, take it from the field metadata.name",
        );
        let namespace = reader.required(
            env::NAMESPACE,
            parse::dns_label,
            "a DNS label: lower-case letters, digits and dashes, at most 63 characters",
            "in a pod, take it from the field metadata.namespace",
        );
        let zone = reader.or(
            env::ZONE,
            String::new(),
            parse::zone,
            "a zone's name of at most 63 letters, digits, dashes, underscores and dots",
            "leave it out where the zone is unknown",
        );
        let control_plane_addr = reader.required(
            env::CONTROL_PLANE_ADDR,
            parse::host_port,
            "host:port, or [address]:port for IPv6",
            "name the control plane's service, as weft-control-plane.weft.svc:15180",
        );
        let control_plane_id = reader.required(
            env::CONTROL_PLANE_ID,
            |text| text.parse().ok(),
            "a SPIFFE id, spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
            "take the id that the control plane logs when it starts",
        );
        let trust_bundle_file = reader.required(
            env::TRUST_BUNDLE_FILE,
            parse::path,
            "the path of a PEM file",
            "name the file with the mesh's trust roots",
        );
        let token_file = reader.required_secret(
            env::TOKEN_FILE,
            parse::path,
            "the path of a file, never the token itself",
            "name the file with the projected service account token, or the join token",
        );
        let inbound_ports = reader.or(
            env::INBOUND_PORTS,
            Vec::new(),
            parse::list(parse::port),
            "ports from 1 to 65535, separated by commas",
            "list the ports that the application's containers declare",
        );
        let explicit_inbound = match interception {
            Interception::Redirect => reader.or(
                env::EXPLICIT_INBOUND,
                Vec::new(),
                |_| None,
                "nothing, as connections are redirected",
                "leave it out, or set WEFT_INTERCEPTION=Explicit",
            ),
            Interception::Explicit => reader.or(
                env::EXPLICIT_INBOUND,
                Vec::new(),
                parse::explicit_inbound,
                "ADDRESS:PORT=APP_ADDRESS:APP_PORT, separated by commas: each left side once, the \
                 right sides on loopback and no left side themselves",
                "give what clients dial and where the application listens, as \
                 10.0.0.7:8080=127.0.0.1:8080",
            ),
        };
        let mark = reader.or(
            env::MARK,
            None,
            |text| parse::mark(text).map(Some),
            "a packet mark from 1 to 4294967295, decimal or with 0x",
            "leave it out where the sidecar is exempt by its uid",
        );
        let workers = reader.or(
            env::WORKERS,
            None,
            |text| parse::within(text, 1, MAX_WORKERS).map(Some),
            "a number from 1 to 256",
            "leave it out to follow the CPU limit",
        );
        let limits = limits::limits(&mut reader);
        let floods = limits::floods(&mut reader);
        let max_connection_age = reader.or(
            env::MAX_CONNECTION_AGE,
            AgeCap::default(),
            parse::connection_age,
            "a time from 1s to 168h, as 30m or 1h, or off",
            "leave it out for 1h",
        );
        let forwarded_for = reader.or(
            env::FORWARDED_FOR,
            ForwardedFor::default(),
            parse::forwarded_for,
            "append or keep",
            "leave it out where the application does not look at x-forwarded-for",
        );
        let keep_header_case = reader.or(
            env::HEADER_CASE,
            false,
            parse::keep_header_case,
            "keep or lower",
            "leave it out unless an application looks at the case of header names",
        );
        let trace = trace::trace(&mut reader);
        let header_label = header_label::header_label(&mut reader);
        let drain_timeout = reader.or(
            env::DRAIN_TIMEOUT,
            DEFAULT_DRAIN_TIMEOUT,
            parse::drain_timeout,
            "a time up to 1h, as 500ms, 30s or 2m",
            "take a little less than the pod's terminationGracePeriodSeconds",
        );
        let sidecar_mode = reader.or(
            env::SIDECAR_MODE,
            SidecarMode::Native,
            parse::sidecar_mode,
            "native or legacy",
            "leave it out where the sidecar is an init container that restarts always",
        );
        let outbound_addrs = reader.or(
            env::OUTBOUND_ADDR,
            vec![
                SocketAddr::from((Ipv4Addr::LOCALHOST, ports::OUTBOUND)),
                SocketAddr::from((Ipv6Addr::LOCALHOST, ports::OUTBOUND)),
            ],
            parse::list(parse::loopback_socket),
            "loopback addresses with ports, separated by commas",
            "leave it out, or give addresses such as 127.0.0.1:15140",
        );
        let inbound_addr = reader.or(
            env::INBOUND_ADDR,
            ListenAddr::any(ports::INBOUND),
            parse::listen,
            "an address with a port",
            "leave it out, or give an address such as [::]:15143",
        );
        let admin_addr = reader.or(
            env::ADMIN_ADDR,
            ListenAddr::any(ports::ADMIN),
            parse::listen,
            "an address with a port",
            "leave it out, or give an address such as [::]:15190",
        );
        let log_level = reader.or(
            env::LOG_LEVEL,
            LogLevel::default(),
            |text| text.parse().ok(),
            "error, warn, info, debug or trace",
            "leave it out for info",
        );
        let log_format = reader.or(
            env::LOG_FORMAT,
            LogFormat::default(),
            parse::log_format,
            "json or plain",
            "leave it out for json",
        );

        let errors = reader.errors();
        match (
            workload,
            namespace,
            control_plane_addr,
            control_plane_id,
            trust_bundle_file,
            token_file,
            workload_addresses,
        ) {
            (
                Some(workload),
                Some(namespace),
                Some(control_plane_addr),
                Some(control_plane_id),
                Some(trust_bundle_file),
                Some(token_file),
                Some(workload_addresses),
            ) if errors.is_empty() => Ok(Self {
                workload,
                namespace,
                zone,
                control_plane_addr,
                control_plane_id,
                trust_bundle_file,
                token_file,
                inbound_ports,
                workload_addresses,
                interception,
                explicit_inbound,
                mark,
                workers,
                limits,
                floods,
                max_connection_age,
                keep_header_case,
                forwarded_for,
                trace,
                header_label,
                drain_timeout,
                sidecar_mode,
                outbound_addrs,
                inbound_addr,
                admin_addr,
                log_level,
                log_format,
            }),
            _ => Err(SettingsErrors(errors)),
        }
    }
}

impl ListenAddr {
    /// Every address of both families.
    pub fn any(port: u16) -> Self {
        Self(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    }

    /// Exactly this address.
    pub fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    /// The address to bind first; `[::]` dual-stack.
    pub fn address(self) -> SocketAddr {
        self.0
    }

    /// The address to bind where the machine has no IPv6: only `[::]` has one.
    pub fn fallback(self) -> Option<SocketAddr> {
        (self.0.ip() == Ipv6Addr::UNSPECIFIED)
            .then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.0.port())))
    }
}

impl SettingsErrors {
    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &SettingError> {
        self.0.iter()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value:?}", self.variable)?,
            None => write!(f, "{} is not set", self.variable)?,
        }
        write!(f, ": expected {}; {}", self.expected, self.mend)
    }
}

/// A line each.
impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, noun) = match self.0.len() {
            1 => (1, "setting is"),
            more => (more, "settings are"),
        };
        write!(f, "{count} {noun} wrong:")?;
        for error in &self.0 {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}
