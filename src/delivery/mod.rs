//! Journaled -> broker -> devices.
//!
//! Never: a claim that a message is delivered before the broker has taken it over.

mod broker;
mod courier;
mod cursors;
mod dead_letters;
pub mod embedded;
mod letter;
pub mod mqtt;
mod outlet;
mod post;
mod requeue;

pub use broker::{Broker, PublishError, RefusedBy, Ticket, Unsettled, WINDOW_MESSAGES_MAX};
pub use courier::{Courier, Delivered, Progress};
pub use cursors::{Cursors, CursorsError};
pub use dead_letters::{DEAD_LETTERS, DeadLetters, Reason};
pub use letter::Letter;
pub use outlet::Outlet;
pub use post::Post;
pub use requeue::{Counted, Place, Requeue, RequeueError, Resender, Shelf};
