//! The relay: whoever connects is passed on to an upstream, and measured on the way. Pure as all
//! flows are; the bytes themselves move inside `sys`.

pub mod balance;
pub mod proxy_protocol;

mod settings;

pub use settings::{RelaySettings, Upstream, UpstreamNews};
