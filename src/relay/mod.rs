//! The relay: whoever connects is passed on to an upstream, and measured on the way. Pure as all
//! flows are; the bytes themselves move inside `sys`.

pub mod balance;
pub mod proxy_protocol;

mod connection;
mod health;
mod settings;
mod shared;

pub use connection::{Action, Connection, Measured, Out};
pub use health::Health;
pub use settings::{RelaySettings, Upstream, UpstreamNews};
pub use shared::Relay;
