//! An issuer that somebody else makes, in files: replaced under load, and refused where it is no good.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::time::sleep;
use weft_control_plane::identity::Fingerprint;
use weft_proto::names::env;
use weft_sandbox::Mesh;
use weft_sandbox::load::{Load, Running, Shot};
use weft_sandbox::mesh::Builder;
use weft_sandbox::metrics::Metrics;
use weft_tests::grpc_and_bytes::{GrpcAndBytes, with_servers};

use crate::Suite;
use crate::common::{Cx, PORT, assert_all_served_once, client_and, stats, wait_for};
use crate::rotation::{leaves, status, trusted, weft};

/// Leaves' life.
const LEAF: Duration = Duration::from_secs(5);
/// What reading the files and a generation of leaves may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What each phase of a new root may take.
const PHASE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const INTACT: &str = "weft_control_plane_authority_secret_intact";

pub(crate) fn register(suite: &mut Suite) {
    suite.add("given::issuers_and_roots_are_replaced", replaced);
    suite.add("given::what_is_no_good_is_refused", refused);
}

/// Another issuer of the same root, and then one of another root by the steps of the page: the former root
/// stays beside the new one for as long as certificates live. 0 failed.
async fn replaced(cx: Cx) -> anyhow::Result<()> {
    let files = Files::new()?;
    let (old, new) = (Root::new("old")?, Root::new("new")?);
    let first = files.give(&old.issues()?, &[&old])?;
    cx.on(files.mesh("given")?, async |mesh| {
        all_have(mesh, &[&old], &first).await?;
        let traffic = Traffic::start(mesh);

        let begin = Instant::now();
        let second = files.give(&old.issues()?, &[&old])?;
        all_have(mesh, &[&old], &second).await?;
        let replaced = begin.elapsed();

        let third = files.give(&new.issues()?, &[&new, &old])?;
        let both = sorted(&[&old, &new]);
        let seen = wait_for("a sidecar that trusts both and has the old one's", PHASE, async || {
            let all = trusted(mesh).await?;
            let published = all.values().all(|(roots, _)| sorted_values(roots) == both);
            Ok(published.then_some(all))
        })
        .await?;
        // Nobody signs with the new one before everybody trusts it.
        assert!(seen.values().any(|(_, issuer)| *issuer != third));
        let (code, _, error) = weft(mesh, &["rotate", "root", "--yes"]).await?;
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("whoever gives it rotates it"), "{error}");
        all_have(mesh, &[&old, &new], &third).await?;
        let signs = begin.elapsed();

        sleep(LEAF).await;
        files.give_roots(&[&new])?;
        all_have(mesh, &[&new], &third).await?;
        let forgotten = begin.elapsed();
        wait_for("the bundle of the new root alone", PATIENCE, async || {
            let file = std::fs::read_to_string(mesh.state_dir().join("trust-bundle.pem"))?;
            Ok((file.matches("BEGIN CERTIFICATE").count() == 1).then_some(()))
        })
        .await?;
        let status = status(mesh).await?;
        assert!(status["problem"].is_null() && status["rotation"].is_null(), "{status}");

        let said = traffic.end(mesh).await?;
        cx.measured(format!(
            "another issuer in force after {replaced:.1?}, one of another root after {signs:.1?}, the old root \
             gone after {forgotten:.1?}; {said}, 0 failed"
        ));
        Ok(())
    })
    .await
}

