//! Dead letters taken back for delivery.
//!
//! ```text
//! dead-letters/2026-11-23.ndjson           letters; only ever appended to
//! dead-letters/2026-11-23.requeued         which of them are settled, an object a line
//! dead-letters/requeue/0000000007.ndjson   letters on their way, each with where it came from
//! dead-letters/requeue/0000000008.new      a file not finished yet; the next command removes it
//! dead-letters/requeue/lock                held while a command takes letters back
//! ```
//!
//! A letter is requeued by the rename that completes a file of `requeue/`, with weir running or
//! not. A running weir publishes the files in order, notes each letter as settled, and removes a
//! file once that is on disk. A letter is on its way while it is in a file of `requeue/`, gone
//! once it is noted, and a dead letter otherwise: so at any instant it is one of the three, and a
//! crash can only make it go twice.
//!
//! Never: bill a letter again, or change a file of letters.

mod courier;
mod lines;
mod settled;
mod shelf;
mod spool;
#[cfg(test)]
mod tests;

pub use courier::Resender;
pub use shelf::{Counted, Place, Shelf};
pub use spool::{Requeue, RequeueError};

/// The folder of letters on their way, in the folder of dead letters.
const FOLDER: &str = "requeue";
