//! Who runs together and who runs alone. Most tests count, and bear company; those that compare
//! clocks or start CPU hogs would disturb the others and be disturbed, so they run alone.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Whether a test bears company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Runs beside other tests.
    Shared,
    /// Runs while no other test does.
    Alone,
}

/// Held while a test runs.
#[expect(dead_code, reason = "the guards are held for their lifetime, nobody looks at them")]
pub(crate) enum TurnGuard {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Waits for this test's turn.
pub(crate) fn wait_for(turn: Turn) -> TurnGuard {
    // A failed test poisons the lock, which says nothing about the others.
    match turn {
        Turn::Shared => TurnGuard::Shared(TURNS.read().unwrap_or_else(PoisonError::into_inner)),
        Turn::Alone => TurnGuard::Alone(TURNS.write().unwrap_or_else(PoisonError::into_inner)),
    }
}

static TURNS: RwLock<()> = RwLock::new(());
