//! The redirect rules: what reaches the sidecar, what passes, and what a refusal says.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustix::thread::CapabilitySet;
use weft_proto::names::{PROXY_MARK, ports, sentinel};
use weft_proxy::interception::{Action, InterceptionPlan, Match, Rule, apply, rules, undo};

use crate::pod::{Listener, PATIENCE, connect, connect_marked, families, in_pod};
use crate::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![
    connections_of_the_application_reach_the_outbound_listener,
    the_sidecar_passes_by_mark_but_not_to_the_sentinel,
    the_sidecar_passes_by_uid_but_not_to_the_sentinel,
    loopback_and_the_own_address_pass,
    skipped_ports_and_subnets_pass,
    connections_from_outside_reach_the_inbound_listener,
    listed_inbound_ports_and_clients_alone_decide,
    applying_twice_is_applying_once_and_undo_removes_all,
    established_connections_stay_as_they_are,
    the_longest_lists_fit_into_one_transaction,
    without_the_capability_the_error_says_which,
    a_refused_step_is_named_and_nothing_has_changed,
    rules_that_are_not_as_sent_are_an_error,
];

fn connections_of_the_application_reach_the_outbound_listener() {
    in_pod(|_| {
        let applied = apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        assert!(applied.ipv6);
        for family in families() {
            let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
            for ip in [family.elsewhere, family.client] {
                let destination = SocketAddr::new(ip, 8080);
                let _stream = connect(destination).expect("redirected");
                assert_eq!(sidecar.accept_redirected(), destination);
            }
        }
    });
}

fn the_sidecar_passes_by_mark_but_not_to_the_sentinel() {
    in_pod(|pod| {
        apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        for (family, sentinel) in families().into_iter().zip([sentinel::V4, sentinel::V6]) {
            let destination = SocketAddr::new(family.client, 9000);
            let direct = pod.client_listens(destination);
            let _stream = connect_marked(destination, PROXY_MARK).expect("passes");
            direct.accept_direct();

            let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
            for mark in [0, PROXY_MARK] {
                let _stream = connect_marked(sentinel, mark).expect("redirected");
                assert_eq!(sidecar.accept_redirected(), sentinel);
            }
        }
    });
}

/// In an unprivileged user namespace there is one uid, 0, which stands for the user's own: the rules
/// know the sidecar by the number that it has inside.
fn the_sidecar_passes_by_uid_but_not_to_the_sentinel() {
    in_pod(|pod| {
        let uid = rustix::process::getuid().as_raw();
        apply(&rules(&InterceptionPlan::by_uid(uid))).expect("applies");
        for (family, sentinel) in families().into_iter().zip([sentinel::V4, sentinel::V6]) {
            let destination = SocketAddr::new(family.client, 9000);
            let direct = pod.client_listens(destination);
            let _stream = connect(destination).expect("passes");
            direct.accept_direct();

            let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
            let _stream = connect(sentinel).expect("redirected");
            assert_eq!(sidecar.accept_redirected(), sentinel);
        }
    });
}

fn loopback_and_the_own_address_pass() {
    in_pod(|_| {
        apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        for family in families() {
            for ip in [family.loopback, family.pod] {
                let application = Listener::bind(ip, 8080);
                for mark in [0, PROXY_MARK] {
                    let _stream = connect_marked(application.address, mark).expect("passes");
                    application.accept_direct();
                }
            }
        }
    });
}

fn skipped_ports_and_subnets_pass() {
    in_pod(|pod| {
        let families = families();
        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.skip_outbound_ports.insert(5432);
        apply(&rules(&plan)).expect("applies");
        for family in &families {
            let direct = pod.client_listens(SocketAddr::new(family.client, 5432));
            let _stream = connect(direct.address).expect("passes");
            direct.accept_direct();
        }

        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.skip_subnets = ["10.77.128.9/10", "fd77::/17"]
            .map(|subnet| subnet.parse().expect("a literal"))
            .into();
        apply(&rules(&plan)).expect("applies");
        for family in &families {
            let direct = pod.client_listens(SocketAddr::new(family.client, 9000));
            let _stream = connect(direct.address).expect("passes");
            direct.accept_direct();

            let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
            let elsewhere = SocketAddr::new(family.elsewhere, 9000);
            let _stream = connect(elsewhere).expect("redirected");
            assert_eq!(sidecar.accept_redirected(), elsewhere);
        }
    });
}

fn connections_from_outside_reach_the_inbound_listener() {
    in_pod(|pod| {
        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.skip_inbound_ports.insert(7000);
        apply(&rules(&plan)).expect("applies");
        for family in families() {
            let sidecar = Listener::bind(family.any, ports::INBOUND);
            let destination = SocketAddr::new(family.pod, 8080);
            let _stream = pod.client_connects(destination).expect("redirected");
            assert_eq!(sidecar.accept_redirected(), destination);

            for port in [7000, ports::ADMIN, ports::OUTBOUND] {
                let direct = Listener::bind(family.pod, port);
                let _stream = pod.client_connects(direct.address).expect("passes");
                direct.accept_direct();
            }
            let own = SocketAddr::new(family.pod, ports::INBOUND);
            let _stream = pod.client_connects(own).expect("passes");
            sidecar.accept_direct();
        }
    });
}

