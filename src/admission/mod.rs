//! Who may send, and how fast: `SendMessage` -> `Admitted` | `Refusal`.

mod admitted;

pub use admitted::{Admitted, NonceMark};
