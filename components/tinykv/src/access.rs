//! Who asks, and what that allows.

use crate::mvcc::{self, AuthCommand, AuthError, Command, Origin};
use crate::node::{Node, NodeError};
use crate::tokens::{Issue, Proof};
use std::io;

impl Node {
    /// Whom a token proves the caller to be.
    pub async fn caller(&self, token: &str) -> Result<Origin, NodeError> {
        let proof = || {
            let revision = self.shared.with(|keyspace| keyspace.auth().revision());
            self.shared.tokens.proof(token, revision)
        };
        let proved = match proof() {
            // This member may be behind the one that gave it out.
            Proof::Unknown => {
                self.barrier().await?;
                proof()
            }
            proved => proved,
        };
        match proved {
            Proof::Of(caller) => Ok(Origin::User(caller)),
            Proof::Unknown | Proof::Invalid => Err(NodeError::InvalidToken),
        }
    }

    /// Holds `by` to what `check` asks of the users and roles as they are here.
    pub fn permit(&self, check: impl FnOnce(&mvcc::Auth) -> Result<(), AuthError>) -> Result<(), NodeError> {
        if !self.shared.guarded() {
            return Ok(());
        }
        Ok(self.shared.with(|keyspace| check(keyspace.auth()))?)
    }

    /// Holds the caller to what it may do with every key of some leases.
    pub fn permit_leased(
        &self,
        by: &Origin,
        leases: &[i64],
        check: impl Fn(&mvcc::Auth, &mvcc::Span) -> Result<(), AuthError>,
    ) -> Result<(), NodeError> {
        if !self.shared.guarded() {
            return Ok(());
        }
        self.shared.with(|keyspace| {
            let auth = keyspace.auth();
            auth.check_known(by)?;
            if auth.check_admin(by).is_ok() {
                return Ok(());
            }
            let keys = leases.iter().filter_map(|id| keyspace.lease(*id)).flat_map(|lease| &lease.keys);
            Ok(keys.map(|key| mvcc::Span::Key(key.clone())).try_for_each(|key| check(auth, &key))?)
        })
    }

    /// Reads users and roles, linearizably.
    pub async fn read_auth<T>(
        &self,
        read: impl FnOnce(&mvcc::Auth) -> Result<T, AuthError>,
    ) -> Result<T, NodeError> {
        self.barrier().await?;
        Ok(self.shared.with(|keyspace| read(keyspace.auth()))?)
    }

    /// A password as users and roles keep it.
    pub async fn hash_password(&self, password: String) -> Result<bytes::Bytes, NodeError> {
        if password.len() > 72 {
            return Err(NodeError::PasswordTooLong);
        }
        let cost = self.config.auth.bcrypt_cost;
        let hash = tokio::task::spawn_blocking(move || bcrypt::hash(password, cost)).await;
        Ok(hash.map_err(io::Error::other)?.map_err(io::Error::other)?.into())
    }

    /// Gives a token to whoever knows a user's password.
    pub async fn authenticate(&self, name: &str, password: &str) -> Result<String, NodeError> {
        loop {
            let (hash, revision) = self
                .read_auth(|auth| {
                    if !auth.enabled() {
                        return Err(AuthError::NotEnabled);
                    }
                    let user = auth.user(name).ok_or(AuthError::Failed)?;
                    if user.no_password {
                        return Err(AuthError::NoPasswordUser);
                    }
                    Ok((user.password.clone(), auth.revision()))
                })
                .await?;
            let password = password.to_owned();
            let fits = tokio::task::spawn_blocking(move || {
                std::str::from_utf8(&hash).is_ok_and(|hash| bcrypt::verify(password, hash).unwrap_or(false))
            });
            if !fits.await.map_err(io::Error::other)? {
                return Err(AuthError::Failed.into());
            }
            let token = match self.shared.tokens.issue(name, revision, self.status().applied_index) {
                Issue::VerifyOnly => return Err(NodeError::VerifyOnly),
                Issue::Ready(token) => token,
                Issue::Replicate(token) => {
                    let command = AuthCommand::Authenticate { name: name.to_owned(), token: token.clone() };
                    self.propose(&Origin::Member, &Command::Auth(command)).await?;
                    token
                }
            };
            // The password may have been changed while it was compared.
            if self.shared.with(|keyspace| keyspace.auth().revision()) == revision {
                return Ok(token);
            }
        }
    }
}
