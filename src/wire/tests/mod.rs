//! The front-end through real sockets, with a back end that settles what it is told to.

mod boundary;
mod call;
mod deadlines;
mod errors;
mod lifecycle;
mod rig;
mod shapes;
