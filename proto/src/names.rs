//! Names that users see or that two crates must spell alike. They are spelled only here.

/// API group of Weft's resources.
pub const API_GROUP: &str = "weft.dev";
/// API version of `TrafficPolicy` as manifests carry it.
pub const API_VERSION: &str = "weft.dev/v1alpha1";
/// Kind of the policy resource.
pub const TRAFFIC_POLICY_KIND: &str = "TrafficPolicy";
/// Label on a namespace or pod: [`INJECT_ENABLED`] or [`INJECT_DISABLED`].
pub const INJECT_LABEL: &str = "weft.dev/inject";
/// Asks for a sidecar.
pub const INJECT_ENABLED: &str = "enabled";
/// Asks for none.
pub const INJECT_DISABLED: &str = "disabled";
/// Prefix of the annotations that configure one workload's sidecar.
pub const CONFIG_ANNOTATION_PREFIX: &str = "config.weft.dev/";

/// The sidecar's container in a pod: where it is, the pod belongs to the mesh.
pub const PROXY_CONTAINER: &str = "weft-proxy";
/// The init container that redirects a pod's connections to its sidecar.
pub const INIT_CONTAINER: &str = "weft-init";
/// Annotation on a pod with the version of Weft that added its sidecar.
pub const INJECTED_ANNOTATION: &str = "weft.dev/injected";
/// Image of the sidecar and its init container, where none is given; its tag is Weft's version.
pub const PROXY_IMAGE: &str = "weft-proxy";
/// Image of the control plane, the webhook and the `weft` command; its tag is Weft's version.
pub const CONTROL_PLANE_IMAGE: &str = "weft";
/// uid that the sidecar runs as in a pod; the redirect exempts it.
pub const PROXY_UID: u32 = 2140;
/// Packet mark on the sidecar's own connections where redirection is exempt by mark.
pub const PROXY_MARK: u32 = 0x2140;

/// Ports.
pub mod ports {
    /// The sidecar's listener for connections that the application makes.
    pub const OUTBOUND: u16 = 15140;
    /// The sidecar's listener for connections made to the application.
    pub const INBOUND: u16 = 15143;
    /// The control plane's gRPC listener.
    pub const CONTROL_PLANE: u16 = 15180;
    /// Admin endpoint of any Weft process.
    pub const ADMIN: u16 = 15190;
    /// The admission webhook.
    pub const WEBHOOK: u16 = 15443;
}

/// Destination that the ruleset sends to the outbound listener before any exemption: a connection
/// to it proves that interception works (TEST-NET-1 and the documentation prefix, RFC 5737 and
/// RFC 3849: addresses that nobody has).
pub mod sentinel {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    /// The IPv4 sentinel.
    pub const V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 214)), 2140);
    /// The IPv6 sentinel.
    pub const V6: SocketAddr = SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x2140)),
        2140,
    );
}

/// ALPN protocol ids between sidecars.
pub mod alpn {
    /// HTTP/1.x inside mesh TLS.
    pub const HTTP1: &[u8] = b"weft/1/h1";
    /// HTTP/2 inside mesh TLS.
    pub const HTTP2: &[u8] = b"weft/1/h2";
    /// Bytes inside mesh TLS.
    pub const TCP: &[u8] = b"weft/1/tcp";
}

