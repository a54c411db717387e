//! rttscope measures TCP round trips as the kernel and the wire saw them.

pub mod time;

pub mod host;

pub mod event;
pub mod sample;
pub mod schedule;
pub mod wire;
pub mod histogram;
pub mod loss;

pub mod probe;
pub mod echo;

#[expect(unsafe_code, reason = "system calls live here and nowhere else")]
pub mod sys;

pub mod stats;
pub mod worker;
pub mod metrics;
pub mod http;
pub mod report;

pub mod config;
pub mod log;
pub mod cli;
pub mod app;
