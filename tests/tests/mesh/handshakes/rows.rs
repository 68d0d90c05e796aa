//! The table: what is shown, and the reason that it must be refused for.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use std::time::SystemTime;
use weft_tests::tls::Credentials;

use super::maker::{HOUR, Maker, below, ca_params, dns, uri};
use super::rsa::Rsa;

/// What somebody shows, and what becomes of it.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) shown: Credentials,
    /// The label of the metric.
    pub(super) reason: &'static str,
}

/// Which side the certificates are shown by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// Far more than any chain needs.
const LARGE: usize = 100 * 1024;
/// Intermediates of a chain that is too deep.
const DEEP: usize = 9;

/// Certificates that are as good as the mesh's own, though the mesh makes none like them.
pub(super) fn good(maker: &Maker) -> anyhow::Result<Vec<(&'static str, Credentials)>> {
    Ok(vec![
        ("as the mesh issues them", maker.leaf(|_| {})?),
        // SPIFFE X.509-SVID, section 2: any number of other names beside the one URI.
        (
            "a DNS name beside the id",
            maker.leaf(|leaf| leaf.subject_alt_names.push(dns("client.example")))?,
        ),
        // Section 4.4: the extension should be there, and need not.
        (
            "no extended key usage",
            maker.leaf(|leaf| leaf.extended_key_usages.clear())?,
        ),
        // An issuer that is given may be or sign such: only its length tells it from the weak one below.
        ("a key of RSA-2048", maker.rsa_leaf(Rsa::strong()?)?),
        (
            "an issuer of RSA-2048",
            maker.leaf_below_rsa(Rsa::strong()?)?,
        ),
    ])
}

/// Every certificate that must be refused, whoever shows it.
pub(super) fn bad(maker: &Maker, side: Side) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, text, reason) in ids(maker) {
        let shown = maker.leaf(|leaf| leaf.subject_alt_names = vec![uri(&text)])?;
        rows.push(Row {
            name,
            shown,
            reason,
        });
    }
    for (name, alter, reason) in leaves(maker, side) {
        let shown = maker.leaf(alter)?;
        rows.push(Row {
            name,
            shown,
            reason,
        });
    }
    for (name, shown, reason) in chains(maker)? {
        rows.push(Row {
            name,
            shown,
            reason,
        });
    }
    Ok(rows)
}

/// Leaves whose only fault is the one URI in them.
fn ids(maker: &Maker) -> Vec<(&'static str, String, &'static str)> {
    let id = maker.id().as_str();
    let account = maker.id().service_account();
    let long = format!("spiffe://weft.local/ns/default/sa/{}", "a".repeat(2048));
    let of = |path: &str| format!("spiffe://weft.local{path}");
    vec![
        (
            "another trust domain, by our issuer",
            id.replace("weft.local", "other.example"),
            "trust_domain",
        ),
        (
            "a trust domain that begins as ours",
            id.replace("weft.local", "weft.local.example"),
            "trust_domain",
        ),
        (
            "a trust domain below ours",
            id.replace("weft.local", "a.weft.local"),
            "trust_domain",
        ),
        (
            "a trust domain in upper case",
            id.replace("weft.local", "WEFT.LOCAL"),
            "name",
        ),
        (
            "a scheme in upper case",
            id.replace("spiffe", "SPIFFE"),
            "name",
        ),
        ("another scheme", id.replace("spiffe", "https"), "name"),
        (
            "an empty trust domain",
            id.replace("weft.local", ""),
            "name",
        ),
        ("a port", id.replace("weft.local", "weft.local:443"), "name"),
        ("a user", id.replace("weft.local", "a@weft.local"), "name"),
        ("a query", format!("{id}?a=b"), "name"),
        ("a fragment", format!("{id}#a"), "name"),
        ("a slash at the end", format!("{id}/"), "name"),
        ("one segment more", format!("{id}/more"), "name"),
        (
            "an empty segment",
            of(&format!("/ns//default/sa/{account}")),
            "name",
        ),
        ("a dot segment", of(&format!("/ns/./sa/{account}")), "name"),
        (
            "two dots",
            of(&format!("/ns/other/../default/sa/{account}")),
            "name",
        ),
        (
            "two dots as the namespace",
            of(&format!("/ns/../sa/{account}")),
            "name",
        ),
        ("percent-encoding", id.replace("/sa/", "/%73a/"), "name"),
        (
            "percent-encoding in the account",
            of(&format!("/ns/default/sa/%61{account}")),
            "name",
        ),
        (
            "a path that is not ours",
            of(&format!("/{account}")),
            "name",
        ),
        ("no path", of(""), "name"),
        ("a NUL at the end", format!("{id}\0"), "name"),
        ("a space at the end", format!("{id} "), "name"),
        ("an id of more than 2048 bytes", long, "name"),
    ]
}

type Alter = Box<dyn FnOnce(&mut CertificateParams)>;