/// Header names, lower case. `x-weft-*` are believed only on connections whose mesh identity was
/// verified, and stripped from what applications send.
pub mod headers {
    /// Prefix of all headers of ours.
    pub const PREFIX: &str = "x-weft-";
    /// The outcome's word, on every response that a sidecar makes itself.
    pub const OUTCOME: &str = "x-weft-outcome";
    /// `outbound` or `inbound`: which sidecar made the response.
    pub const ORIGIN: &str = "x-weft-origin";
    /// Remaining milliseconds of the caller's deadline.
    pub const DEADLINE_MS: &str = "x-weft-deadline-ms";
    /// Number of the try, from 1.
    pub const ATTEMPT: &str = "x-weft-attempt";
    /// `true` on a copy of a request, whose answer nobody waits for.
    pub const MIRROR: &str = "x-weft-mirror";
    /// `true` on a response that a fallback made.
    pub const FALLBACK: &str = "x-weft-fallback";
    /// Request id, made where missing.
    pub const REQUEST_ID: &str = "x-request-id";
    /// Trace context as W3C has it: which trace, which span of it, whether it is sampled.
    pub const TRACEPARENT: &str = "traceparent";
    /// What others keep with it.
    pub const TRACESTATE: &str = "tracestate";
    /// Trace context as Zipkin has it, in one header.
    pub const B3: &str = "b3";
    /// The same in several: the trace.
    pub const B3_TRACE_ID: &str = "x-b3-traceid";
    /// See [`B3_TRACE_ID`]: the span.
    pub const B3_SPAN_ID: &str = "x-b3-spanid";
    /// See [`B3_TRACE_ID`]: the span's parent.
    pub const B3_PARENT_SPAN_ID: &str = "x-b3-parentspanid";
    /// See [`B3_TRACE_ID`]: `1` or `0`.
    pub const B3_SAMPLED: &str = "x-b3-sampled";
    /// See [`B3_TRACE_ID`]: `1` asks for more than sampling.
    pub const B3_FLAGS: &str = "x-b3-flags";
    /// Headers that no route may touch, beside those of [`PREFIX`]: they concern the connection, the
    /// message's length, or its host.
    pub const UNTOUCHABLE: [&str; 14] = [
        "connection",
        "content-length",
        "expect",
        "grpc-timeout",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
}

/// Environment variables of the processes.
pub mod env {
    /// Sidecar: the workload's name.
    pub const WORKLOAD: &str = "WEFT_WORKLOAD";
    /// Sidecar: the workload's namespace (for metrics before a certificate is there). Control plane of
    /// a cluster: its own.
    pub const NAMESPACE: &str = "WEFT_NAMESPACE";
    /// Sidecar: the zone.
    pub const ZONE: &str = "WEFT_ZONE";
    /// Sidecar: `host:port` of the control plane.
    pub const CONTROL_PLANE_ADDR: &str = "WEFT_CONTROL_PLANE_ADDR";
    /// Sidecar: SPIFFE id that the control plane must prove.
    pub const CONTROL_PLANE_ID: &str = "WEFT_CONTROL_PLANE_ID";
    /// Sidecar: PEM file with the trust roots to meet the control plane with.
    pub const TRUST_BUNDLE_FILE: &str = "WEFT_TRUST_BUNDLE_FILE";
    /// Sidecar: file with the token.
    pub const TOKEN_FILE: &str = "WEFT_TOKEN_FILE";
    /// Sidecar: comma-separated ports that the application declares.
    pub const INBOUND_PORTS: &str = "WEFT_INBOUND_PORTS";
    /// Sidecar: comma-separated addresses of the workload itself.
    pub const WORKLOAD_ADDRESSES: &str = "WEFT_WORKLOAD_ADDRESSES";
    /// Sidecar: `Redirect` (connections are intercepted) or `Explicit` (a listener per service).
    pub const INTERCEPTION: &str = "WEFT_INTERCEPTION";
    /// Sidecar under `Explicit`: comma-separated `ADDRESS:PORT=APP_ADDRESS:APP_PORT`. It listens at the
    /// former, which is what the mesh knows, for the application at the latter.
    pub const EXPLICIT_INBOUND: &str = "WEFT_EXPLICIT_INBOUND";
    /// Sidecar: packet mark for its own connections; empty where a uid exempts it.
    pub const MARK: &str = "WEFT_MARK";
    /// Sidecar: data-path worker threads.
    pub const WORKERS: &str = "WEFT_WORKERS";
    /// Sidecar: connections that all of its listeners accept together.
    pub const MAX_CONNECTIONS: &str = "WEFT_MAX_CONNECTIONS";
    /// Sidecar: connections that it dials and has open, in each direction.
    pub const MAX_UPSTREAM_CONNECTIONS: &str = "WEFT_MAX_UPSTREAM_CONNECTIONS";
    /// Sidecar: HTTP/1 connections to one endpoint, or to one port of the application.
    pub const MAX_ENDPOINT_CONNECTIONS: &str = "WEFT_MAX_ENDPOINT_CONNECTIONS";
    /// Sidecar: HTTP requests in flight, in each direction.
    pub const MAX_REQUESTS: &str = "WEFT_MAX_REQUESTS";
    /// Sidecar: bytes of one HTTP head, as `64Ki`.
    pub const MAX_HEADER_BYTES: &str = "WEFT_MAX_HEADER_BYTES";
    /// Sidecar: fields of one HTTP head.
    pub const MAX_HEADERS: &str = "WEFT_MAX_HEADERS";
    /// Sidecar: from the first byte of an HTTP/1 head to its last, as `10s`.
    pub const HEADER_TIMEOUT: &str = "WEFT_HEADER_TIMEOUT";
    /// Sidecar: how long an HTTP connection may go without an exchange, as `1h`.
    pub const IDLE_TIMEOUT: &str = "WEFT_IDLE_TIMEOUT";
    /// Sidecar: HTTP/2 streams of one peer at once.
    pub const HTTP2_STREAMS: &str = "WEFT_HTTP2_STREAMS";
    /// Sidecar: bytes that one HTTP/2 stream may have under way, as `256Ki`.
    pub const HTTP2_STREAM_WINDOW: &str = "WEFT_HTTP2_STREAM_WINDOW";
    /// Sidecar: bytes that one HTTP/2 connection may have under way, as `64Mi`.
    pub const HTTP2_CONNECTION_WINDOW: &str = "WEFT_HTTP2_CONNECTION_WINDOW";
    /// Sidecar: bytes of request bodies that it keeps for further tries and copies in all, as `64Mi`.
    pub const BODY_BUFFER: &str = "WEFT_BODY_BUFFER";
    /// Sidecar: what it bears in all; what the webhook may be told to set.
    pub const PROCESS_LIMITS: [&str; 14] = [
        MAX_CONNECTIONS,
        MAX_UPSTREAM_CONNECTIONS,
        MAX_ENDPOINT_CONNECTIONS,
        MAX_REQUESTS,
        MAX_HEADER_BYTES,
        MAX_HEADERS,
        HEADER_TIMEOUT,
        IDLE_TIMEOUT,
        HTTP2_STREAMS,
        HTTP2_STREAM_WINDOW,
        HTTP2_CONNECTION_WINDOW,
        HTTP2_CONTROL_FRAMES,
        HTTP2_RESETS,
        BODY_BUFFER,
    ];
    /// Sidecar: HTTP/2 control frames per second of one connection, beyond what its traffic explains.
    pub const HTTP2_CONTROL_FRAMES: &str = "WEFT_HTTP2_CONTROL_FRAMES";
    /// Sidecar: HTTP/2 streams that one connection may reset per second, beyond half of its requests.
    pub const HTTP2_RESETS: &str = "WEFT_HTTP2_RESETS";
    /// Sidecar: about how old connections between sidecars become, as `1h`; `0` or `off` for ever.
    pub const MAX_CONNECTION_AGE: &str = "WEFT_MAX_CONNECTION_AGE";
    /// Sidecar: `append` adds the client's address to `x-forwarded-for`; `keep` leaves it alone.
    pub const FORWARDED_FOR: &str = "WEFT_FORWARDED_FOR";
    /// Sidecar: `keep` leaves names of HTTP/1 headers as they are spelled; `lower` writes them in lower
    /// case.
    pub const HEADER_CASE: &str = "WEFT_HEADER_CASE";
    /// Sidecar: where spans are sent by OTLP/gRPC, as `http://collector.observability:4317`; nowhere
    /// without, and trace headers pass as they are.
    pub const TRACE_ENDPOINT: &str = "WEFT_TRACE_ENDPOINT";
    /// Sidecar: the share of traces begun here that are sampled, from `0` to `1`.
    pub const TRACE_SAMPLE: &str = "WEFT_TRACE_SAMPLE";
    /// Sidecar: the formats of trace context that it reads and writes: `w3c`, `b3`, `b3multi`, separated
    /// by commas.
    pub const TRACE_PROPAGATION: &str = "WEFT_TRACE_PROPAGATION";
    /// Sidecar: the `service.name` of its spans; the workload's name without.
    pub const TRACE_SERVICE: &str = "WEFT_TRACE_SERVICE";
    /// Sidecar: a further label of request metrics, from a header, as `tenant=x-tenant-id`.
    pub const METRICS_HEADER_LABEL: &str = "WEFT_METRICS_HEADER_LABEL";
    /// Sidecar: how many values of that label have series of their own, 1 to 500.
    pub const METRICS_HEADER_VALUES: &str = "WEFT_METRICS_HEADER_VALUES";
    /// Sidecar: how long closing may take, as `30s`.
    pub const DRAIN_TIMEOUT: &str = "WEFT_DRAIN_TIMEOUT";
    /// Sidecar: `native` (the application ends first) or `legacy` (both are told at once). Webhook: which
    /// of the two it makes.
    pub const SIDECAR_MODE: &str = "WEFT_SIDECAR_MODE";
    /// Sidecar: addresses of its listeners, where the default ports are not wanted.
    pub const OUTBOUND_ADDR: &str = "WEFT_OUTBOUND_ADDR";
    /// See [`OUTBOUND_ADDR`].
    pub const INBOUND_ADDR: &str = "WEFT_INBOUND_ADDR";
    /// Control plane: directory of manifests.
    pub const MANIFEST_DIR: &str = "WEFT_MANIFEST_DIR";
    /// Control plane of a cluster: the trust domain of every identity.
    pub const TRUST_DOMAIN: &str = "WEFT_TRUST_DOMAIN";
    /// Control plane of a cluster: comma-separated CIDR blocks of the pods and services.
    pub const NETWORKS: &str = "WEFT_NETWORKS";
    /// Control plane of a cluster: comma-separated ports on which servers speak first.
    pub const SERVER_FIRST_PORTS: &str = "WEFT_SERVER_FIRST_PORTS";
    /// Control plane of a cluster: what no policy may weaken, as `Permissive` or `Strict`.
    pub const MINIMUM_MTLS: &str = "WEFT_MINIMUM_MTLS";
    /// Control plane of a cluster: who may call what no policy speaks of, as `AllowAll`,
    /// `Authenticated`, `SameNamespace` or `DenyAll`.
    pub const DEFAULT_AUTHORIZATION: &str = "WEFT_DEFAULT_AUTHORIZATION";
    /// Control plane of a cluster: its pod's name, which says who leads.
    pub const POD_NAME: &str = "WEFT_POD_NAME";
    /// Control plane of a cluster: its pod's address, by which other replicas know it.
    pub const POD_IP: &str = "WEFT_POD_IP";
    /// Control plane of a cluster: how long its lease holds without being renewed, as `15s`.
    pub const LEASE_DURATION: &str = "WEFT_LEASE_DURATION";
    /// Control plane: directory of the authority's state.
    pub const STATE_DIR: &str = "WEFT_STATE_DIR";
    /// Control plane: address of its gRPC listener. Webhook: address of its HTTPS listener.
    pub const LISTEN_ADDR: &str = "WEFT_LISTEN_ADDR";
    /// Control plane: how long workload certificates live, as `24h`.
    pub const LEAF_LIFETIME: &str = "WEFT_LEAF_LIFETIME";
    /// Control plane: certificate of an issuer that somebody else makes.
    pub const ISSUER_CERT: &str = "WEFT_ISSUER_CERT";
    /// Control plane: that issuer's key.
    pub const ISSUER_KEY: &str = "WEFT_ISSUER_KEY";
    /// Control plane: the roots that the mesh trusts with it.
    pub const TRUST_ROOTS: &str = "WEFT_TRUST_ROOTS";
    /// Control plane: how long issuers live, as `8760h`.
    pub const ISSUER_LIFETIME: &str = "WEFT_ISSUER_LIFETIME";
    /// Control plane: how long roots live, as `87600h`.
    pub const ROOT_LIFETIME: &str = "WEFT_ROOT_LIFETIME";
    /// Webhook: image of the sidecar and its init container.
    pub const PROXY_IMAGE: &str = "WEFT_PROXY_IMAGE";
    /// Webhook: when the image is pulled, as Kubernetes spells it; the cluster's default where unset.
    pub const PROXY_IMAGE_PULL_POLICY: &str = "WEFT_PROXY_IMAGE_PULL_POLICY";
    /// Webhook: CPU that is always there for a sidecar, as `100m`.
    pub const PROXY_CPU_REQUEST: &str = "WEFT_PROXY_CPU_REQUEST";
    /// Webhook: CPU beyond which a sidecar is slowed down; none where empty.
    pub const PROXY_CPU_LIMIT: &str = "WEFT_PROXY_CPU_LIMIT";
    /// Webhook: memory that is always there for a sidecar, as `32Mi`.
    pub const PROXY_MEMORY_REQUEST: &str = "WEFT_PROXY_MEMORY_REQUEST";
    /// Webhook: memory beyond which a sidecar is killed; none where empty.
    pub const PROXY_MEMORY_LIMIT: &str = "WEFT_PROXY_MEMORY_LIMIT";
    /// Webhook: variables of sidecars, as `NAME=VALUE` separated by commas; only [`PROCESS_LIMITS`].
    pub const PROXY_ENV: &str = "WEFT_PROXY_ENV";
    /// Webhook: how much sidecars log.
    pub const PROXY_LOG_LEVEL: &str = "WEFT_PROXY_LOG_LEVEL";
    /// Webhook: comma-separated subnets where applications connect to directly, beside the API server.
    pub const SKIP_SUBNETS: &str = "WEFT_SKIP_SUBNETS";
    /// Webhook: comma-separated namespaces whose pods never get a sidecar, beside Kubernetes' own and the
    /// mesh's.
    pub const SYSTEM_NAMESPACES: &str = "WEFT_SYSTEM_NAMESPACES";
    /// Command line: file with a token for the control plane's admin port.
    pub const ADMIN_TOKEN_FILE: &str = "WEFT_ADMIN_TOKEN_FILE";
    /// Any process: address of its admin listener.
    pub const ADMIN_ADDR: &str = "WEFT_ADMIN_ADDR";
    /// Any process: `error`, `warn`, `info`, `debug` or `trace`.
    pub const LOG_LEVEL: &str = "WEFT_LOG_LEVEL";
    /// Any process: `json` or `plain`.
    pub const LOG_FORMAT: &str = "WEFT_LOG_FORMAT";
}

/// Trust domain where mesh.yaml names none.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// Namespace and service account of the control plane, which its SPIFFE id is made of.
pub const CONTROL_PLANE_NAMESPACE: &str = "weft";
/// See [`CONTROL_PLANE_NAMESPACE`].
pub const CONTROL_PLANE_SERVICE_ACCOUNT: &str = "control-plane";

/// Service account of the webhook, in the control plane's namespace.
pub const INJECTOR_SERVICE_ACCOUNT: &str = "injector";

/// What is in a cluster under these names.
pub mod cluster {
    /// Audience of the tokens with which sidecars prove who they are.
    pub const TOKEN_AUDIENCE: &str = "weft.dev";
    /// Audience of the tokens with which people ask the control plane's admin port.
    pub const ADMIN_AUDIENCE: &str = "admin.weft.dev";
    /// Plural of a resource, in the group weft.dev, of which there are no objects: roles speak of it.
    pub const MESHES: &str = "meshes";
    /// Verb on [`MESHES`]: looking, which changes nothing.
    pub const OBSERVE: &str = "observe";
    /// Verb on [`MESHES`]: everything else.
    pub const OPERATE: &str = "operate";
    /// Service account, in the control plane's namespace, that may [`OBSERVE`].
    pub const OBSERVER_SERVICE_ACCOUNT: &str = "weft-observer";
    /// Service account, in the control plane's namespace, that may [`OPERATE`] and [`OBSERVE`].
    pub const OPERATOR_SERVICE_ACCOUNT: &str = "weft-operator";
    /// ClusterRole of those who may observe; Role of those who may have the observer's tokens.
    pub const OBSERVE_ROLE: &str = "weft-observe";
    /// See [`OBSERVE_ROLE`], for operating.
    pub const OPERATE_ROLE: &str = "weft-operate";
    /// Who writes the status of policies and routes.
    pub const CONTROLLER: &str = "weft.dev/controller";
    /// Lease of the replica that writes, in the control plane's namespace.
    pub const LEASE: &str = "weft-control-plane";
    /// Secret with the certificate authority, in the control plane's namespace.
    pub const AUTHORITY_SECRET: &str = "weft-authority";
    /// Its key: root and issuer with their keys, PEM.
    pub const AUTHORITY_KEY: &str = "authority.pem";
    /// Annotation of the authority's Secret: where it stands, as JSON without anything secret.
    pub const STANDING: &str = "weft.dev/standing";
    /// Secret with an issuer that somebody else makes, as cert-manager, in the control plane's namespace:
    /// `tls.crt`, `tls.key` and `ca.crt`. Where it is, the control plane has no authority of its own.
    pub const ISSUER_SECRET: &str = "weft-issuer";
    /// Annotation of the authority's Secret: a rotation that the replica that leads is asked for, `root` or `issuer`.
    pub const ROTATE: &str = "weft.dev/rotate";
    /// Annotation of the authority's Secret: whom its rotation waits for, as JSON; absent where it waits for nobody.
    pub const WAITING_FOR: &str = "weft.dev/waiting-for";
    /// Volume of a sidecar's pod with its token.
    pub const TOKEN_VOLUME: &str = "weft-token";
    /// Volume of a sidecar's pod with the trust bundle.
    pub const TRUST_BUNDLE_VOLUME: &str = "weft-trust-bundle";
    /// ConfigMap with the trust bundle, in the control plane's namespace and in every one with sidecars.
    pub const TRUST_BUNDLE: &str = "weft-trust-bundle";
    /// Its key: the roots, PEM.
    pub const TRUST_BUNDLE_KEY: &str = "trust-bundle.pem";
    /// Label on what the control plane itself makes, with [`MANAGED_BY`].
    pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
    /// See [`MANAGED_BY_LABEL`].
    pub const MANAGED_BY: &str = "weft-control-plane";
    /// Service of the control plane.
    pub const CONTROL_PLANE_SERVICE: &str = "weft-control-plane";
    /// Headless service by which the control plane's replicas find each other.
    pub const REPLICAS_SERVICE: &str = "weft-control-plane-replicas";
    /// Service of the webhook.
    pub const WEBHOOK_SERVICE: &str = "weft-injector";
    /// Secret of type `kubernetes.io/tls` with the webhook's certificate, in the control plane's
    /// namespace.
    pub const WEBHOOK_SECRET: &str = "weft-injector-certificate";
    /// Path that the API server posts to.
    pub const WEBHOOK_PATH: &str = "/inject";
    /// Webhook of the configuration for pods of namespaces that are labelled.
    pub const WEBHOOK_BY_NAMESPACE: &str = "namespace.injector.weft.dev";
    /// Webhook of the configuration for pods that are labelled themselves, elsewhere.
    pub const WEBHOOK_BY_POD: &str = "pod.injector.weft.dev";
    /// The MutatingWebhookConfiguration.
    pub const WEBHOOK_CONFIGURATION: &str = "weft-injector";
}
