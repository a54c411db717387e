//! Names in, addresses out: lookups that may hang, on threads of their own, so many at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use crate::config::{HostPort, limits};

/// Names in, addresses out, on threads of their own.
#[derive(Debug)]
pub(super) struct Lookups {
    handle: tokio::runtime::Handle,
    turns: Arc<Semaphore>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lookups {
    /// Starts the thread that the others hang on.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(limits::LOOKUPS_MAX)
            .thread_name("checker-lookup")
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread =
            std::thread::Builder::new().name("checker-names".to_owned()).spawn(move || {
                // Its end is wanted, or its checker is gone: either ends it.
                drop(runtime.block_on(stopped));
                // A lookup that hangs must not hold up the end.
                runtime.shutdown_background();
            })?;
        let turns = Arc::new(Semaphore::new(limits::LOOKUPS_MAX));
        Ok(Self { handle, turns, stop: Some(stop), thread: Some(thread) })
    }

    /// Looks a name up and hands over what was found; an error of kind `TimedOut` if that takes
    /// longer than `timeout`, waiting for a turn included.
    pub(super) fn look_up(
        &self,
        address: HostPort,
        timeout: Duration,
        found: impl FnOnce(io::Result<Vec<SocketAddr>>) + Send + 'static,
    ) {
        let turns = Arc::clone(&self.turns);
        self.handle.spawn(async move {
            let result = tokio::time::timeout(timeout, look_up(&address, turns)).await;
            found(result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
        });
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn look_up(address: &HostPort, turns: Arc<Semaphore>) -> io::Result<Vec<SocketAddr>> {
    let _turn = turns.acquire_owned().await.expect("the semaphore is never closed");
    let found = tokio::net::lookup_host((address.host.as_str(), address.port)).await?;
    let addresses: Vec<SocketAddr> = found.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_lookup_that_gets_no_turn_is_out_of_time() {
        let lookups = Lookups::start().unwrap();
        let turns = u32::try_from(limits::LOOKUPS_MAX).unwrap();
        let held = lookups.turns.try_acquire_many(turns).unwrap();
        let (tell, told) = channel();
        let ask = |timeout| {
            let (address, tell) = ("localhost:1".parse().unwrap(), tell.clone());
            lookups.look_up(address, timeout, move |found| tell.send(found).unwrap());
        };
        ask(Duration::from_millis(20));
        assert_eq!(told.recv().unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(held);
        ask(Duration::from_secs(60));
        assert!(!told.recv().unwrap().unwrap().is_empty());
    }
}
