//! Journaled -> broker -> devices.
//!
//! Never: a claim that a message is delivered before the broker has taken it over.

mod broker;
pub mod embedded;

pub use broker::{Broker, PublishError, RefusedBy};
