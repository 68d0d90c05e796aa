use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

mod header_label;
mod limits;
mod trace;

const REQUIRED: [(&str, &str); 7] = [
    (env::WORKLOAD, "cart-7d9f-abcde"),
    (env::NAMESPACE, "shop"),
    (env::CONTROL_PLANE_ADDR, "control-plane.weft.svc:15180"),
    (
        env::CONTROL_PLANE_ID,
        "spiffe://cluster.local/ns/weft/sa/control-plane",
    ),
    (env::TRUST_BUNDLE_FILE, "/var/run/weft/roots.pem"),
    (env::TOKEN_FILE, "/var/run/weft/token"),
    (env::WORKLOAD_ADDRESSES, "10.0.0.7, fd00::7"),
];

fn read(changes: &[(&str, &str)]) -> Result<Settings, SettingsErrors> {
    let mut variables: BTreeMap<&str, &str> = REQUIRED.into();
    variables.extend(changes.iter().copied());
    Settings::from_vars(|name| variables.get(name).map(|value| (*value).to_owned()))
}

fn wrong(changes: &[(&str, &str)]) -> Vec<&'static str> {
    let errors = read(changes).expect_err("a bad setting");
    errors.iter().map(|error| error.variable).collect()
}

#[test]
fn defaults() {
    let settings = read(&[]).unwrap();
    assert_eq!(settings.workload, "cart-7d9f-abcde");
    assert_eq!(settings.namespace, "shop");
    assert_eq!(settings.zone, "");
    assert_eq!(
        settings.control_plane_addr.to_string(),
        "control-plane.weft.svc:15180"
    );
    assert_eq!(settings.control_plane_id.namespace(), "weft");
    assert_eq!(settings.inbound_ports, [0_u16; 0]);
    let addresses: Vec<IpAddr> = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    assert_eq!(settings.workload_addresses, addresses);
    assert_eq!(settings.interception, Interception::Redirect);
    assert_eq!(settings.explicit_inbound, []);
    assert_eq!(settings.mark, None);
    assert_eq!(settings.workers, None);
    assert_eq!(settings.drain_timeout, Duration::from_secs(30));
    assert_eq!(settings.sidecar_mode, SidecarMode::Native);
    let outbound: Vec<SocketAddr> = vec![
        "127.0.0.1:15140".parse().unwrap(),
        "[::1]:15140".parse().unwrap(),
    ];
    assert_eq!(settings.outbound_addrs, outbound);
    assert_eq!(
        settings.inbound_addr.address(),
        "[::]:15143".parse().unwrap()
    );
    assert_eq!(
        settings.inbound_addr.fallback(),
        Some("0.0.0.0:15143".parse().unwrap())
    );
    assert_eq!(settings.admin_addr.address().port(), 15190);
    assert_eq!(settings.log_level, LogLevel::INFO);
    assert_eq!(settings.log_format, LogFormat::Json);
}

