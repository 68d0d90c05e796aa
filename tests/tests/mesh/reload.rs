//! One bad policy among good ones: the good ones change, the bad one stays what it last was, and its
//! reason is in the log, on the admin page and in `weft check`. Without a last good version, which is
//! what a restart of the control plane means, what was meant to close something closes it.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use weft_sandbox::app::Stats;
use weft_sandbox::load::{Load, Running};
use weft_sandbox::{Mesh, Workload};

use crate::Suite;
use crate::common::{
    APP_PORT, Cx, PORT, add, assert_no_failure, http_app, mesh, policy, request, send, service,
    stats, wait_for,
};

const POLICIES: usize = 10;
/// The one that goes bad.
const BAD: usize = 6;
/// Where a policy may send its service's requests, and where they go without one.
const APPS: [&str; 3] = ["blue", "green", "plain"];
/// Requests to each service by which servers are asked what is in force.
const PROBES: usize = 3;
/// How soon an edit is in force.
const SOON: Duration = Duration::from_secs(1);
/// How soon sidecars are back at a control plane that was away.
const RECOVERY: Duration = Duration::from_secs(15);

pub(crate) fn register(suite: &mut Suite) {
    suite.add("reload::one_bad_file_among_ten", files);
    suite.add("reload::one_bad_document_among_ten", documents);
    suite.add("reload::a_restart_closes_what_was_to_be_closed", restart);
}

/// Ten policies in ten files.
async fn files(cx: Cx) -> anyhow::Result<()> {
    ten(cx, Layout::Files).await
}

/// Ten policies in one file.
async fn documents(cx: Cx) -> anyhow::Result<()> {
    ten(cx, Layout::Documents).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Files,
    Documents,
}

