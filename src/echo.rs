//! The responder flow.