/// A pair that does not fit, or that nobody could believe, is refused in words, in the log and as a metric. The
/// last good one goes on signing, and the next good one is taken.
async fn refused(cx: Cx) -> anyhow::Result<()> {
    let files = Files::new()?;
    let (root, other) = (Root::new("root")?, Root::new("other")?);
    let good = root.issues()?;
    let signs = files.give(&good, &[&root])?;
    cx.on(files.mesh("misgiven")?, async |mesh| {
        all_have(mesh, &[&root], &signs).await?;
        let traffic = Traffic::start(mesh);
        let (another, stranger) = (root.issues()?, other.issues()?);
        let with = |certificate: &str, key: &str| Given {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        let cases = [
            (
                with(&another.certificate, &good.key),
                "the key is not that of the issuer's certificate",
            ),
            (stranger, "not believed by who trusts its roots"),
            (root.issues_for(SystemTime::now() - DAY)?, "has expired"),
            (with(&another.certificate[..200], &another.key), "not PEM"),
            (
                with(&another.certificate, "not a key"),
                "the key is not a P-256 key",
            ),
        ];
        for (given, words) in cases {
            files.write(&given)?;
            is_refused(mesh, words).await?;
        }
        files.take_away()?;
        is_refused(mesh, "").await?;

        // All of this was over several generations of leaves, all of them by the last good one.
        let before = leaves(mesh).await?;
        wait_for("renewals by the last good issuer", PATIENCE, async || {
            let now = leaves(mesh).await?;
            let all = now
                .iter()
                .zip(&before)
                .all(|(now, before)| now.1 >= before.1 + 2.0);
            Ok(all.then_some(()))
        })
        .await?;
        all_have(mesh, &[&root], &signs).await?;

        let next = files.give(&another, &[&root])?;
        all_have(mesh, &[&root], &next).await?;
        let status = status(mesh).await?;
        assert!(status["problem"].is_null(), "{status}");
        assert_eq!(intact(mesh).await?, 1.0);
        let said = traffic.end(mesh).await?;
        cx.measured(format!("six refused; {said}, 0 failed"));
        Ok(())
    })
    .await
}

/// Waits until what is given is refused with these words everywhere where somebody may look.
async fn is_refused(mesh: &Mesh, words: &str) -> anyhow::Result<()> {
    let problem = wait_for(&format!("refused: {words}"), PATIENCE, async || {
        // What is wrong is its exit code too.
        let (code, out, _) = weft(mesh, &["status", "-o", "json"]).await?;
        let status: serde_json::Value = serde_json::from_str(&out)?;
        let problem = status["problem"].as_str().map(str::to_owned);
        Ok(problem.filter(|problem| code == Some(1) && problem.contains(words)))
    })
    .await?;
    assert!(
        problem.contains("The last good issuer stays in force"),
        "{problem}"
    );
    assert_eq!(intact(mesh).await?, 0.0);
    let log = mesh.dir().join("logs/control-plane.log");
    let log = std::fs::read_to_string(log)?;
    let is_said = |line: &str| line.contains("\"error\"") && line.contains(words);
    assert!(log.lines().any(is_said), "not in the log: {words}");
    Ok(())
}

async fn intact(mesh: &Mesh) -> anyhow::Result<f64> {
    let answer = mesh.control_plane_get("/metrics").await?;
    let value = Metrics::parse(&answer.text()).value(INTACT, &[]);
    value.context(INTACT)
}

/// Waits until every sidecar trusts these roots and no other, and has a certificate of this issuer.
async fn all_have(mesh: &Mesh, roots: &[&Root], issuer: &str) -> anyhow::Result<()> {
    let roots = sorted(roots);
    let mut last = BTreeMap::new();
    let waited = wait_for("what is given", PHASE, async || {
        last = trusted(mesh).await?;
        let all = last
            .values()
            .all(|(trusted, by)| sorted_values(trusted) == roots && by == issuer);
        Ok(all.then_some(()))
    })
    .await;
    waited.with_context(|| format!("wanted {issuer} under {roots:?}: {last:?}"))
}

fn sorted(roots: &[&Root]) -> Vec<String> {
    let mut all: Vec<_> = roots.iter().map(|root| root.fingerprint.clone()).collect();
    all.sort();
    all
}

fn sorted_values(roots: &[serde_json::Value]) -> Vec<String> {
    let roots = roots.iter().filter_map(|root| root.as_str());
    let mut all: Vec<_> = roots.map(str::to_owned).collect();
    all.sort();
    all
}

/// Traffic of each kind.
struct Traffic {
    requests: Running,
    others: GrpcAndBytes,
}

impl Traffic {
    fn start(mesh: &Mesh) -> Self {
        let requests = Load::new(mesh.addr("api", PORT))
            .clients(4)
            .rate(50.0)
            .shot(Shot::get("/"))
            .shot(Shot::post("/orders", 100));
        Self {
            requests: requests.start(&mesh.pod("client")),
            others: GrpcAndBytes::start(mesh),
        }
    }

    /// None of it failed; what there was, in words.
    async fn end(self, mesh: &Mesh) -> anyhow::Result<String> {
        let (report, others) = (self.requests.stop().await, self.others.end(mesh).await?);
        assert_all_served_once(&report, &stats(mesh, ["api-1"]).await?);
        assert!(report.sent > 200 && others.calls > 100 && others.connections > 40);
        Ok(format!(
            "{} requests, {} gRPC calls, {} TCP connections",
            report.sent, others.calls, others.connections
        ))
    }
}

/// The files of the control plane's settings.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        Ok(Self { directory })
    }

    /// A mesh that starts with what they give.
    fn mesh(&self, name: &str) -> anyhow::Result<Builder> {
        let mut builder = with_servers(client_and(name, ["api-1"]))
            .control_plane_env(env::LEAF_LIFETIME, &format!("{}s", LEAF.as_secs()));
        for (name, file) in [
            (env::ISSUER_CERT, "tls.crt"),
            (env::ISSUER_KEY, "tls.key"),
            (env::TRUST_ROOTS, "ca.crt"),
        ] {
            let path = self.path(file);
            builder = builder.control_plane_env(name, path.to_str().context("UTF-8")?);
        }
        Ok(builder)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// An issuer with the roots to trust: its fingerprint.
    fn give(&self, given: &Given, roots: &[&Root]) -> anyhow::Result<String> {
        self.give_roots(roots)?;
        self.write(given)?;
        fingerprint(&given.certificate)
    }

    fn give_roots(&self, roots: &[&Root]) -> anyhow::Result<()> {
        let all: String = roots.iter().map(|root| root.pem.as_str()).collect();
        Ok(std::fs::write(self.path("ca.crt"), all)?)
    }

    fn write(&self, given: &Given) -> anyhow::Result<()> {
        std::fs::write(self.path("tls.key"), &given.key)?;
        Ok(std::fs::write(self.path("tls.crt"), &given.certificate)?)
    }

    fn take_away(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.path("tls.crt"))?)
    }
}

/// Certificate and key of an issuer, in PEM.
struct Given {
    certificate: String,
    key: String,
}

/// Somebody's root.
struct Root {
    pem: String,
    fingerprint: String,
    signer: Issuer<'static, KeyPair>,
}

impl Root {
    fn new(name: &str) -> anyhow::Result<Self> {
        let params = authority(name, SystemTime::now() + 10 * DAY);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            fingerprint: fingerprint(&pem)?,
            pem,
            signer: Issuer::new(params, key),
        })
    }

    /// One more issuer under it.
    fn issues(&self) -> anyhow::Result<Given> {
        self.issues_for(SystemTime::now() + DAY)
    }

    /// One that ends then.
    fn issues_for(&self, end: SystemTime) -> anyhow::Result<Given> {
        let key = KeyPair::generate()?;
        let certificate = authority("issuer", end).signed_by(&key, &self.signer)?;
        Ok(Given {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

fn authority(name: &str, end: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (SystemTime::now() - 2 * DAY).into();
    params.not_after = end.into();
    params
}

/// Of the first certificate in a PEM text.
fn fingerprint(pem: &str) -> anyhow::Result<String> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())?;
    Ok(Fingerprint::of(&certificate).to_string())
}