#[test]
fn everything_can_be_said() {
    let settings = read(&[
        (env::ZONE, "eu-1a"),
        (env::CONTROL_PLANE_ADDR, "[fd00::1]:15180"),
        (env::INBOUND_PORTS, "8080, 9090,8080"),
        (env::INTERCEPTION, "explicit"),
        (
            env::EXPLICIT_INBOUND,
            "10.0.0.7:8080=127.0.0.1:8081, [fd00::7]:8080=[::1]:8081",
        ),
        (env::WORKLOAD_ADDRESSES, ""),
        (env::MARK, "0x2140"),
        (env::WORKERS, "4"),
        (env::HTTP2_CONTROL_FRAMES, "1000"),
        (env::HTTP2_RESETS, "2000"),
        (env::MAX_CONNECTION_AGE, "off"),
        (env::FORWARDED_FOR, "Append"),
        (env::HEADER_CASE, "keep"),
        (env::DRAIN_TIMEOUT, "1500ms"),
        (env::SIDECAR_MODE, "legacy"),
        (env::OUTBOUND_ADDR, "127.0.0.5:0"),
        (env::INBOUND_ADDR, "10.0.0.7:15143"),
        (env::ADMIN_ADDR, "127.0.0.1:0"),
        (env::LOG_LEVEL, "Debug"),
        (env::LOG_FORMAT, "plain"),
    ])
    .unwrap();
    assert_eq!(settings.zone, "eu-1a");
    assert_eq!(settings.control_plane_addr.host, "fd00::1");
    assert_eq!(settings.control_plane_addr.to_string(), "[fd00::1]:15180");
    assert_eq!(settings.inbound_ports, [8080, 9090]);
    assert_eq!(settings.interception, Interception::Explicit);
    let inbound = [
        ("10.0.0.7:8080", "127.0.0.1:8081"),
        ("[fd00::7]:8080", "[::1]:8081"),
    ];
    let inbound = inbound.map(|(listen, app)| ExplicitInbound {
        listen: listen.parse().unwrap(),
        app: app.parse().unwrap(),
    });
    assert_eq!(settings.explicit_inbound, inbound);
    assert_eq!(settings.workload_addresses, Vec::<IpAddr>::new());
    assert_eq!(settings.mark, Some(weft_proto::names::PROXY_MARK));
    assert_eq!(settings.workers, Some(4));
    assert_eq!(
        (settings.floods.frames, settings.floods.resets),
        (1_000, 2_000)
    );
    assert_eq!(settings.max_connection_age, AgeCap::OFF);
    assert_eq!(settings.forwarded_for, ForwardedFor::Append);
    assert!(settings.keep_header_case);
    assert_eq!(settings.drain_timeout, Duration::from_millis(1_500));
    assert_eq!(settings.sidecar_mode, SidecarMode::Legacy);
    assert_eq!(settings.outbound_addrs, ["127.0.0.5:0".parse().unwrap()]);
    assert_eq!(settings.inbound_addr.fallback(), None);
    assert_eq!(settings.log_level.as_str(), "debug");
    assert_eq!(settings.log_format, LogFormat::Plain);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let errors = Settings::from_vars(|_| None).unwrap_err();
    let mut missing: Vec<_> = errors.iter().map(|error| error.variable).collect();
    let mut required: Vec<_> = REQUIRED.iter().map(|(name, _)| *name).collect();
    missing.sort_unstable();
    required.sort_unstable();
    assert_eq!(missing, required);

    let errors = read(&[(env::WORKERS, "many"), (env::NAMESPACE, "Shop")]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "2 settings are wrong:\n  \
         WEFT_NAMESPACE=\"Shop\": expected a DNS label: lower-case letters, digits and dashes, at \
         most 63 characters; in a pod, take it from the field metadata.namespace\n  \
         WEFT_WORKERS=\"many\": expected a number from 1 to 256; leave it out to follow the CPU \
         limit"
    );
}

#[test]
fn a_token_is_never_shown() {
    let token = "eyJhbGciOi\nsecret";
    let errors = read(&[(env::TOKEN_FILE, token)]).unwrap_err();
    let text = format!("{errors} {errors:?}");
    assert!(
        text.contains(env::TOKEN_FILE) && !text.contains("eyJ"),
        "{text}"
    );
}

#[test]
fn addresses_are_needed_where_connections_are_redirected() {
    assert_eq!(
        wrong(&[(env::WORKLOAD_ADDRESSES, "")]),
        [env::WORKLOAD_ADDRESSES]
    );
    assert_eq!(
        wrong(&[(env::WORKLOAD_ADDRESSES, "::")]),
        [env::WORKLOAD_ADDRESSES]
    );
}

