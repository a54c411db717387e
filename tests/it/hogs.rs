//! Threads that burn the CPU at a better priority than ours: a number of threads for each CPU and
//! a nice value in, noise out, until dropped or until the time limit.

use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Running hogs.
#[derive(Debug)]
pub(crate) struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Hogs {
    /// Starts `each` hogs for every CPU with this nice value; `Err` if that is not permitted.
    pub(crate) fn start(each: usize, nice: i32) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let count = each * thread::available_parallelism()?.get();
        let mut hogs = Self { stop, threads: Vec::new() };
        for _ in 0..count {
            let stop = Arc::clone(&hogs.stop);
            let (ready, started) = channel();
            hogs.threads.push(thread::spawn(move || {
                // On Linux a nice value is a thread's own (setpriority(2)); `None` is the caller.
                let permitted = rustix::process::setpriority_process(None, nice);
                let refused = permitted.is_err();
                ready.send(permitted).unwrap();
                if refused { 0 } else { burn(&stop) }
            }));
            started.recv().unwrap()?;
        }
        Ok(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A hog has nothing that could panic.
            drop(thread.join());
        }
    }
}

fn burn(stop: &AtomicBool) -> u64 {
    let started = Instant::now();
    let mut work = 0_u64;
    while !stop.load(Ordering::Acquire) && started.elapsed() < TIME_LIMIT {
        for _ in 0..1_000 {
            work = black_box(work.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
    work
}

/// A bound for a test that hangs.
const TIME_LIMIT: Duration = Duration::from_secs(120);
