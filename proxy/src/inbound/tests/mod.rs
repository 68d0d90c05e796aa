//! The whole inbound direction.