#[test]
fn an_explicit_listener_is_no_application() {
    let wrong_values = [
        "10.0.0.7:8080",
        "10.0.0.7=127.0.0.1:1",
        "10.0.0.7:8080=10.0.0.8:1",
        "10.0.0.7:0=127.0.0.1:1",
        "10.0.0.7:8080=127.0.0.1:0",
        "0.0.0.0:8080=127.0.0.1:1",
        "127.0.0.1:1=127.0.0.1:1",
        "127.0.0.1:1=127.0.0.1:2,127.0.0.1:2=127.0.0.1:3",
        "10.0.0.7:1=127.0.0.1:1,10.0.0.7:1=127.0.0.1:2",
    ];
    for value in wrong_values {
        let settings = [
            (env::INTERCEPTION, "Explicit"),
            (env::EXPLICIT_INBOUND, value),
        ];
        assert_eq!(wrong(&settings), [env::EXPLICIT_INBOUND], "{value}");
    }
    let redirected = [(env::EXPLICIT_INBOUND, "10.0.0.7:1=127.0.0.1:1")];
    assert_eq!(wrong(&redirected), [env::EXPLICIT_INBOUND]);
}

#[test]
fn bad_values_are_refused() {
    for (variable, values) in [
        (env::WORKLOAD, &["Cart", "-cart", "a..b", "a b"][..]),
        (env::NAMESPACE, &["a.b", "a_b"]),
        (env::ZONE, &["a b", "a/b"]),
        (
            env::CONTROL_PLANE_ADDR,
            &[
                "weft",
                "weft:0",
                "weft:99999",
                ":1",
                "fd00::1:1",
                "[fd00::1]",
                "1.2.3:4",
                "a b:1",
            ],
        ),
        (env::CONTROL_PLANE_ID, &["control-plane", "spiffe://x/y"]),
        (env::INBOUND_PORTS, &["0", "80;81", "80,", "http", "+80"]),
        (env::INTERCEPTION, &["none", "tproxy"]),
        (env::MARK, &["0", "0x", "0x1ffffffff", "-1", "0x+1", "mark"]),
        (env::WORKERS, &["0", "257", "1.5", "-1"]),
        (env::HTTP2_CONTROL_FRAMES, &["0", "1000001", "many"]),
        (env::HTTP2_RESETS, &["0", "1000001", "-1"]),
        (
            env::DRAIN_TIMEOUT,
            &["30", "s", "2h", "1d", "-1s", "99999999999999999999s"],
        ),
        (env::MAX_CONNECTION_AGE, &["1", "999ms", "169h", "never"]),
        (env::FORWARDED_FOR, &["true", "add"]),
        (env::HEADER_CASE, &["title", "true"]),
        (env::SIDECAR_MODE, &["both"]),
        (
            env::OUTBOUND_ADDR,
            &[
                "0.0.0.0:15140",
                "10.0.0.7:15140",
                "127.0.0.1",
                "localhost:1",
            ],
        ),
        (env::INBOUND_ADDR, &["15143", "::"]),
        (env::ADMIN_ADDR, &["admin:1"]),
        (env::LOG_LEVEL, &["loud"]),
        (env::LOG_FORMAT, &["xml"]),
    ] {
        for value in values {
            assert_eq!(wrong(&[(variable, value)]), [variable], "{value:?}");
        }
    }
}

#[test]
fn long_values_are_cut() {
    let long = "x".repeat(10_000);
    let errors = read(&[(env::LOG_FORMAT, &long)]).unwrap_err();
    assert!(errors.to_string().len() < 500);
}

