//! Sliding loss window.
