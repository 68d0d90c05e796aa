//! Which of several matches that fit a request decides: the Gateway API's order over all routes of a
//! Service, as one list in which the first that fits wins.
//!
//! Of HTTP requests: an exact path; a regular expression, the longer the sooner; a prefix, the longer the
//! sooner; then a method; then more headers; then more query parameters. Where the API leaves regular
//! expressions to implementations, ours stand before prefixes: behind them they could never win over a
//! route for everything else. Of gRPC requests: the longer service, the longer method, more headers.
//! Between equals: the older route, then the name, then the order inside of the route.

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Route, RouteMatch, RoutePath};

/// A match of a route's rule, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MatchRef {
    /// Of the routes.
    pub route: usize,
    /// Of the route's rules.
    pub rule: usize,
    /// Of the rule's matches.
    pub entry: usize,
}

/// How much a match says about a request; more wins.
type Weight = (u8, usize, usize, bool, usize, usize);

/// Every match of `routes` in the order in which they are to be tried.
pub fn ordered(routes: &[Arc<Route>]) -> Vec<MatchRef> {
    let mut all = Vec::new();
    for (route, object) in routes.iter().enumerate() {
        for (rule, content) in object.rules.iter().enumerate() {
            for entry in 0..content.matches.len() {
                all.push(MatchRef { route, rule, entry });
            }
        }
    }
    all.sort_by_cached_key(|at| {
        let route = &routes[at.route];
        let entry = &route.rules[at.rule].matches[at.entry];
        let (unknown, created, namespace, name) = route.age();
        let age = (
            unknown,
            created.map(str::to_owned),
            namespace.to_owned(),
            name.to_owned(),
        );
        (Reverse(weight(entry)), age, *at)
    });
    all
}

fn weight(entry: &RouteMatch) -> Weight {
    let length = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
    let (rank, first, second) = match &entry.path {
        RoutePath::Exact(path) => (2, path.chars().count(), 0),
        RoutePath::Regex(path) => (1, path.chars().count(), 0),
        RoutePath::Prefix(path) => (0, path.trim_end_matches('/').chars().count(), 0),
        RoutePath::Grpc {
            service, method, ..
        } => (0, length(service), length(method)),
    };
    (
        rank,
        first,
        second,
        entry.method.is_some(),
        entry.headers.len(),
        entry.query.len(),
    )
}
