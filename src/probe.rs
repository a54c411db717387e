//! The prober flow.
