//! Usage as a fold over the journal: rows and the watermark they cover in one transaction, so that
//! a crash folds again what was not committed and never counts twice.
//!
//! Never: stand on the reply path, or bill anything but a journaled message.

mod clerk;
mod fold;
mod store;

pub use clerk::{Clerk, ClerkHandle, Covered, FollowError};
pub use fold::Fold;
pub use store::{Ledger, LedgerError};

#[cfg(test)]
mod tests;
