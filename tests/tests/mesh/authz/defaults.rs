//! What holds where no policy speaks, and where a namespace leaves the word to its services.

use http::Method;
use weft_control_plane::policy::DefaultAuthorization;
use weft_sandbox::mesh::Builder;
use weft_sandbox::{Mesh, Workload};

use super::allow;
use crate::common::{Cx, PORT, http_app, mesh, policy, request, send, service, stats};

/// `open` has a policy that lets the clients in, `closed` has none.
fn two_services(name: &str) -> Builder {
    mesh(name)
        .workload(Workload::new("client").service_account("client"))
        .workload(
            Workload::new("guest")
                .namespace("guests")
                .service_account("client"),
        )
        .workload(http_app("open-1"))
        .workload(http_app("closed-1"))
        .service(service("open", ["open-1"]))
        .service(service("closed", ["closed-1"]))
        .policy(&policy("open", "open", &allow(&["client"], "")))
}

/// Asks both services as both callers; who was served, by the applications' counts.
async fn served(mesh: &Mesh) -> anyhow::Result<[bool; 4]> {
    let mut served = [false; 4];
    let calls = [
        ("default/client", "open"),
        ("default/client", "closed"),
        ("guests/guest", "open"),
        ("guests/guest", "closed"),
    ];
    for (served, (caller, service)) in served.iter_mut().zip(calls) {
        let app = format!("{service}-1");
        let before = stats(mesh, [&*app]).await?.requests;
        let call = request(Method::GET, "/", caller, "");
        let answer = send(&mesh.pod(caller), mesh.addr(service, PORT), call).await?;
        *served = stats(mesh, [&*app]).await?.requests > before;
        let expected = if *served {
            (200, None)
        } else {
            (403, Some("unauthorized"))
        };
        let told = (answer.status.as_u16(), answer.outcome());
        assert_eq!(told, expected, "{caller} to {service}");
    }
    Ok(served)
}

/// A default that denies or narrows, and a service's own policy in its place.
pub(super) async fn of_mesh(cx: Cx) -> anyhow::Result<()> {
    for (who, expected) in [
        (DefaultAuthorization::AllowAll, [true, true, false, true]),
        (
            DefaultAuthorization::Authenticated,
            [true, true, false, true],
        ),
        (
            DefaultAuthorization::SameNamespace,
            [true, true, false, false],
        ),
        (DefaultAuthorization::DenyAll, [true, false, false, false]),
    ] {
        let builder = two_services("default").default_authorization(who);
        cx.on(builder, async |mesh| {
            assert_eq!(served(mesh).await?, expected, "{who}");
            let stranger = mesh.stranger("stranger")?;
            let to = (mesh.pod("closed-1").v4(), crate::common::APP_PORT).into();
            let plain = send(&stranger, to, request(Method::GET, "/", "plain", "")).await?;
            let anybody = who == DefaultAuthorization::AllowAll;
            assert_eq!(
                plain.status.as_u16(),
                if anybody { 200 } else { 403 },
                "{who}"
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The ordinary practice: the namespace denies, each service allows.
pub(super) async fn of_namespace(cx: Cx) -> anyhow::Result<()> {
    let deny = |more: &str| {
        format!(
            "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\n\
             metadata: {{name: deny, namespace: default}}\n\
             spec: {{targetRefs: [{{kind: Namespace, name: default}}], \
             authorization: {{{more}allow: []}}}}\n"
        )
    };
    let builder = two_services("deny").named_policy("deny", &deny("forServices: Default, "));
    cx.on(builder, async |mesh| {
        assert_eq!(served(mesh).await?, [true, false, false, false]);
        // Without a word of the namespace it is a ceiling, which no service breaks.
        mesh.apply_policy("deny", &deny(""))?;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(served(mesh).await?, [false; 4]);
        Ok(())
    })
    .await
}
