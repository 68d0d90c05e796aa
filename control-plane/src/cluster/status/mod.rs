//! What is said about policies and routes: their statuses.

mod policy;
