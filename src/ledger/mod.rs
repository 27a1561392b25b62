//! Usage as a fold over the journal: rows and the watermark they cover in one transaction, so that
//! a crash folds again what was not committed and never counts twice. Each closed hour of an
//! instance is a link of a chain, so that a change shows.
//!
//! Never: stand on the reply path, bill anything but a journaled message, or change a closed hour.

mod booking;
mod clerk;
mod closing;
mod config;
mod export;
mod fold;
mod period;
mod reader;
mod seal;
mod store;
mod tables;
mod usage;
mod verify;

pub use booking::Booked;
pub use clerk::{Clerk, ClerkHandle, Covered, FollowError};
pub use closing::Purged;
pub use config::{Config, MINUTES_KEPT, MINUTES_KEPT_MAX, MINUTES_KEPT_MIN};
pub use fold::Fold;
pub use period::{By, Query, QueryError, Span};
pub use reader::{ReadError, Reader};
pub use store::Ledger;
pub use tables::LedgerError;
pub use usage::{Row, Usage};
pub use verify::{Fault, Verified, VerifyError};

/// The ledger's file in the data directory.
pub const FILE: &str = "ledger.sqlite";

#[cfg(test)]
mod tests;
