//! Tests of the crate from outside, in one binary.

// Prober and responder flows against each other, without sockets.
mod flows;
