//! Who may ask: the `Authorization` header and the users of the web configuration file in, a
//! verdict out (RFC 7617). A password costs one bcrypt, whoever the user is, so that time tells
//! nobody which users there are; one that was right is remembered, so that a scrape costs none.
//! Guesses cannot take the CPU that probes need: one is checked at a time, on a thread in the
//! background, few wait for it, and the others are sent away.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Passwords are checked here, one at a time.
pub(super) struct Authenticator {
    /// Of this process; without it a remembered digest is of no use to anybody.
    secret: [u8; 32],
    /// By user, what a request with the right password looks like.
    remembered: Mutex<HashMap<String, [u8; 32]>>,
    waiting: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Answer it.
    Granted,
    /// Ask for user and password.
    Refused,
    /// Too many passwords wait to be checked.
    Busy,
}

impl Authenticator {
    /// Remembers nobody yet.
    ///
    /// # Errors
    /// If the system gives no random bytes.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self {
            secret,
            remembered: Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// Whether `header` names one of `users` with the right password.
    pub(super) async fn check(
        &self,
        users: &BTreeMap<String, String>,
        header: Option<&HeaderValue>,
    ) -> Verdict {
        let Some((user, password)) = header.and_then(credentials) else { return Verdict::Refused };
        let known = users.get(&user);
        // Nobody's password is checked against the dearest hash: as long as anybody's.
        let dearest = || users.values().max_by_key(|hash| cost(hash));
        let Some(hash) = known.or_else(dearest).cloned() else { return Verdict::Refused };
        let digest = self.digest(&user, &hash, &password);
        if known.is_some() && self.is_remembered(&user, &digest) {
            return Verdict::Granted;
        }
        let Ok(_place) = self.waiting.try_acquire() else { return Verdict::Busy };
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        // While this one waited another may have shown the same.
        if known.is_some() && self.is_remembered(&user, &digest) {
            return Verdict::Granted;
        }
        let checking = spawn_blocking(move || {
            // Whoever asked may be gone before the end: the next one waits for it all the same.
            let _turn = turn;
            bcrypt::verify(&password, &hash).unwrap_or(false)
        });
        let right = checking.await.unwrap_or(false);
        if !right || known.is_none() {
            return Verdict::Refused;
        }
        self.lock().insert(user, digest);
        Verdict::Granted
    }

    /// Forgets whoever is no user any more.
    pub(super) fn forget_all_but(&self, users: &BTreeMap<String, String>) {
        self.lock().retain(|user, _| users.contains_key(user));
    }

    fn is_remembered(&self, user: &str, digest: &[u8; 32]) -> bool {
        self.lock().get(user).is_some_and(|known| known.ct_eq(digest).into())
    }

    /// A changed hash makes another digest, so that an old password is right no more.
    fn digest(&self, user: &str, hash: &str, password: &[u8]) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.secret);
        for part in [user.as_bytes(), hash.as_bytes(), password] {
            // With its length in front no part can pass for the next one.
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, [u8; 32]>> {
        // Every change under the lock is one call.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").finish_non_exhaustive()
    }
}

/// User and password of `Basic` and base64.
fn credentials(header: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

fn cost(hash: &str) -> u32 {
    hash.parse().map_or(0, |parts: bcrypt::HashParts| parts.get_cost())
}

/// Requests whose password is not known yet, the one being checked included.
const WAITING_MAX: usize = 8;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    fn users() -> BTreeMap<String, String> {
        let hash = |password: &str| bcrypt::hash(password, 4).unwrap();
        BTreeMap::from([("alice".to_owned(), hash("wonder:land")), ("bob".to_owned(), hash(""))])
    }

    fn basic(pair: &str) -> HeaderValue {
        HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair))).unwrap()
    }

    #[tokio::test]
    async fn only_the_right_pair_is_granted() {
        let (authenticator, users) = (Authenticator::new().unwrap(), users());
        let check = async |header: &str, expected: Verdict| {
            let header = HeaderValue::try_from(header).unwrap();
            // Remembered or not, the verdict is the same.
            for _ in 0..2 {
                assert_eq!(
                    authenticator.check(&users, Some(&header)).await,
                    expected,
                    "{header:?}"
                );
            }
        };
        let pair = |text: &str| basic(text).to_str().unwrap().to_owned();
        check(&pair("alice:wonder:land"), Verdict::Granted).await;
        check(&pair("alice:wonder:land").replace("Basic", "bASIC"), Verdict::Granted).await;
        check(&pair("bob:"), Verdict::Granted).await;
        for wrong in
            ["alice:", "alice:wonderland", "Alice:wonder:land", "bob:x", "carol:", "", ":", "alice"]
        {
            check(&pair(wrong), Verdict::Refused).await;
        }
        check("Basic", Verdict::Refused).await;
        check("Basic !!!", Verdict::Refused).await;
        check("Bearer YWxpY2U6d29uZGVyOmxhbmQ=", Verdict::Refused).await;
        assert_eq!(authenticator.check(&users, None).await, Verdict::Refused);
        let nobody = BTreeMap::new();
        assert_eq!(authenticator.check(&nobody, Some(&basic("alice:"))).await, Verdict::Refused);
    }

    #[tokio::test]
    async fn a_new_hash_ends_the_old_password() {
        let (authenticator, mut users) = (Authenticator::new().unwrap(), users());
        let old = basic("alice:wonder:land");
        assert_eq!(authenticator.check(&users, Some(&old)).await, Verdict::Granted);
        users.insert("alice".to_owned(), bcrypt::hash("new", 4).unwrap());
        assert_eq!(authenticator.check(&users, Some(&old)).await, Verdict::Refused);
        assert_eq!(authenticator.check(&users, Some(&basic("alice:new"))).await, Verdict::Granted);
        users.remove("alice");
        authenticator.forget_all_but(&users);
        assert!(authenticator.lock().is_empty());
    }

    #[tokio::test]
    async fn guesses_wait_in_a_short_queue_and_who_is_known_does_not() {
        let (authenticator, users) = (Arc::new(Authenticator::new().unwrap()), Arc::new(users()));
        let known = basic("alice:wonder:land");
        assert_eq!(authenticator.check(&users, Some(&known)).await, Verdict::Granted);
        // Nobody's turn comes while this is held.
        let turn = Arc::clone(&authenticator.turn).acquire_owned().await.unwrap();
        let guess = |number: usize| {
            let (authenticator, users) = (Arc::clone(&authenticator), Arc::clone(&users));
            let header = basic(&format!("alice:{number}"));
            tokio::spawn(async move { authenticator.check(&users, Some(&header)).await })
        };
        let guesses: Vec<_> = (0..WAITING_MAX).map(guess).collect();
        while authenticator.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(guess(99).await.unwrap(), Verdict::Busy);
        assert_eq!(authenticator.check(&users, Some(&known)).await, Verdict::Granted);
        drop(turn);
        for guess in guesses {
            assert_eq!(guess.await.unwrap(), Verdict::Refused);
        }
        assert_eq!(authenticator.waiting.available_permits(), WAITING_MAX);
    }
}