/// Leaves of our issuer with another fault.
fn leaves(maker: &Maker, side: Side) -> Vec<(&'static str, Alter, &'static str)> {
    let id = maker.id().as_str();
    let twice = vec![uri(id), uri(id)];
    let two = vec![uri(id), uri("spiffe://weft.local/ns/default/sa/other")];
    let foreign_too = vec![uri(id), uri("spiffe://other.example/ns/default/sa/client")];
    let in_subject = id.to_owned();
    let other_side = match side {
        Side::Client => ExtendedKeyUsagePurpose::ServerAuth,
        Side::Server => ExtendedKeyUsagePurpose::ClientAuth,
    };
    let names = |names| -> Alter {
        Box::new(|leaf: &mut CertificateParams| leaf.subject_alt_names = names)
    };
    let purposes = |purposes| -> Alter {
        Box::new(|leaf: &mut CertificateParams| leaf.extended_key_usages = purposes)
    };
    vec![
        ("the id twice", names(twice), "name"),
        ("two ids", names(two), "name"),
        ("two ids, of two trust domains", names(foreign_too), "name"),
        (
            "a DNS name only",
            names(vec![dns("client.example")]),
            "name",
        ),
        ("no name", names(Vec::new()), "name"),
        (
            "the id in the subject only",
            Box::new(|leaf| {
                leaf.subject_alt_names.clear();
                leaf.distinguished_name.push(DnType::CommonName, in_subject);
            }),
            "name",
        ),
        (
            "a CA as leaf",
            Box::new(|leaf| {
                leaf.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                leaf.key_usages.push(KeyUsagePurpose::KeyCertSign);
            }),
            "certificate",
        ),
        (
            "no key usage",
            Box::new(|leaf| leaf.key_usages.clear()),
            "certificate",
        ),
        (
            "a key usage without signatures",
            Box::new(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
            "certificate",
        ),
        (
            "the other side's purpose only",
            purposes(vec![other_side]),
            "certificate",
        ),
        (
            "another purpose",
            purposes(vec![ExtendedKeyUsagePurpose::CodeSigning]),
            "certificate",
        ),
        (
            "a critical extension that nobody knows",
            Box::new(|leaf| {
                let mut unknown =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999], vec![5, 0]);
                unknown.set_criticality(true);
                leaf.custom_extensions.push(unknown);
            }),
            "certificate",
        ),
        (
            "expired",
            Box::new(|leaf| leaf.not_after = (SystemTime::now() - HOUR / 60).into()),
            "expired",
        ),
        (
            "not yet valid",
            Box::new(|leaf| leaf.not_before = (SystemTime::now() + HOUR / 60).into()),
            "not_yet_valid",
        ),
        (
            "100 KiB",
            Box::new(|leaf| {
                let padding =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999], vec![0; LARGE]);
                leaf.custom_extensions.push(padding);
            }),
            "tls",
        ),
    ]
}

/// Leaves that are as they should be, and lead nowhere; and those whose key is not theirs.
fn chains(maker: &Maker) -> anyhow::Result<Vec<(&'static str, Credentials, &'static str)>> {
    let issuer = maker.issuer_der().clone();
    let mut rows = vec![
        ("the issuer itself", maker.issuer_itself(), "certificate"),
        (
            "another's key",
            maker.leaf_without_its_key()?,
            "bad_signature",
        ),
        (
            "a key of RSA-1024",
            maker.rsa_leaf(Rsa::weak()?)?,
            "bad_signature",
        ),
        (
            "an issuer of RSA-1024",
            maker.leaf_below_rsa(Rsa::weak()?)?,
            "bad_signature",
        ),
        ("no certificate in DER", maker.garbage()?, "certificate"),
    ];

    let foreign_key = KeyPair::generate()?;
    let foreign = rcgen::CertifiedIssuer::self_signed(ca_params("a stranger"), foreign_key)?;
    let shown = maker.leaf_below(&foreign, &[foreign.der().clone()], |_| {})?;
    rows.push(("another authority", shown, "unknown_issuer"));

    let namesake = maker.namesake()?;
    let shown = maker.leaf_below(&namesake, std::slice::from_ref(&issuer), |_| {})?;
    rows.push((
        "another authority of our issuer's name",
        shown,
        "bad_signature",
    ));

    let key = KeyPair::generate()?;
    let own = maker.params().self_signed(&key)?;
    let shown = Credentials::of(vec![own.der().to_vec()], key.serialize_der());
    rows.push(("self-signed", shown, "unknown_issuer"));

    let below_root = maker.below_root(|_| {})?;
    let shown = maker.leaf_below(&below_root, &[], |_| {})?;
    rows.push(("the intermediate is missing", shown, "unknown_issuer"));

    let expired = maker.below_root(|ca| ca.not_after = (SystemTime::now() - HOUR / 60).into())?;
    let shown = maker.leaf_below(&expired, &[expired.der().clone()], |_| {})?;
    rows.push(("an issuer that has expired", shown, "expired"));

    let workload = maker.workload_as_issuer()?;
    let above = [workload.der().clone(), issuer.clone()];
    let shown = maker.leaf_below(&workload, &above, |_| {})?;
    rows.push(("signed by a workload", shown, "certificate"));

    let no_ca = maker.below_root(|ca| ca.is_ca = IsCa::NoCa)?;
    let shown = maker.leaf_below(&no_ca, &[no_ca.der().clone()], |_| {})?;
    rows.push(("an issuer that is no CA", shown, "certificate"));

    let lower = maker.below_issuer()?;
    let above = [lower.der().clone(), issuer];
    let shown = maker.leaf_below(&lower, &above, |_| {})?;
    rows.push((
        "a path that is too long for its issuer",
        shown,
        "certificate",
    ));

    let mut last = below_root;
    let mut above = vec![last.der().clone()];
    for _ in 1..DEEP {
        last = below(&last, "one further down", |_| {})?;
        above.insert(0, last.der().clone());
    }
    let shown = maker.leaf_below(&last, &above, |_| {})?;
    rows.push(("a chain of nine intermediates", shown, "certificate"));
    Ok(rows)
}
