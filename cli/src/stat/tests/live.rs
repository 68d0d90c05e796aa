//! What passed between two questions.

use std::collections::BTreeMap;
use std::time::Instant;

use proptest::prelude::*;
use weft_proxy::telemetry::traffic::{Count, Latency, Place, Row};

use super::super::ask::{Answers, Sidecar};
use super::super::difference;
use super::super::top::Memory;
use super::{answers, place, row, sidecar};
use std::time::Duration;

#[test]
fn what_is_new_is_what_passed_since_the_last_question() {
    let mut memory = Memory::default();
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    let ask = |seconds: f64, counts: &[(&str, u64)]| {
        let sidecars = counts.iter().map(|(workload, count)| {
            let rows = vec![row("shop/cart", "mutual", &[("ok", "2xx", *count, 0)])];
            sidecar(
                workload,
                "shop/web",
                seconds,
                vec![place("outbound", "shop/cart:80", "r", rows)],
            )
        });
        answers(sidecars.collect())
    };
    let passed = |answers: &Answers| -> Vec<(String, u64)> {
        let sidecars = answers.sidecars.iter();
        let requests = |it: &Sidecar| it.summary.places.iter().map(Place::requests).sum();
        sidecars
            .map(|it| (it.workload.clone(), requests(it)))
            .collect()
    };
    // What a sidecar counted before anybody asked is not of now.
    let mut first = ask(100.0, &[("shop/web-1", 50)]);
    memory.keep(&mut first, at(0));
    assert!(passed(&first).is_empty());
    // One that started since the last question counted all of it since.
    let mut second = ask(102.0, &[("shop/web-1", 60)]);
    second
        .sidecars
        .extend(ask(1.0, &[("shop/web-2", 5)]).sidecars);
    second
        .told
        .answers
        .extend(ask(1.0, &[("shop/web-2", 5)]).told.answers);
    memory.keep(&mut second, at(2));
    assert_eq!(
        passed(&second),
        [("shop/web-1".to_owned(), 10), ("shop/web-2".to_owned(), 5)]
    );
    assert!((second.sidecars[0].summary.seconds - 2.0).abs() < 1e-9);
    // One that is silent for once loses nothing.
    let mut third = ask(104.0, &[]);
    third.told = second.told.clone();
    memory.keep(&mut third, at(4));
    let mut fourth = ask(106.0, &[("shop/web-1", 100)]);
    memory.keep(&mut fourth, at(6));
    assert_eq!(passed(&fourth), [("shop/web-1".to_owned(), 40)]);
    assert!((fourth.sidecars[0].summary.seconds - 4.0).abs() < 1e-9);
    // One that started anew begins at nothing.
    let mut fifth = ask(1.0, &[("shop/web-1", 3)]);
    fifth.sidecars[0].summary.run = 8;
    memory.keep(&mut fifth, at(8));
    assert_eq!(passed(&fifth), [("shop/web-1".to_owned(), 3)]);
}

#[test]
fn what_comes_out_of_a_sum_is_left_out_for_once() {
    let rows = |count| vec![row("p", "none", &[("ok", "2xx", count, 0)])];
    let all = |places| sidecar("shop/web-1", "shop/web", 1.0, places).summary;
    let before = all(vec![place("outbound", "overflow", "overflow", rows(1_000))]);
    let now = all(vec![
        place("outbound", "shop/cart:80", "r", rows(600)),
        place("outbound", "overflow", "overflow", rows(400)),
    ]);
    let passed: u64 = difference::since(&before, &now)
        .places
        .iter()
        .map(Place::requests)
        .sum();
    assert_eq!(passed, 0);
}

fn some_rows() -> impl Strategy<Value = Vec<Row>> {
    let count = (0..3_usize, 0..1_000_u64)
        .prop_map(|(at, count)| ([("ok", "2xx"), ("ok", "5xx"), ("reset", "5xx")][at], count));
    let row = (0..3_usize, prop::collection::vec(count, 0..4)).prop_map(|(peer, counts)| {
        let counts: BTreeMap<_, _> = counts.into_iter().collect();
        let counts: Vec<_> = counts
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|((outcome, class), count)| {
                (
                    outcome,
                    class,
                    count,
                    if class == "5xx" { count } else { 0 },
                )
            })
            .collect();
        (peer, row(["a", "b", "c"][peer], "mutual", &counts))
    });
    let rows = prop::collection::vec(row, 0..4);
    rows.prop_map(|rows| {
        rows.into_iter()
            .collect::<BTreeMap<_, _>>()
            .into_values()
            .collect()
    })
}

proptest! {
    /// What was there before and what passed since add up to what is there now.
    #[test]
    fn differences_add_up(before in some_rows(), new in some_rows()) {
        let mut total: BTreeMap<(String, String, String), u64> = BTreeMap::new();
        for row in before.iter().chain(&new) {
            for count in &row.counts {
                let key = (row.peer.clone(), count.0.to_string(), count.1.to_string());
                *total.entry(key).or_default() += count.2;
            }
        }
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        for ((peer, outcome, class), count) in total {
            let row = rows.entry(peer.clone()).or_insert_with(|| row(&peer, "mutual", &[]));
            let failed = if class == "5xx" { count } else { 0 };
            row.counts.push(Count(outcome.into(), class.into(), count, failed));
        }
        let all = |rows, seconds| {
            let places = vec![place("outbound", "shop/cart:80", "r", rows)];
            sidecar("shop/web-1", "shop/web", seconds, places).summary
        };
        let since = difference::since(&all(before, 5.0), &all(rows.into_values().collect(), 8.0));
        let failures = |rows: &[Row]| rows.iter().flat_map(|it| &it.counts).map(|it| it.3).sum::<u64>();
        let requests: u64 = new.iter().map(Row::requests).sum();
        prop_assert_eq!(since.places[0].requests(), requests);
        prop_assert_eq!(failures(&since.places[0].rows), failures(&new));
        prop_assert_eq!(since.places[0].latency.as_ref().map(Latency::count), Some(requests));
        prop_assert!((since.seconds - 3.0).abs() < 1e-9);
    }
}
