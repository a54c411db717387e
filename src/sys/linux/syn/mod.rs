//! Half-open checks.
pub mod attempts;
pub mod segment;
