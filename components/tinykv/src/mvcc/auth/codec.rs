//! The bytes of changes of users and roles in the log, and of users and roles in the store.

use super::{Access, AuthCommand, Permission, Role, User};
use crate::mvcc::codec::{CommandError, Reader, put_bytes};
use bytes::{BufMut, Bytes};

pub(in crate::mvcc) fn put_command(out: &mut Vec<u8>, command: &AuthCommand) {
    use AuthCommand as C;
    let mut tagged = |tag: u8, strings: &[&[u8]]| {
        out.put_u8(tag);
        for string in strings {
            put_bytes(out, string);
        }
    };
    match command {
        C::Enable => tagged(0, &[]),
        C::Disable => tagged(1, &[]),
        C::Authenticate { name, token } => tagged(2, &[name.as_bytes(), token.as_bytes()]),
        C::UserAdd { name, password, no_password } => {
            tagged(3, &[name.as_bytes(), password]);
            out.put_u8(u8::from(*no_password));
        }
        C::UserDelete { name } => tagged(4, &[name.as_bytes()]),
        C::UserChangePassword { name, password } => tagged(5, &[name.as_bytes(), password]),
        C::UserGrantRole { name, role } => tagged(6, &[name.as_bytes(), role.as_bytes()]),
        C::UserRevokeRole { name, role } => tagged(7, &[name.as_bytes(), role.as_bytes()]),
        C::RoleAdd { name } => tagged(8, &[name.as_bytes()]),
        C::RoleDelete { name } => tagged(9, &[name.as_bytes()]),
        C::RoleGrantPermission { name, permission } => {
            tagged(10, &[name.as_bytes()]);
            put_permission(out, permission);
        }
        C::RoleRevokePermission { name, key, range_end } => tagged(11, &[name.as_bytes(), key, range_end]),
    }
}

pub(in crate::mvcc) fn get_command(reader: &mut Reader) -> Result<AuthCommand, CommandError> {
    use AuthCommand as C;
    Ok(match reader.u8()? {
        0 => C::Enable,
        1 => C::Disable,
        2 => C::Authenticate { name: reader.text()?, token: reader.text()? },
        3 => C::UserAdd {
            name: reader.text()?,
            password: reader.byte_string()?,
            no_password: reader.u8()? != 0,
        },
        4 => C::UserDelete { name: reader.text()? },
        5 => C::UserChangePassword { name: reader.text()?, password: reader.byte_string()? },
        6 => C::UserGrantRole { name: reader.text()?, role: reader.text()? },
        7 => C::UserRevokeRole { name: reader.text()?, role: reader.text()? },
        8 => C::RoleAdd { name: reader.text()? },
        9 => C::RoleDelete { name: reader.text()? },
        10 => C::RoleGrantPermission { name: reader.text()?, permission: permission(reader)? },
        11 => C::RoleRevokePermission {
            name: reader.text()?,
            key: reader.byte_string()?,
            range_end: reader.byte_string()?,
        },
        other => return Err(CommandError::Tag("change of users", other)),
    })
}

fn put_permission(out: &mut Vec<u8>, permission: &Permission) {
    out.put_u8(match permission.access {
        Access::Read => 0,
        Access::Write => 1,
        Access::ReadWrite => 2,
    });
    put_bytes(out, &permission.key);
    put_bytes(out, &permission.range_end);
}

fn permission(reader: &mut Reader) -> Result<Permission, CommandError> {
    let access = match reader.u8()? {
        0 => Access::Read,
        1 => Access::Write,
        2 => Access::ReadWrite,
        other => return Err(CommandError::Tag("permission", other)),
    };
    Ok(Permission { access, key: reader.byte_string()?, range_end: reader.byte_string()? })
}

/// A user as the store keeps it.
pub fn user_record(user: &User) -> Vec<u8> {
    let mut out = vec![u8::from(user.no_password)];
    put_bytes(&mut out, &user.password);
    out.put_u32_le(user.roles.len() as u32);
    user.roles.iter().for_each(|role| put_bytes(&mut out, role.as_bytes()));
    out
}

/// Reads [`user_record`] back.
pub fn parse_user(record: Bytes) -> Result<User, CommandError> {
    let mut reader = Reader::new(record);
    let (no_password, password) = (reader.u8()? != 0, reader.byte_string()?);
    let roles = (0..reader.count()?).map(|_| reader.text()).collect::<Result<_, _>>()?;
    reader.end(User { password, no_password, roles })
}

/// A role as the store keeps it.
pub fn role_record(role: &Role) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32_le(role.permissions.len() as u32);
    role.permissions.iter().for_each(|permission| put_permission(&mut out, permission));
    out
}

/// Reads [`role_record`] back.
pub fn parse_role(record: Bytes) -> Result<Role, CommandError> {
    let mut reader = Reader::new(record);
    let permissions = (0..reader.count()?).map(|_| permission(&mut reader)).collect::<Result<_, _>>()?;
    reader.end(Role { permissions })
}
