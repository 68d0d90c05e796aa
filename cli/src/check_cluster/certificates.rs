//! Certificates and the trust bundle: whether they are there, agree, and how long they last.

use serde_json::Value;
use weft_proto::names::cluster;
use x509_parser::pem::Pem;

use super::facts::{After, Common, decoded};
use super::line::{Check, Line, counted};
use super::time::{DAY, span};

const AUTHORITY: Check = Check("certificates", "authority");
const ISSUER: Check = Check("certificates", "issuer");
const ROOTS: Check = Check("certificates", "roots");
const BUNDLES: Check = Check("certificates", "trust-bundles");
const WEBHOOK: Check = Check("certificates", "webhook");

/// A root that ends sooner should be on the way out: everybody has to trust the next one before.
const ROOT_NOTICE: i64 = 60 * DAY;
/// The share of an issuer's life that is left when something is wrong with rotating it.
const ISSUER_LEFT: f64 = 0.25;
/// The share of the webhook certificate's life that is left when something is wrong with renewing it,
/// which begins when a third is left.
const WEBHOOK_LEFT: f64 = 0.25;

pub(super) fn check(common: &Common, after: &After) -> Vec<Line> {
    vec![
        authority(common, after),
        issuer(common, after),
        roots(common, after),
        bundles(common, after),
        webhook(common, after),
    ]
}

/// One certificate, as far as it matters here.
struct Certificate {
    subject: String,
    not_before: i64,
    not_after: i64,
}

/// Every certificate of a PEM text; `None` where one of them is none.
fn certificates(pem: &[u8]) -> Option<Vec<Certificate>> {
    Pem::iter_from_buffer(pem)
        .map(|pem| {
            let pem = pem.ok()?;
            let certificate = pem.parse_x509().ok()?;
            Some(Certificate {
                subject: certificate.subject().to_string(),
                not_before: certificate.validity().not_before.timestamp(),
                not_after: certificate.validity().not_after.timestamp(),
            })
        })
        .collect()
}

fn authority(common: &Common, after: &After) -> Line {
    let secret = format!("Secret {}/{}", common.namespace, cluster::AUTHORITY_SECRET);
    match &after.authority {
        Ok(Some(found)) if found["metadata"]["name"] == cluster::ISSUER_SECRET => {
            let (namespace, name) = (&common.namespace, cluster::ISSUER_SECRET);
            AUTHORITY.ok(format!("the issuer is given by Secret {namespace}/{name}"))
        }
        Ok(Some(_)) => AUTHORITY.ok(format!("{secret} is there")),
        Ok(None) => AUTHORITY.failed(
            format!("{secret} is not there: no sidecar can get a certificate"),
            "the control plane makes it at its first start: see above; where it was deleted, restore \
             it from a backup, as another one is trusted by nobody",
        ),
        Err(trouble) => AUTHORITY.untold(&secret, trouble),
    }
}

/// How long a phase of a rotation may wait for somebody before that is worth a warning: sidecars and replicas
/// that are well confirm within seconds.
const PATIENCE: i64 = 600;
/// Names that are shown at most.
const MAX_NAMES: usize = 10;

/// Whom a rotation waits for, in words, as the replica that leads has written it; `None` for nobody.
fn waiting_for(secret: &Value) -> Option<String> {
    let text = secret["metadata"]["annotations"][cluster::WAITING_FOR].as_str()?;
    let waiting: Value = serde_json::from_str(text).ok()?;
    let names = |field: &str| {
        let all = waiting[field].as_array().into_iter().flatten();
        let all = all.filter_map(|name| name.as_str().map(str::to_owned));
        all.take(MAX_NAMES).collect::<Vec<_>>()
    };
    let mut whom = Vec::new();
    if waiting["bundle"] == true {
        whom.push("the trust bundle in every namespace".to_owned());
    }
    let replicas = names("replicas");
    if !replicas.is_empty() {
        let noun = counted(replicas.len(), "replica", "replicas");
        whom.push(format!("{noun} ({})", replicas.join(", ")));
    }
    let sidecars = waiting["sidecars"].as_u64().unwrap_or_default();
    if sidecars > 0 {
        let sidecars = usize::try_from(sidecars).unwrap_or(usize::MAX);
        let noun = counted(sidecars, "sidecar", "sidecars");
        let mut named = names("sidecarNames");
        let more = sidecars.saturating_sub(named.len());
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        whom.push(format!("{noun} ({})", named.join(", ")));
    }
    (!whom.is_empty()).then(|| whom.join(", "))
}