impl Layout {
    fn write(self, mesh: &Mesh, texts: &[String]) -> anyhow::Result<()> {
        match self {
            Self::Documents => mesh.apply_policy("policies", &texts.join("---\n")),
            Self::Files => {
                for (number, text) in texts.iter().enumerate() {
                    let name = format!("p{number}");
                    if text.is_empty() {
                        mesh.remove_policy(&name)?;
                    } else {
                        mesh.apply_policy(&name, text)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Where the bad policy's document begins, file and line, among texts of four lines.
    fn place(self) -> (String, u64) {
        match self {
            Self::Files => (format!("p{BAD}.yaml"), 1),
            Self::Documents => ("policies.yaml".to_owned(), BAD as u64 * 5 + 1),
        }
    }
}

/// Where policy `number` sends its service's requests.
fn to(number: usize, app: &str) -> String {
    bad_to(number, &format!("split: {{backends: [{{name: {app}}}]}}"))
}

fn bad_to(number: usize, stanzas: &str) -> String {
    policy(&format!("p{number}"), &format!("s{number}"), stanzas)
}

/// "A reload with one bad policy among ten: nine in force, the bad one's reason in `weft check`, log
/// and admin endpoint, its former version in force", in three ways of being bad, under traffic on
/// all ten services of which no request fails; then mended, deleted, and after a restart.
async fn ten(cx: Cx, layout: Layout) -> anyhow::Result<()> {
    let mut builder = mesh(&cx.name.replace("reload::", "").replace('_', "-"))
        .workload(Workload::new("client").service_account("client"));
    for app in APPS {
        builder = builder.workload(http_app(app)).service(service(app, [app]));
    }
    for number in 0..POLICIES {
        builder = builder.service(service(&format!("s{number}"), ["plain"]));
    }
    cx.on(builder, async |mesh| {
        let mut texts: Vec<_> = (0..POLICIES).map(|number| to(number, "blue")).collect();
        layout.write(mesh, &texts)?;
        let mut probing = Probing::new(mesh);
        probing.until(&["blue"; POLICIES], RECOVERY).await?;
        let loads = loads(mesh);

        let mut slowest = Duration::ZERO;
        let no_yaml = "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p6\n";
        for (from, app, bad, object, words, line) in [
            (
                "blue",
                "green",
                bad_to(BAD, "split: {backends: [{name: green, wieght: 1}]}"),
                "TrafficPolicy default/p6",
                "unknown field",
                3,
            ),
            (
                "green",
                "blue",
                bad_to(
                    BAD,
                    "split: {backends: [{name: blue}]}, timeouts: {connect: 1ms}",
                ),
                "TrafficPolicy default/p6",
                "spec.timeouts.connect",
                3,
            ),
            ("blue", "green", no_yaml.to_owned(), "YAML document", "", 2),
        ] {
            for (number, text) in texts.iter_mut().enumerate() {
                *text = to(number, app);
            }
            texts[BAD] = bad;
            let mut wanted = [app; POLICIES];
            wanted[BAD] = from;
            let log = control_plane_log(mesh)?.len();
            layout.write(mesh, &texts)?;
            slowest = slowest.max(probing.until(&wanted, SOON).await?);
            probing.check(&wanted).await?;

            let (file, begins) = layout.place();
            let refusal = only_refusal(mesh).await?;
            assert_eq!(
                (&refusal["file"], &refusal["object"]),
                (&json!(file), &json!(object))
            );
            let at = refusal["line"].as_u64().context("a line")?;
            assert!(
                (begins..=begins + line).contains(&at),
                "line {at}, the document begins in {begins}"
            );
            let reason = refusal["reason"].as_str().context("a reason")?;
            let (reason, consequence) = reason.rsplit_once("; ").context("what follows of it")?;
            assert!(reason.contains(words), "{reason}");
            assert!(consequence.ends_with("stays in force"), "{consequence}");
            assert_logged(mesh, log, "refused", &refusal)?;
            // Nothing was known to `weft check`, so that what follows is another thing.
            let found = check(mesh, 2)?;
            assert_eq!(found.len(), 1, "{found:#?}");
            assert_eq!(found[0]["check"], "refused");
            assert_eq!(found[0]["line"], refusal["line"]);
            let path = mesh.config_dir().join(&file);
            assert_eq!(found[0]["file"], json!(path.display().to_string()));
            let why = found[0]["why"].as_str().context("why")?;
            assert!(why.starts_with(reason), "{why} is not {reason}");

            texts[BAD] = to(BAD, app);
            layout.write(mesh, &texts)?;
            slowest = slowest.max(probing.until(&[app; POLICIES], SOON).await?);
            wait_for("no refusal", SOON, async || {
                Ok(refusals(mesh).await?.is_empty().then_some(()))
            })
            .await?;
            assert_logged(mesh, log, "no longer refused", &refusal)?;
            assert_eq!(check(mesh, 0)?, Vec::<Value>::new());
        }

        // Bad, and then not there at all: its last good version goes.
        no_yaml.clone_into(&mut texts[BAD]);
        layout.write(mesh, &texts)?;
        wait_for("the refusal", SOON, async || {
            Ok((refusals(mesh).await?.len() == 1).then_some(()))
        })
        .await?;
        probing.check(&["green"; POLICIES]).await?;
        let mut wanted = ["green"; POLICIES];
        wanted[BAD] = "plain";
        let without = {
            let mut texts = texts.clone();
            match layout {
                Layout::Files => texts[BAD].clear(),
                Layout::Documents => drop(texts.remove(BAD)),
            }
            texts
        };
        layout.write(mesh, &without)?;
        slowest = slowest.max(probing.until(&wanted, SOON).await?);
        probing.check(&wanted).await?;

        // There is nothing to fall back on after a restart, and nothing that was to be closed.
        texts[BAD] = bad_to(BAD, "split: {backends: [{name: blue, wieght: 1}]}");
        if layout == Layout::Files {
            for text in &mut texts {
                *text = text.replace("green", "blue");
            }
        }
        mesh.stop_control_plane().await?;
        layout.write(mesh, &texts)?;
        mesh.start_control_plane().await?;
        let nine = if layout == Layout::Files {
            "blue"
        } else {
            "green"
        };
        wanted = [nine; POLICIES];
        wanted[BAD] = "plain";
        probing.until(&wanted, RECOVERY).await?;
        probing.check(&wanted).await?;
        assert_eq!(refusals(mesh).await?.len(), 1);

        let mut sent = probing.sent;
        for load in loads {
            let report = load.stop().await;
            assert_no_failure(&report);
            assert!(report.sent > 10, "hardly any traffic");
            sent += report.sent;
        }
        let seen = stats(mesh, APPS).await?;
        assert_eq!((seen.requests, seen.repeated_ids()), (sent, 0));
        cx.measured(format!(
            "{sent} requests, none failed; the slowest edit was in force after {slowest:.0?}"
        ));
        Ok(())
    })
    .await
}

/// A little traffic on every service.
fn loads(mesh: &Mesh) -> Vec<Running> {
    let client = mesh.pod("client");
    (0..POLICIES)
        .map(|number| {
            Load::new(mesh.addr(&format!("s{number}"), PORT))
                .rate(20.0)
                .id_prefix(&format!("load{number}"))
                .start(&client)
        })
        .collect()
}

/// Asks what is in force, by requests of its own.
struct Probing<'a> {
    mesh: &'a Mesh,
    sent: u64,
}

impl<'a> Probing<'a> {
    fn new(mesh: &'a Mesh) -> Self {
        Self { mesh, sent: 0 }
    }

    /// Waits until each service is served by the wanted application; how long that took.
    async fn until(
        &mut self,
        wanted: &[&str; POLICIES],
        patience: Duration,
    ) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let mut rest: Vec<usize> = (0..POLICIES).collect();
        wait_for("the edit", patience, async || {
            let mut still = Vec::new();
            for &number in &rest {
                let (_, served_by) = self.probe(number).await?;
                if served_by != wanted[number] {
                    still.push(number);
                }
            }
            rest = still;
            Ok(rest.is_empty().then_some(()))
        })
        .await?;
        Ok(begin.elapsed())
    }

    /// The servers' own count: each of some requests was seen by the wanted application, and by no
    /// other.
    async fn check(&mut self, wanted: &[&str; POLICIES]) -> anyhow::Result<()> {
        let mut ids = Vec::new();
        for (number, app) in wanted.iter().enumerate() {
            for _ in 0..PROBES {
                ids.push((self.probe(number).await?.0, *app));
            }
        }
        for app in APPS {
            let seen = self.mesh.app(app).stats().await?.ids;
            for (id, wanted) in &ids {
                let times = u64::from(*wanted == app);
                assert_eq!(seen.get(id).copied().unwrap_or(0), times, "{id} at {app}");
            }
        }
        Ok(())
    }

    /// The id of one request, and who served it.
    async fn probe(&mut self, number: usize) -> anyhow::Result<(String, String)> {
        self.sent += 1;
        let id = format!("probe{number}-{}", self.sent);
        let to = self.mesh.addr(&format!("s{number}"), PORT);
        let get = request(Method::GET, "/", &id, "");
        let answer = send(&self.mesh.pod("client"), to, get).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let served_by = answer.served_by().context("an application's answer")?;
        Ok((id, served_by.to_owned()))
    }
}

const FAULT: &str =
    "faultInjection: {abort: {httpStatus: 418}, headers: [{name: x-chaos, value: '1'}]}";
/// No such policy can be: a try cannot take longer than its request.
const NONSENSE: &str = "timeouts: {request: 1s, perTry: 2s}";

/// "After a restart a bad `authorization` denies and a bad `mtls` is Strict", other stanzas are left
/// out, and what does not say what it is for closes nothing. A restart of a sidecar alone changes
/// nothing, since the control plane remembers.
async fn restart(cx: Cx) -> anyhow::Result<()> {
    let mut builder = mesh("restart");
    for account in ["client", "other"] {
        builder = builder.workload(Workload::new(account).service_account(account));
    }
    for name in ["vault", "safe", "open"] {
        let app = format!("{name}-1");
        builder = builder
            .workload(http_app(&app))
            .service(service(name, [app.as_str()]));
    }
    let allow = |account: &str| {
        format!(
            "authorization: {{allow: [{{principals: [{{serviceAccount: {{name: {account}}}}}]}}]}}"
        )
    };
    let vault = policy("vault", "vault", &format!("{}, {FAULT}", allow("client")));
    let safe = policy(
        "safe",
        "safe",
        &format!("mtls: {{mode: Permissive}}, {FAULT}"),
    );
    let open = policy("open", "open", &allow("other"));
    let spoilt = |text: &str| text.replace(FAULT, &format!("{FAULT}, {NONSENSE}"));
    let (bad_vault, bad_safe) = (spoilt(&vault), spoilt(&safe));
    let bad_open = open.replace("name: open}]", "nam: open}]");
    for (name, text) in [("vault", &vault), ("safe", &safe), ("open", &open)] {
        builder = builder.named_policy(name, text);
    }
    cx.on(builder, async |mesh| {
        let mut calls = Calls::new(mesh)?;
        calls.until(&AS_WRITTEN, RECOVERY).await?;

        for (name, text) in [
            ("vault", &bad_vault),
            ("safe", &bad_safe),
            ("open", &bad_open),
        ] {
            mesh.apply_policy(name, text)?;
        }
        wait_for("three refusals", RECOVERY, async || {
            let refused = refusals(mesh).await?;
            let files: BTreeSet<_> = refused.iter().map(|it| it["file"].to_string()).collect();
            Ok((files.len() == 3).then_some(()))
        })
        .await?;
        // Whatever would follow of it has come.
        tokio::time::sleep(SOON).await;
        calls.check(&AS_WRITTEN).await?;
        for sidecar in ["vault-1", "safe-1", "open-1", "client"] {
            mesh.restart_sidecar(sidecar).await?;
        }
        calls.check(&AS_WRITTEN).await?;

        let log = control_plane_log(mesh)?.len();
        mesh.stop_control_plane().await?;
        mesh.start_control_plane().await?;
        calls.until(&CLOSED, RECOVERY).await?;
        calls.check(&CLOSED).await?;
        let refused = refusals(mesh).await?;
        let found = check(mesh, 2)?;
        for (file, told) in [
            (
                "open.yaml",
                "; what it is for cannot be read, so it closes nothing",
            ),
            ("safe.yaml", "; mTLS is Strict until this is mended"),
            ("vault.yaml", "; its target is denied until this is mended"),
        ] {
            let refusal = refused.iter().find(|refusal| refusal["file"] == file);
            let refusal = refusal.with_context(|| format!("{file} is not refused"))?;
            let reason = refusal["reason"].as_str().context("a reason")?;
            assert!(reason.ends_with(told), "{file}: {reason}");
            assert_logged(mesh, log, "refused", refusal)?;
            let same = found.iter().any(|finding| finding["why"] == reason);
            assert!(same, "{reason} is not among {found:#?}");
        }
        assert_eq!(refused.len(), found.len());
        for sidecar in ["vault-1", "safe-1", "open-1", "client"] {
            mesh.restart_sidecar(sidecar).await?;
        }
        calls.check(&CLOSED).await?;

        for (name, text) in [("vault", &vault), ("safe", &safe), ("open", &open)] {
            mesh.apply_policy(name, text)?;
        }
        let mended = calls.until(&AS_WRITTEN, SOON).await?;
        calls.check(&AS_WRITTEN).await?;
        assert_eq!(refusals(mesh).await?.len(), 0);

        // Bad again, then deleted: nothing is left of it, not even its last good version.
        mesh.apply_policy("vault", &bad_vault)?;
        wait_for("the refusal", SOON, async || {
            Ok((refusals(mesh).await?.len() == 1).then_some(()))
        })
        .await?;
        calls.check(&AS_WRITTEN).await?;
        mesh.remove_policy("vault")?;
        calls.until(&WITHOUT_VAULT, SOON).await?;
        calls.check(&WITHOUT_VAULT).await?;
        cx.measured(format!("mended policies were in force after {mended:.0?}"));
        Ok(())
    })
    .await
}

/// What becomes of one call of each kind: its status and its outcome.
type Verdicts = [(u16, &'static str); CALLS.len()];

/// From whom, to which service, and whether with the header that faults are for. A `stranger` comes
/// in plaintext, past every sidecar but the server's.
const CALLS: [(&str, &str, bool); 8] = [
    ("client", "vault", false),
    ("client", "vault", true),
    ("other", "vault", false),
    ("client", "safe", false),
    ("client", "safe", true),
    ("stranger", "safe", false),
    ("client", "open", false),
    ("other", "open", false),
];
const OK: (u16, &str) = (200, "");
const FAULTY: (u16, &str) = (418, "fault_injected");
const DENIED: (u16, &str) = (403, "unauthorized");
const PLAINTEXT: (u16, &str) = (403, "mtls_required");
const AS_WRITTEN: Verdicts = [OK, FAULTY, DENIED, OK, FAULTY, OK, DENIED, OK];
const CLOSED: Verdicts = [DENIED, DENIED, DENIED, OK, OK, PLAINTEXT, OK, OK];
const WITHOUT_VAULT: Verdicts = [OK, OK, OK, OK, FAULTY, OK, DENIED, OK];

struct Calls<'a> {
    mesh: &'a Mesh,
    stranger: weft_sandbox::Pod,
    sent: u64,
}

impl<'a> Calls<'a> {
    fn new(mesh: &'a Mesh) -> anyhow::Result<Self> {
        Ok(Self {
            mesh,
            stranger: mesh.stranger("stranger")?,
            sent: 3,
        })
    }

    async fn until(&mut self, wanted: &Verdicts, patience: Duration) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        wait_for("the verdicts", patience, async || {
            Ok((self.ask().await?.0 == to_text(wanted)).then_some(()))
        })
        .await?;
        Ok(begin.elapsed())
    }

    /// By what callers are told and by what servers saw.
    async fn check(&mut self, wanted: &Verdicts) -> anyhow::Result<()> {
        let (told, ids) = self.ask().await?;
        assert_eq!(told, to_text(wanted));
        let mut seen = Stats::default();
        for app in ["vault-1", "safe-1", "open-1"] {
            add(&mut seen, &self.mesh.app(app).stats().await?);
        }
        for (at, id) in ids.iter().enumerate() {
            let times = u64::from(wanted[at].0 == 200);
            let seen = seen.ids.get(id).copied().unwrap_or(0);
            assert_eq!(seen, times, "{:?} at the server", CALLS[at]);
        }
        Ok(())
    }

    /// One call of each kind: verdicts and ids.
    async fn ask(&mut self) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let (mut told, mut ids) = (Vec::new(), Vec::new());
        for (from, service, chaos) in CALLS {
            self.sent += 1;
            let id = format!("{from}-{service}-{}", self.sent);
            let mut get = request(Method::GET, "/", &id, "");
            if chaos {
                let name = HeaderName::from_static("x-chaos");
                get.headers_mut()
                    .insert(name, HeaderValue::from_static("1"));
            }
            let answer = if from == "stranger" {
                let pod = self.mesh.pod(&format!("{service}-1"));
                send(&self.stranger, (pod.v4(), APP_PORT).into(), get).await?
            } else {
                let to = self.mesh.addr(service, PORT);
                send(&self.mesh.pod(from), to, get).await?
            };
            let outcome = answer.outcome().unwrap_or_default();
            told.push(format!("{} {outcome}", answer.status.as_u16()));
            ids.push(id);
        }
        Ok((told, ids))
    }
}

fn to_text(verdicts: &Verdicts) -> Vec<String> {
    let verdicts = verdicts.iter();
    verdicts
        .map(|(status, outcome)| format!("{status} {outcome}"))
        .collect()
}

/// What the control plane's admin page says is refused.
async fn refusals(mesh: &Mesh) -> anyhow::Result<Vec<Value>> {
    let read = async |page: &str| -> anyhow::Result<Value> {
        let answer = mesh.control_plane_get(page).await?;
        Ok(serde_json::from_slice(&answer.body)?)
    };
    let status = read("/status").await?;
    let health = read("/health").await?;
    let refused = status["refused"].as_array().context("refused")?.clone();
    // Two pages, between which an edit may fall.
    if status["modelRevision"] == health["modelRevision"] {
        assert_eq!(health["objectsRefused"], json!(refused.len()));
    }
    Ok(refused)
}

async fn only_refusal(mesh: &Mesh) -> anyhow::Result<Value> {
    let mut refused = refusals(mesh).await?;
    assert_eq!(refused.len(), 1, "{refused:#?}");
    refused.pop().context("one was there")
}

fn control_plane_log(mesh: &Mesh) -> anyhow::Result<String> {
    let file = mesh.dir().join("logs").join("control-plane.log");
    Ok(std::fs::read_to_string(file)?)
}

/// A line of the log from `from` on says the same as the admin page.
fn assert_logged(mesh: &Mesh, from: usize, message: &str, refusal: &Value) -> anyhow::Result<()> {
    let log = control_plane_log(mesh)?;
    let mut lines = log[from..]
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let same = |line: &Value| {
        let fields = ["file", "line", "object", "reason"];
        line["message"] == message && fields.iter().all(|field| line[field] == refusal[field])
    };
    anyhow::ensure!(
        lines.any(|line| same(&line)),
        "no {message:?} of {refusal} in\n{}",
        &log[from..]
    );
    Ok(())
}

/// What `weft check` finds in the control plane's directory, and that it ends with this exit code.
fn check(mesh: &Mesh, code: i32) -> anyhow::Result<Vec<Value>> {
    let output = Command::new(env!("CARGO_BIN_EXE_weft-under-test"))
        .args(["check", "-o", "json", "-f"])
        .arg(mesh.config_dir())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let object: Value = serde_json::from_str(&text)?;
    Ok(object["findings"].as_array().context("findings")?.clone())
}