const ALL: [&str; 43] = [
    env::WORKLOAD,
    env::NAMESPACE,
    env::ZONE,
    env::CONTROL_PLANE_ADDR,
    env::CONTROL_PLANE_ID,
    env::TRUST_BUNDLE_FILE,
    env::TOKEN_FILE,
    env::INBOUND_PORTS,
    env::WORKLOAD_ADDRESSES,
    env::INTERCEPTION,
    env::EXPLICIT_INBOUND,
    env::MARK,
    env::WORKERS,
    env::MAX_CONNECTIONS,
    env::MAX_UPSTREAM_CONNECTIONS,
    env::MAX_ENDPOINT_CONNECTIONS,
    env::MAX_REQUESTS,
    env::MAX_HEADER_BYTES,
    env::MAX_HEADERS,
    env::HEADER_TIMEOUT,
    env::IDLE_TIMEOUT,
    env::HTTP2_STREAMS,
    env::HTTP2_STREAM_WINDOW,
    env::HTTP2_CONNECTION_WINDOW,
    env::HTTP2_CONTROL_FRAMES,
    env::HTTP2_RESETS,
    env::BODY_BUFFER,
    env::MAX_CONNECTION_AGE,
    env::FORWARDED_FOR,
    env::HEADER_CASE,
    env::TRACE_ENDPOINT,
    env::TRACE_SAMPLE,
    env::TRACE_PROPAGATION,
    env::TRACE_SERVICE,
    env::METRICS_HEADER_LABEL,
    env::METRICS_HEADER_VALUES,
    env::DRAIN_TIMEOUT,
    env::SIDECAR_MODE,
    env::OUTBOUND_ADDR,
    env::INBOUND_ADDR,
    env::ADMIN_ADDR,
    env::LOG_LEVEL,
    env::LOG_FORMAT,
];

proptest! {
    /// Whatever stands in the environment: an answer, each variable at most once in the errors, and
    /// never an empty list of errors.
    #[test]
    fn nothing_in_the_environment_panics(
        values in prop::collection::vec(
            prop::option::of("\\PC{0,20}|[0-9a-z.:\\[\\],x-]{0,20}|[0-9]{1,22}(ms|s|m|h)"),
            ALL.len(),
        )
    ) {
        let variables: BTreeMap<_, _> = ALL.into_iter().zip(values).collect();
        let read = Settings::from_vars(|name| variables[name].clone());
        if let Err(errors) = read {
            let mut told: Vec<_> = errors.iter().map(|error| error.variable).collect();
            let count = told.len();
            told.sort_unstable();
            told.dedup();
            prop_assert!(count > 0);
            prop_assert_eq!(told.len(), count);
        }
    }

    #[test]
    fn host_and_port_print_back(host in "[a-z][a-z0-9]{0,8}(\\.[a-z]{1,5}){0,3}", port in 1u16..) {
        let text = format!("{host}:{port}");
        let settings = read(&[(env::CONTROL_PLANE_ADDR, &text)]).unwrap();
        prop_assert_eq!(settings.control_plane_addr.to_string(), text);
    }

    #[test]
    fn marks_are_read_in_both_bases(mark in 1u32..) {
        for text in [format!("{mark}"), format!("{mark:#x}"), format!("0X{mark:X}")] {
            prop_assert_eq!(read(&[(env::MARK, &text)]).unwrap().mark, Some(mark));
        }
    }

    #[test]
    fn ages_are_read_within_their_bounds(seconds in 0u64..=700_000) {
        let read = read(&[(env::MAX_CONNECTION_AGE, &format!("{seconds}s"))]);
        if seconds > 7 * 24 * 3_600 {
            prop_assert!(read.is_err());
        } else {
            let age = AgeCap::about(Duration::from_secs(seconds));
            prop_assert_eq!(read.unwrap().max_connection_age, age);
        }
    }

    #[test]
    fn drains_are_read_in_all_units(millis in 0u64..=3_600_000) {
        let text = format!("{millis}ms");
        let drain = read(&[(env::DRAIN_TIMEOUT, &text)]).unwrap().drain_timeout;
        prop_assert_eq!(drain, Duration::from_millis(millis));
        let seconds = millis / 1_000;
        let drain = read(&[(env::DRAIN_TIMEOUT, &format!("{seconds}s"))]).unwrap().drain_timeout;
        prop_assert_eq!(drain, Duration::from_secs(seconds));
    }
}