/// The issuer and a rotation, as the authority's Secret says beside what is secret.
fn issuer(common: &Common, after: &After) -> Line {
    let secret = match &after.authority {
        Ok(Some(found)) if found["metadata"]["name"] == cluster::ISSUER_SECRET => {
            let hint =
                "weft_control_plane_issuer_expiry_timestamp_seconds and weft identity status do";
            return ISSUER.skipped(
                "the Secret does not say without its content when the issuer ends",
                hint,
            );
        }
        Ok(Some(secret)) => secret,
        Ok(None) => return ISSUER.skipped("there is no authority: see above", ""),
        Err(trouble) => return ISSUER.untold("where the authority stands", trouble),
    };
    let standing = secret["metadata"]["annotations"][cluster::STANDING].as_str();
    let standing = standing.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(standing) = standing else {
        return ISSUER.skipped(
            "the authority's Secret does not say when its issuer ends",
            "weft identity status does; the Secret does after the next rotation",
        );
    };
    let moment = |name: &str| standing[name].as_i64().unwrap_or_default();
    let (begin, end) = (moment("issuerNotBefore"), moment("issuerNotAfter"));
    let left = end - common.now;
    let lasts = common.now - moment("since");
    let waiting_for = waiting_for(secret);
    let rotation = standing["rotation"].as_str().map(|kind| {
        let phase = standing["phase"].as_str().unwrap_or_default();
        let since = span(lasts);
        let whom = waiting_for
            .as_ref()
            .map(|whom| format!(", waiting for {whom}"));
        let whom = whom.unwrap_or_default();
        format!("; a rotation of the {kind} is in phase {phase} since {since}{whom}")
    });
    let is_held_up = rotation.is_some() && waiting_for.is_some() && lasts >= PATIENCE;
    let rotation = rotation.unwrap_or_default();
    let hint = "it is rotated when a third of its life is left: weft identity status says what is in the \
                way, and the log of the replica that leads";
    if left <= 0 {
        let what = format!(
            "the issuer ended {} ago: no certificate is given{rotation}",
            span(-left)
        );
        return ISSUER.failed(what, hint);
    }
    let what = format!("the issuer ends in {}{rotation}", span(left));
    if (left as f64) < (end - begin) as f64 * ISSUER_LEFT {
        return ISSUER.warning(what, hint);
    }
    if is_held_up {
        return ISSUER.warning(
            what,
            "their logs say why they do not reach the control plane; of a replica that is not reached, \
             delete the pod",
        );
    }
    ISSUER.ok(what)
}

/// The trust bundle of a namespace, as PEM.
fn bundle<'a>(after: &'a After, namespace: &str) -> Option<&'a str> {
    let bundle = after.bundles.get(namespace)?.as_ref().ok()?.as_ref()?;
    bundle["data"][cluster::TRUST_BUNDLE_KEY].as_str()
}

