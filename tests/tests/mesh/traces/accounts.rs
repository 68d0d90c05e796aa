//! Spans, counted at both ends and at the collector.

use anyhow::Context as _;
use weft_sandbox::load::{Load, Shot};
use weft_sandbox::{Mesh, Workload};

use super::collector::Collector;
use super::{OTLP, PATIENCE, ask, stage};
use crate::common::{Cx, PORT, assert_no_failure, http_app, metrics, wait_for};

/// Every sampled request has one span at either end, and the collector has those that were exported: of
/// all requests, and of one in a hundred. What that costs, beside no traces at all, is told: processor time
/// of both sidecars, of programs as they were built.
pub(super) async fn accounts(cx: Cx) -> anyhow::Result<()> {
    let shares = [("off", None), ("1 %", Some("0.01")), ("100 %", Some("1"))];
    let requests = cx.pick(1_500, 20_000);
    let rounds = 4;
    cx.on(stage("trace-accounts"), async |mesh| {
        let collector = Collector::start(&mesh.pod("collector"), OTLP)?;
        let endpoint = format!("http://{}:{OTLP}", mesh.pod("collector").v4());
        for (index, service) in ["a", "b", "c"].into_iter().enumerate() {
            let (client, app) = (format!("to-{service}"), format!("{service}-1"));
            for workload in [Workload::new(&client), http_app(&app)] {
                let workload = match shares[index].1 {
                    None => workload,
                    Some(share) => workload
                        .env("WEFT_TRACE_ENDPOINT", &endpoint)
                        .env("WEFT_TRACE_SAMPLE", share),
                };
                mesh.add_workload(workload).await?;
            }
            mesh.set_endpoints(service, [&*app])?;
            let to = mesh.addr(service, PORT);
            wait_for("an answer", PATIENCE, async || {
                let answer = ask(&mesh.pod(&client), to, "/", &[("b3", "0")]).await?;
                Ok((answer.status == 200).then_some(()))
            })
            .await?;
        }

        // In turn, so that what else the machine does hits all of them.
        let mut seconds = [0.0; 3];
        for _ in 0..rounds {
            for (index, service) in ["a", "b", "c"].into_iter().enumerate() {
                let (client, app) = (format!("to-{service}"), format!("{service}-1"));
                let before = cpu(mesh, &client).await? + cpu(mesh, &app).await?;
                let report = Load::new(mesh.addr(service, PORT))
                    .clients(4)
                    .requests(requests)
                    .shot(Shot::get("/"))
                    .run(&mesh.pod(&client))
                    .await;
                assert_no_failure(&report);
                seconds[index] += cpu(mesh, &client).await? + cpu(mesh, &app).await? - before;
            }
        }
        let all = requests * rounds;
        for (index, (share, _)) in shares.iter().enumerate() {
            let micros = seconds[index] * 1e6 / all as f64;
            let more = (seconds[index] / seconds[0] - 1.0) * 100.0;
            cx.measured(format!(
                "traces {share}: {micros:.0} µs of both sidecars per request ({more:+.1} %)"
            ));
        }

        let spans = async |workload: &str| -> anyhow::Result<[u64; 4]> {
            let metrics = metrics(mesh, workload).await?;
            let results = ["exported", "dropped", "refused", "unsent"];
            Ok(results.map(|it| metrics.sum("weft_trace_spans_total", &[("result", it)]) as u64))
        };
        // Both ends have the same requests sampled, and the collector what both say that they exported.
        // The last spans may still be on their way: of all, of the share, and to the collector.
        let told = wait_for("the last spans", PATIENCE, async || {
            let mut told = [[0; 4]; 4];
            for (workload, told) in ["to-b", "b-1", "to-c", "c-1"].iter().zip(&mut told) {
                *told = spans(workload).await?;
            }
            let begun = told.map(|results| results.iter().sum::<u64>());
            let is_whole = begun[0] == begun[1] && begun[2..] == [all; 2];
            let exported: u64 = told.iter().map(|[sent, ..]| sent).sum();
            let is_there = collector.spans().len() as u64 == exported;
            Ok((is_whole && is_there).then_some(told))
        })
        .await?;
        for [sent, dropped, refused, unsent] in told {
            assert_eq!((refused, unsent), (0, 0), "{told:?}");
            assert!(sent > 0 && sent + dropped <= all, "{told:?}");
        }
        // Six standard deviations of a binomial distribution, rounded up.
        let expected = all as f64 / 100.0;
        let begun: u64 = told[0].iter().sum();
        let off = (begun as f64 - expected).abs();
        assert!(off <= 6.0 * expected.sqrt(), "{told:?}");
        for workload in ["to-a", "a-1"] {
            assert_eq!(spans(workload).await?, [0; 4]);
        }
        Ok(())
    })
    .await
}

/// What a sidecar has used of the processor, in seconds.
async fn cpu(mesh: &Mesh, workload: &str) -> anyhow::Result<f64> {
    let metrics = metrics(mesh, workload).await?;
    let used = metrics.value("process_cpu_seconds_total", &[]);
    used.context("no process_cpu_seconds_total")
}
