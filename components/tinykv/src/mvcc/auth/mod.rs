//! Users, roles and permissions as the replicated state knows them: who may do what is decided
//! when a command is applied, so that every member decides alike.

mod codec;
mod permissions;
mod state;
#[cfg(test)]
mod tests;

pub(super) use codec::{get_command, put_command};
pub use codec::{parse_role, parse_user, role_record, user_record};
pub use state::{Auth, Touched};

use bytes::Bytes;
use std::collections::BTreeSet;

/// The user who may do everything, and the role that makes it so.
pub const ROOT: &str = "root";

/// Who asks, as far as that is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user's name.
    pub name: String,
    /// The revision of users and roles that the proof goes back to.
    pub revision: u64,
}

/// On whose behalf something is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A client that has not said who it is.
    Anyone,
    /// A client that has.
    User(Caller),
    /// The cluster itself, as when a lease runs out.
    Member,
}

/// What a permission permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write and delete.
    Write,
    /// Both.
    ReadWrite,
}

/// A permission on some keys. The ends are kept as they were given: they name the permission when it is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// What may be done.
    pub access: Access,
    /// The key, or the first one.
    pub key: Bytes,
    /// Empty for one key, one zero byte for "from here on", else the first key that is not meant.
    pub range_end: Bytes,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// The password's bcrypt hash; empty where there is none that fits.
    pub password: Bytes,
    /// Whether the user is known by certificates alone.
    pub no_password: bool,
    /// The user's roles.
    pub roles: BTreeSet<String>,
}

/// A role: permissions, by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Role {
    /// What it permits.
    pub permissions: Vec<Permission>,
}

/// A change of users and roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthCommand {
    /// From now on, callers must be permitted what they ask for.
    Enable,
    /// From now on, everybody may do everything.
    Disable,
    /// A user whose password was checked gets a token.
    Authenticate {
        /// The user.
        name: String,
        /// The token.
        token: String,
    },
    /// A new user.
    UserAdd {
        /// Its name.
        name: String,
        /// The password's hash.
        password: Bytes,
        /// Whether the user has no password.
        no_password: bool,
    },
    /// A user's end.
    UserDelete {
        /// The user.
        name: String,
    },
    /// Another password.
    UserChangePassword {
        /// The user.
        name: String,
        /// The new password's hash.
        password: Bytes,
    },
    /// A role for a user.
    UserGrantRole {
        /// The user.
        name: String,
        /// The role.
        role: String,
    },
    /// A role is taken from a user.
    UserRevokeRole {
        /// The user.
        name: String,
        /// The role.
        role: String,
    },
    /// A new role.
    RoleAdd {
        /// Its name.
        name: String,
    },
    /// A role's end, for all users.
    RoleDelete {
        /// The role.
        name: String,
    },
    /// A permission for a role.
    RoleGrantPermission {
        /// The role.
        name: String,
        /// The permission.
        permission: Permission,
    },
    /// A permission is taken from a role.
    RoleRevokePermission {
        /// The role.
        name: String,
        /// As it was granted.
        key: Bytes,
        /// As it was granted.
        range_end: Bytes,
    },
}

/// Why users and roles forbid something, or cannot be changed so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is nobody who could change it back.
    #[error("root user does not exist")]
    RootUserMissing,
    /// The same.
    #[error("root user does not have root role")]
    RootRoleMissing,
    /// The name is taken.
    #[error("user already exists")]
    UserExists,
    /// Nobody is named, or nobody asked.
    #[error("user name is empty")]
    UserEmpty,
    /// There is no such user.
    #[error("user not found")]
    UserNotFound,
    /// The name is taken.
    #[error("role already exists")]
    RoleExists,
    /// There is no such role.
    #[error("role not found")]
    RoleNotFound,
    /// No role is named.
    #[error("role name is empty")]
    RoleEmpty,
    /// Name or password are wrong.
    #[error("authentication failed, invalid user ID or password")]
    Failed,
    /// The user has no password.
    #[error("authentication failed, password was given for no password user")]
    NoPasswordUser,
    /// The caller may not do that.
    #[error("permission denied")]
    PermissionDenied,
    /// The user has no such role.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// The role has no such permission.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// Nobody needs a token.
    #[error("authentication is not enabled")]
    NotEnabled,
    /// Users and roles have changed since the caller proved who it is.
    #[error("revision in header is old")]
    OldRevision,
    /// It would leave nobody in charge, or makes no sense.
    #[error("invalid auth management")]
    InvalidManagement,
}
