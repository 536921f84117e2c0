//! Users and roles, and what follows from them.

use super::permissions::Permitted;
use super::{AuthCommand, AuthError, Caller, Origin, Permission, ROOT, Role, User};
use crate::mvcc::{Op, Put, Span, Txn};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a change touched, for the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Users that changed, came or went.
    pub users: BTreeSet<String>,
    /// Roles that did.
    pub roles: BTreeSet<String>,
}

/// All users and roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
    /// What follows from the above.
    permitted: HashMap<String, Permitted>,
}

impl Default for Auth {
    fn default() -> Self {
        Self::restore(false, 1, BTreeMap::new(), BTreeMap::new())
    }
}

impl Auth {
    /// From what the store kept.
    pub fn restore(
        enabled: bool,
        revision: u64,
        users: BTreeMap<String, User>,
        roles: BTreeMap<String, Role>,
    ) -> Self {
        let mut auth = Self { enabled, revision, users, roles, permitted: HashMap::new() };
        auth.follow();
        auth
    }

    /// Whether callers must be permitted what they ask for.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Names of all users.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// Names of all roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// A user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// A role.
    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name)
    }

    fn follow(&mut self) {
        let of = |user: &User| Permitted::by(user.roles.iter().filter_map(|role| self.roles.get(role)));
        self.permitted = self.users.iter().map(|(name, user)| (name.clone(), of(user))).collect();
    }

    /// Applies a change. A refused one changes nothing.
    pub fn apply(&mut self, origin: &Origin, command: &AuthCommand) -> Result<Touched, AuthError> {
        if !matches!(command, AuthCommand::Authenticate { .. }) {
            self.check_admin(origin)?;
        }
        let touched = self.change(command)?;
        let counts = !touched.users.is_empty()
            || !touched.roles.is_empty()
            || matches!(command, AuthCommand::Disable if self.enabled);
        if let AuthCommand::Disable = command {
            self.enabled = false;
        }
        if counts {
            self.revision += 1;
            self.follow();
        }
        Ok(touched)
    }

    fn change(&mut self, command: &AuthCommand) -> Result<Touched, AuthError> {
        use AuthCommand as C;
        match command {
            C::Enable => {
                if !self.enabled {
                    let root = self.users.get(ROOT).ok_or(AuthError::RootUserMissing)?;
                    if !root.roles.contains(ROOT) {
                        return Err(AuthError::RootRoleMissing);
                    }
                    self.enabled = true;
                }
                Ok(Touched::default())
            }
            C::Disable => Ok(Touched::default()),
            C::Authenticate { name, .. } => {
                if !self.enabled {
                    return Err(AuthError::NotEnabled);
                }
                match self.users.get(name) {
                    Some(user) if !user.no_password => Ok(Touched::default()),
                    _ => Err(AuthError::Failed),
                }
            }
            C::UserAdd { .. }
            | C::UserDelete { .. }
            | C::UserChangePassword { .. }
            | C::UserGrantRole { .. }
            | C::UserRevokeRole { .. } => self.change_user(command),
            C::RoleAdd { .. }
            | C::RoleDelete { .. }
            | C::RoleGrantPermission { .. }
            | C::RoleRevokePermission { .. } => self.change_role(command),
        }
    }

    fn change_user(&mut self, command: &AuthCommand) -> Result<Touched, AuthError> {
        use AuthCommand as C;
        let name = match command {
            C::UserAdd { name, password, no_password } => {
                if name.is_empty() {
                    return Err(AuthError::UserEmpty);
                }
                if self.users.contains_key(name) {
                    return Err(AuthError::UserExists);
                }
                let user =
                    User { password: password.clone(), no_password: *no_password, roles: BTreeSet::new() };
                self.users.insert(name.clone(), user);
                name
            }
            C::UserDelete { name } => {
                if self.enabled && name == ROOT {
                    return Err(AuthError::InvalidManagement);
                }
                self.users.remove(name).ok_or(AuthError::UserNotFound)?;
                name
            }
            C::UserChangePassword { name, password } => {
                let user = self.users.get_mut(name).ok_or(AuthError::UserNotFound)?;
                if !user.no_password {
                    user.password = password.clone();
                }
                name
            }
            C::UserGrantRole { name, role } => {
                let user = self.users.get_mut(name).ok_or(AuthError::UserNotFound)?;
                if role != ROOT && !self.roles.contains_key(role) {
                    return Err(AuthError::RoleNotFound);
                }
                if !user.roles.insert(role.clone()) {
                    return Ok(Touched::default());
                }
                name
            }
            C::UserRevokeRole { name, role } => {
                if self.enabled && name == ROOT && role == ROOT {
                    return Err(AuthError::InvalidManagement);
                }
                let user = self.users.get_mut(name).ok_or(AuthError::UserNotFound)?;
                if !user.roles.remove(role) {
                    return Err(AuthError::RoleNotGranted);
                }
                name
            }
            _ => return Ok(Touched::default()),
        };
        Ok(Touched { users: [name.clone()].into(), ..Touched::default() })
    }

    fn change_role(&mut self, command: &AuthCommand) -> Result<Touched, AuthError> {
        use AuthCommand as C;
        let mut touched = Touched::default();
        match command {
            C::RoleAdd { name } => {
                if name.is_empty() {
                    return Err(AuthError::RoleEmpty);
                }
                if self.roles.contains_key(name) {
                    return Err(AuthError::RoleExists);
                }
                self.roles.insert(name.clone(), Role::default());
                touched.roles.insert(name.clone());
            }
            C::RoleDelete { name } => {
                if self.enabled && name == ROOT {
                    return Err(AuthError::InvalidManagement);
                }
                self.roles.remove(name).ok_or(AuthError::RoleNotFound)?;
                touched.roles.insert(name.clone());
                for (user, record) in &mut self.users {
                    if record.roles.remove(name) {
                        touched.users.insert(user.clone());
                    }
                }
            }
            C::RoleGrantPermission { name, permission } => {
                if !is_sound(permission) {
                    return Err(AuthError::InvalidManagement);
                }
                let role = self.roles.get_mut(name).ok_or(AuthError::RoleNotFound)?;
                let same = |one: &&mut Permission| {
                    one.key == permission.key && one.range_end == permission.range_end
                };
                if let Some(there) = role.permissions.iter_mut().find(same) {
                    there.access = permission.access;
                } else {
                    let at = role.permissions.partition_point(|one| one.key <= permission.key);
                    role.permissions.insert(at, permission.clone());
                }
                touched.roles.insert(name.clone());
            }
            C::RoleRevokePermission { name, key, range_end } => {
                let role = self.roles.get_mut(name).ok_or(AuthError::RoleNotFound)?;
                let before = role.permissions.len();
                role.permissions.retain(|one| one.key != *key || one.range_end != *range_end);
                if role.permissions.len() == before {
                    return Err(AuthError::PermissionNotGranted);
                }
                touched.roles.insert(name.clone());
            }
            _ => {}
        }
        Ok(touched)
    }

    /// Whether the caller may change users and roles, and see all of them.
    pub fn check_admin(&self, origin: &Origin) -> Result<(), AuthError> {
        if !self.enabled || *origin == Origin::Member {
            return Ok(());
        }
        // A certificate may have no name in it.
        let caller = match origin {
            Origin::User(caller) if !caller.name.is_empty() => caller,
            _ => return Err(AuthError::UserEmpty),
        };
        let user = self.users.get(&caller.name).ok_or(AuthError::UserNotFound)?;
        if user.roles.contains(ROOT) { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// Whether the caller has said who it is.
    pub fn check_known(&self, origin: &Origin) -> Result<(), AuthError> {
        if self.enabled && *origin == Origin::Anyone { Err(AuthError::UserEmpty) } else { Ok(()) }
    }

    /// Whether the caller may read all of these keys.
    pub fn check_read(&self, origin: &Origin, span: &Span) -> Result<(), AuthError> {
        self.check_keys(origin, |permitted| permitted.reads(span))
    }

    /// Whether the caller may write all of these keys.
    pub fn check_write(&self, origin: &Origin, span: &Span) -> Result<(), AuthError> {
        self.check_keys(origin, |permitted| permitted.writes(span))
    }

    fn check_keys(&self, origin: &Origin, permits: impl FnOnce(&Permitted) -> bool) -> Result<(), AuthError> {
        if !self.enabled {
            return Ok(());
        }
        let Caller { name, revision } = match origin {
            Origin::Member => return Ok(()),
            Origin::Anyone => return Err(AuthError::UserEmpty),
            Origin::User(caller) => caller,
        };
        if *revision < self.revision {
            return Err(AuthError::OldRevision);
        }
        let user = self.users.get(name).ok_or(AuthError::PermissionDenied)?;
        let permitted = user.roles.contains(ROOT) || self.permitted.get(name).is_some_and(permits);
        if permitted { Ok(()) } else { Err(AuthError::PermissionDenied) }
    }

    /// Whether the caller may write as `put` does; `leased` answers the keys that live by a lease.
    pub(in crate::mvcc) fn check_put<'k>(
        &self,
        origin: &Origin,
        put: &Put,
        leased: &dyn Fn(i64) -> Vec<&'k bytes::Bytes>,
    ) -> Result<(), AuthError> {
        let span = Span::Key(put.key.clone());
        self.check_write(origin, &span)?;
        // Whoever attaches a key to a lease could end the keys of others by it.
        self.check_lease(origin, &leased(put.lease))?;
        if put.prev_kv { self.check_read(origin, &span) } else { Ok(()) }
    }

    /// Whether the caller may write all keys of a lease.
    pub(in crate::mvcc) fn check_lease(
        &self,
        origin: &Origin,
        keys: &[&bytes::Bytes],
    ) -> Result<(), AuthError> {
        if self.check_admin(origin).is_ok() {
            return Ok(());
        }
        keys.iter().try_for_each(|key| self.check_write(origin, &Span::Key((*key).clone())))
    }

    /// Whether the caller may do everything that a transaction could do, whichever way it goes.
    pub(in crate::mvcc) fn check_txn<'k>(
        &self,
        origin: &Origin,
        txn: &Txn,
        leased: &dyn Fn(i64) -> Vec<&'k bytes::Bytes>,
    ) -> Result<(), AuthError> {
        txn.compares.iter().try_for_each(|compare| self.check_read(origin, &compare.span))?;
        txn.success.iter().chain(&txn.failure).try_for_each(|op| match op {
            Op::Query(query) => self.check_read(origin, &query.span),
            Op::Put(put) => self.check_put(origin, put, leased),
            Op::Delete(delete) => {
                if delete.prev_kv {
                    self.check_read(origin, &delete.span)?;
                }
                self.check_write(origin, &delete.span)
            }
            Op::Txn(txn) => self.check_txn(origin, txn, leased),
        })
    }
}

/// Whether a permission means any key.
fn is_sound(permission: &Permission) -> bool {
    let Permission { key, range_end, .. } = permission;
    !key.is_empty() && (range_end.is_empty() || key < range_end || range_end[..] == [0])
}