fn roots(common: &Common, after: &After) -> Line {
    let map = format!("ConfigMap {}/{}", common.namespace, cluster::TRUST_BUNDLE);
    if let Some(Err(trouble)) = after.bundles.get(&common.namespace) {
        return ROOTS.untold(&map, trouble);
    }
    let Some(pem) = bundle(after, &common.namespace) else {
        return ROOTS.failed(
            format!(
                "{map} is not there, or without {}",
                cluster::TRUST_BUNDLE_KEY
            ),
            "the control plane makes it where it leads: see above whether one does",
        );
    };
    let roots = certificates(pem.as_bytes()).filter(|roots| !roots.is_empty());
    let Some(roots) = roots else {
        return ROOTS.failed(
            format!("{map} has no certificates that can be read"),
            "was it edited? The control plane writes it anew where it leads",
        );
    };
    let left = |root: &Certificate| root.not_after - common.now;
    let listed = roots.iter().map(|root| match left(root) {
        left if left > 0 => format!("{}: ends in {}", root.subject, span(left)),
        left => format!("{}: ended {} ago", root.subject, span(-left)),
    });
    let listed: Vec<_> = listed.collect();
    let hint = "weft identity rotate root: sidecars must trust the next one before this one ends";
    // While roots are rotated the old one may end: the longest counts.
    match roots.iter().map(left).max().unwrap_or_default() {
        ..=0 => ROOTS
            .failed("every root has ended: no connection is trusted", hint)
            .listing(listed),
        1..ROOT_NOTICE => ROOTS.warning("the root ends soon", hint).listing(listed),
        longest => ROOTS.ok(format!(
            "{}, trusted for {} more",
            counted(roots.len(), "root", "roots"),
            span(longest)
        )),
    }
}

fn bundles(common: &Common, after: &After) -> Line {
    let injected = common.injected();
    let Some(wanted) = bundle(after, &common.namespace) else {
        return BUNDLES.skipped("no trust bundle is known to compare with: see above", "");
    };
    let mut wrong = Vec::new();
    for namespace in &injected {
        match after.bundles.get(*namespace) {
            Some(Err(trouble)) => {
                return BUNDLES.untold(&format!("ConfigMaps of namespace {namespace}"), trouble);
            }
            _ => match bundle(after, namespace) {
                Some(found) if found.trim() == wanted.trim() => {}
                Some(_) => wrong.push(format!("{namespace}: another one")),
                None => wrong.push(format!("{namespace}: none")),
            },
        }
    }
    if wrong.is_empty() {
        return BUNDLES.ok(format!(
            "{} {} the trust bundle",
            counted(
                injected.len(),
                "namespace with sidecars",
                "namespaces with sidecars"
            ),
            if injected.len() == 1 { "has" } else { "have" }
        ));
    }
    BUNDLES
        .failed(
            "namespaces with sidecars are without the trust bundle: new pods do not start, or trust \
             nobody",
            "the control plane writes it where it leads: see above whether one does, and whether it \
             may write ConfigMaps (weft-control-plane --print-rbac)",
        )
        .listing(wrong)
}

fn webhook(common: &Common, after: &After) -> Line {
    let secret = format!("Secret {}/{}", common.namespace, cluster::WEBHOOK_SECRET);
    let held = match &after.webhook_secret {
        Ok(Some(held)) => held,
        Ok(None) => return WEBHOOK.skipped(format!("{secret} is not there: see above"), ""),
        Err(trouble) => return WEBHOOK.untold(&secret, trouble),
    };
    let pem = decoded(&held["data"]["tls.crt"]).unwrap_or_default();
    let first = certificates(&pem).and_then(|all| all.into_iter().next());
    let Some(leaf) = first else {
        return WEBHOOK.failed(
            format!("{secret} has no certificate that can be read"),
            format!(
                "kubectl -n {} delete secret {}: the control plane makes it anew",
                common.namespace,
                cluster::WEBHOOK_SECRET
            ),
        );
    };
    let (age, left) = (common.now - leaf.not_before, leaf.not_after - common.now);
    let life = leaf.not_after - leaf.not_before;
    let hint =
        "the control plane renews it where it leads: see above whether one does, and its logs";
    if left <= 0 {
        let what = format!(
            "the webhook's certificate ended {} ago: pods are refused",
            span(-left)
        );
        return WEBHOOK.failed(what, hint);
    }
    let what = format!(
        "the webhook's certificate is {} old and ends in {}",
        span(age),
        span(left)
    );
    if (left as f64) < life as f64 * WEBHOOK_LEFT {
        return WEBHOOK.warning(what, hint);
    }
    WEBHOOK.ok(what)
}
