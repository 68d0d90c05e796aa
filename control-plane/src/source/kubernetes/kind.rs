//! What is watched, and what may be missing.

use weft_proto::names;

use super::observed::StatusKind;
use crate::route::{GROUP, ReferenceGrant, RouteKind};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Pod,
    Namespace,
    TrafficPolicy,
    HttpRoute,
    GrpcRoute,
    ReferenceGrant,
}

/// A kind that is there only where its definition was installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Defined {
    pub(super) group: &'static str,
    /// The most wanted first.
    pub(super) versions: &'static [&'static str],
    pub(super) plural: &'static str,
    /// What it means that it is missing, for people.
    pub(super) without: &'static str,
}

impl Kind {
    pub(super) const ALL: [Self; 8] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Namespace,
        Self::TrafficPolicy,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::ReferenceGrant,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::TrafficPolicy => names::TRAFFIC_POLICY_KIND,
            Self::HttpRoute => RouteKind::Http.as_str(),
            Self::GrpcRoute => RouteKind::Grpc.as_str(),
            Self::ReferenceGrant => ReferenceGrant::KIND,
        }
    }

    /// `None` where every cluster has the kind.
    pub(super) fn defined(self) -> Option<Defined> {
        let gateway = |versions, plural| Defined {
            group: GROUP,
            versions,
            plural,
            without: "routes of the Gateway API mean nothing until its definitions are installed",
        };
        match self {
            Self::Service | Self::EndpointSlice | Self::Pod | Self::Namespace => None,
            Self::TrafficPolicy => Some(Defined {
                group: names::API_GROUP,
                versions: &["v1alpha1"],
                plural: "trafficpolicies",
                without: "no policy is in force until Weft's definitions are installed",
            }),
            Self::HttpRoute => Some(gateway(&["v1"], "httproutes")),
            Self::GrpcRoute => Some(gateway(&["v1"], "grpcroutes")),
            Self::ReferenceGrant => Some(gateway(&["v1", "v1beta1"], "referencegrants")),
        }
    }

    /// Whether serving may begin while its objects may not be read. Without policies it may not:
    /// what they close would be open.
    pub(super) fn may_be_forbidden(self) -> bool {
        matches!(
            self,
            Self::HttpRoute | Self::GrpcRoute | Self::ReferenceGrant
        )
    }

    pub(super) fn with_status(self) -> Option<StatusKind> {
        match self {
            Self::TrafficPolicy => Some(StatusKind::TrafficPolicy),
            Self::HttpRoute => Some(StatusKind::HttpRoute),
            Self::GrpcRoute => Some(StatusKind::GrpcRoute),
            _ => None,
        }
    }
}
