//! weir takes messages over HTTP (`SendMessage` of ApsaraMQ for MQTT), limits them, bills them and
//! hands them to MQTT devices. A 200 means: the message and its bill are on disk under one sync.
//!
//! ```text
//! client --HTTP--> wire -> admission -> queue -> shard -> journal --+--> reply (200, MsgId)
//!                   |         |                              |      |
//!                   |      Refusal                        Poisoned  +--> delivery -> devices
//!                   v                                               +--> ledger (usage rows)
//!             one error table                                       +--> Prometheus
//! ```

pub mod clock;
mod deadline;
pub mod message;
pub mod metering;
pub mod tls;

pub mod admission;
pub mod wire;
pub mod queue;
pub mod journal;
pub mod shard;
pub mod delivery;
pub mod ledger;
pub mod ops;

pub mod config;
pub mod pipeline;
pub mod cli;
