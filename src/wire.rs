//! Wire formats v1, v2, v3.
