//! What proves who a caller is: simple tokens, known to every member that applied their making,
//! or signed ones (JWT), known to whoever has the key.

use crate::mvcc::Caller;
use aistack_api::tinykv::JwtConfig;
use jwt::Jwt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

mod jwt;

pub use jwt::TokensError;

/// Letters before the dot of a simple token.
const LETTERS: usize = 16;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// It proves this.
    Of(Caller),
    /// It is not known here; another member may have made it a moment ago.
    Unknown,
    /// It proves nothing.
    Invalid,
}

/// A token to be given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issue {
    /// Every member must come to know it first.
    Replicate(String),
    /// It is good as it is.
    Ready(String),
    /// This member can only read tokens.
    VerifyOnly,
}

/// The tokens of this member.
pub enum Tokens {
    /// Random ones.
    Simple(Simple),
    /// Signed ones.
    Jwt(Box<Jwt>),
}

/// Random tokens: whose, and until when unless used.
pub struct Simple {
    ttl: Duration,
    known: Mutex<HashMap<String, (String, Instant)>>,
}

impl Tokens {
    /// Simple tokens that live `ttl` after their last use.
    pub fn simple(ttl: Duration) -> Self {
        Self::Simple(Simple { ttl, known: Mutex::default() })
    }

    /// Signed tokens.
    pub fn jwt(config: &JwtConfig) -> Result<Self, TokensError> {
        Ok(Self::Jwt(Box::new(Jwt::open(config)?)))
    }

    /// A token for a user whose password was checked; `index` is where this member's log stands.
    pub fn issue(&self, name: &str, revision: u64, index: u64) -> Issue {
        match self {
            Self::Simple(_) => {
                let letter = || {
                    let at = rand::random_range(0..52_u8);
                    char::from(if at < 26 { b'a' + at } else { b'A' + at - 26 })
                };
                let letters: String = std::iter::repeat_with(letter).take(LETTERS).collect();
                Issue::Replicate(format!("{letters}.{index}"))
            }
            Self::Jwt(jwt) => jwt.sign(name, revision).map_or(Issue::VerifyOnly, Issue::Ready),
        }
    }

    /// A user's simple token, as it was replicated.
    pub fn assign(&self, name: &str, token: &str) {
        let Self::Simple(simple) = self else { return };
        let now = Instant::now();
        let mut known = simple.known.lock();
        known.retain(|_, (_, deadline)| *deadline > now);
        known.insert(token.to_owned(), (name.to_owned(), now + simple.ttl));
    }

    /// A user's tokens prove nothing any more.
    pub fn forget(&self, name: &str) {
        if let Self::Simple(simple) = self {
            simple.known.lock().retain(|_, (owner, _)| owner != name);
        }
    }

    /// No simple token proves anything any more.
    pub fn forget_all(&self) {
        if let Self::Simple(simple) = self {
            simple.known.lock().clear();
        }
    }

    /// What a token proves; `revision` is that of users and roles now.
    pub fn proof(&self, token: &str, revision: u64) -> Proof {
        match self {
            Self::Simple(simple) => {
                let now = Instant::now();
                match simple.known.lock().get_mut(token) {
                    Some((name, deadline)) if *deadline > now => {
                        *deadline = now + simple.ttl;
                        Proof::Of(Caller { name: name.clone(), revision })
                    }
                    None if is_simple(token) => Proof::Unknown,
                    Some(_) | None => Proof::Invalid,
                }
            }
            Self::Jwt(jwt) => jwt.proof(token).map_or(Proof::Invalid, Proof::Of),
        }
    }
}

fn is_simple(token: &str) -> bool {
    token.split_once('.').is_some_and(|(letters, index)| {
        letters.len() == LETTERS && !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simple_token_proves_its_user_until_it_is_forgotten() {
        let tokens = Tokens::simple(Duration::from_hours(1));
        let Issue::Replicate(token) = tokens.issue("ann", 1, 7) else { panic!("simple tokens replicate") };
        assert!(is_simple(&token), "{token}");
        assert_eq!(tokens.proof(&token, 3), Proof::Unknown);
        tokens.assign("ann", &token);
        assert_eq!(tokens.proof(&token, 3), Proof::Of(Caller { name: "ann".into(), revision: 3 }));
        tokens.forget("ben");
        assert_ne!(tokens.proof(&token, 3), Proof::Unknown);
        tokens.forget("ann");
        assert_eq!(tokens.proof(&token, 3), Proof::Unknown);
        assert_eq!(tokens.proof("nonsense", 3), Proof::Invalid);
        let brief = Tokens::simple(Duration::ZERO);
        brief.assign("ann", &token);
        assert_eq!(brief.proof(&token, 3), Proof::Invalid, "it has run out");
    }
}