fn listed_inbound_ports_and_clients_alone_decide() {
    in_pod(|pod| {
        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.inbound_ports.insert(8080);
        apply(&rules(&plan)).expect("applies");
        for family in families() {
            let sidecar = Listener::bind(family.any, ports::INBOUND);
            let listed = SocketAddr::new(family.pod, 8080);
            let _stream = pod.client_connects(listed).expect("redirected");
            assert_eq!(sidecar.accept_redirected(), listed);
            let other = Listener::bind(family.pod, 8081);
            let _stream = pod.client_connects(other.address).expect("passes");
            other.accept_direct();
        }

        for family in families() {
            plan.skip_source_subnets = vec![family.client.into()];
            apply(&rules(&plan)).expect("applies");
            let application = Listener::bind(family.pod, 8080);
            let _stream = pod.client_connects(application.address).expect("passes");
            application.accept_direct();
        }
    });
}

fn applying_twice_is_applying_once_and_undo_removes_all() {
    in_pod(|pod| {
        undo().expect("there is nothing");
        let ruleset = rules(&InterceptionPlan::by_mark(PROXY_MARK));
        let expected: usize = ruleset
            .tables
            .iter()
            .flat_map(|table| &table.chains)
            .map(|chain| chain.rules.len())
            .sum();
        // Other rules are replaced, the same ones not doubled: `apply` counts.
        apply(&rules(&InterceptionPlan::default())).expect("applies");
        for _ in 0..2 {
            assert_eq!(apply(&ruleset).expect("applies").rules, expected);
        }
        for _ in 0..2 {
            undo().expect("removes");
        }
        for family in families() {
            let direct = pod.client_listens(SocketAddr::new(family.client, 9000));
            let _stream = connect(direct.address).expect("not redirected");
            direct.accept_direct();
            let direct = Listener::bind(family.pod, 9000);
            let _stream = pod.client_connects(direct.address).expect("not redirected");
            direct.accept_direct();
        }
    });
}

fn established_connections_stay_as_they_are() {
    in_pod(|pod| {
        let opened = families().map(|family| {
            let outside = pod.client_listens(SocketAddr::new(family.client, 9000));
            let inside = Listener::bind(family.pod, 9000);
            let out = connect(outside.address).expect("nothing is redirected yet");
            let into = pod.client_connects(inside.address).expect("nor here");
            [(out, outside.accept()), (inside.accept(), into)]
        });
        apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        // Whichever side speaks first after the change.
        for (near, far) in opened.iter().flatten() {
            for (mut from, mut to) in [(near, far), (far, near)] {
                to.set_read_timeout(Some(PATIENCE)).expect("settable");
                from.write_all(b"x").expect("open");
                to.read_exact(&mut [0]).expect("arrives");
            }
        }
    });
}

fn the_longest_lists_fit_into_one_transaction() {
    in_pod(|_| {
        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.exempt_uid = Some(1);
        plan.skip_outbound_ports = (1..=64).collect();
        plan.skip_inbound_ports = (101..=164).collect();
        plan.inbound_ports = (201..=264).collect();
        for n in 1..=64 {
            let subnet = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 0));
            let subnet = ipnet::IpNet::new_assert(subnet, 64);
            plan.skip_subnets.push(subnet);
            plan.skip_source_subnets.push(subnet);
        }
        let applied = apply(&rules(&plan)).expect("fits");
        assert!(applied.rules > 64 * 8, "{applied:?}");
    });
}

/// A capability counts in the user namespace that owns the network namespace: dropping it on this
/// thread means the same there as it does for root on the host.
fn without_the_capability_the_error_says_which() {
    in_pod(|_| {
        let mut sets = rustix::thread::capabilities(None).expect("readable");
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, sets).expect("anyone may drop one");
        let error = apply(&rules(&InterceptionPlan::default())).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "change the nf_tables ruleset: Operation not permitted (os error 1) \
             (needs CAP_NET_ADMIN in this network namespace)"
        );
    });
}

fn a_refused_step_is_named_and_nothing_has_changed() {
    in_pod(|_| {
        apply(&rules(&InterceptionPlan::by_mark(PROXY_MARK))).expect("applies");
        let mut plan = InterceptionPlan::by_mark(PROXY_MARK);
        plan.skip_outbound_ports.insert(9000);
        let mut ruleset = rules(&plan);
        // Every step before this one would have worked: the kernel takes no more than 128
        // expressions in a rule, and each condition has two.
        ruleset.tables[1].chains[0].rules.push(Rule {
            matches: vec![Match::Mark(1); 65],
            action: Action::Return,
        });
        let error = apply(&ruleset).expect_err("refused").to_string();
        assert!(
            error.starts_with("add to chain ip6 weft output the rule \"meta mark ")
                && error.ends_with(" return\": Invalid argument (os error 22)"),
            "{error}"
        );
        for family in families() {
            let sidecar = Listener::bind(family.loopback, ports::OUTBOUND);
            let destination = SocketAddr::new(family.client, 9000);
            let _stream = connect(destination).expect("still redirected");
            assert_eq!(sidecar.accept_redirected(), destination);
        }
    });
}

fn rules_that_are_not_as_sent_are_an_error() {
    in_pod(|_| {
        let mut ruleset = rules(&InterceptionPlan::default());
        // The same chain once more: the kernel has one with the rules of both.
        let chain = ruleset.tables[1].chains[0].clone();
        let expected = chain.rules.len();
        ruleset.tables[1].chains.push(chain);
        let error = apply(&ruleset).expect_err("not as sent");
        assert_eq!(
            error.to_string(),
            format!(
                "chain ip6 weft output has {} rules of {expected}: does another program change it?",
                2 * expected
            )
        );
    });
}
