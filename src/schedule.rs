//! Open-loop schedule.
