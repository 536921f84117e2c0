//! The Auth service: users, roles and tokens.

use super::Door;
use crate::mvcc::auth::{Access, Permission, ROOT};
use crate::mvcc::{AuthCommand, AuthError, Command, Origin};
use bytes::Bytes;
use tonic::{Request, Response, Status, async_trait};
use wire::etcd::authpb;
use wire::etcd::authpb::permission::Type;
use wire::etcd::etcdserverpb as pb;
use wire::etcd::etcdserverpb::auth_server::Auth;

impl Door {
    async fn change<T>(&self, request: &Request<T>, command: AuthCommand) -> Result<(), Status> {
        let by = self.caller(request).await?;
        self.node.propose(&by, &Command::Auth(command)).await?;
        Ok(())
    }
}

pub(super) fn permission(wire: authpb::Permission) -> Result<Permission, Status> {
    let access = match Type::try_from(wire.perm_type) {
        Ok(Type::Read) => Access::Read,
        Ok(Type::Write) => Access::Write,
        Ok(Type::Readwrite) => Access::ReadWrite,
        Err(_) => return Err(Status::invalid_argument("etcdserver: invalid auth management")),
    };
    Ok(Permission { access, key: wire.key, range_end: wire.range_end })
}

pub(super) fn message(permission: Permission) -> authpb::Permission {
    let kind = match permission.access {
        Access::Read => Type::Read,
        Access::Write => Type::Write,
        Access::ReadWrite => Type::Readwrite,
    };
    authpb::Permission { perm_type: kind.into(), key: permission.key, range_end: permission.range_end }
}

/// Whether the caller is `name`.
fn is(by: &Origin, name: &str) -> bool {
    matches!(by, Origin::User(caller) if caller.name == name)
}

#[async_trait]
impl Auth for Door {
    async fn auth_enable(
        &self,
        request: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        self.change(&request, AuthCommand::Enable).await?;
        Ok(Response::new(pb::AuthEnableResponse { header: self.header_now() }))
    }

    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        self.change(&request, AuthCommand::Disable).await?;
        Ok(Response::new(pb::AuthDisableResponse { header: self.header_now() }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        self.caller(&request).await?;
        let (enabled, auth_revision) =
            self.node.read_auth(|auth| Ok((auth.enabled(), auth.revision()))).await?;
        Ok(Response::new(pb::AuthStatusResponse { header: self.header_now(), enabled, auth_revision }))
    }

    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let asked = request.into_inner();
        let token = self.node.authenticate(&asked.name, &asked.password).await?;
        Ok(Response::new(pb::AuthenticateResponse { header: self.header_now(), token }))
    }

    async fn user_add(
        &self,
        request: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let asked = request.get_ref();
        let no_password = asked.options.as_ref().is_some_and(|options| options.no_password);
        let password =
            if no_password { Bytes::new() } else { self.node.hash_password(asked.password.clone()).await? };
        let command = AuthCommand::UserAdd { name: asked.name.clone(), password, no_password };
        self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header: self.header_now() }))
    }

    async fn user_get(
        &self,
        request: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let by = self.caller(&request).await?;
        let name = request.into_inner().name;
        let read = self.node.read_auth(|auth| {
            auth.check_admin(&by).or_else(|denied| if is(&by, &name) { Ok(()) } else { Err(denied) })?;
            let user = auth.user(&name).ok_or(AuthError::UserNotFound)?;
            Ok(user.roles.iter().cloned().collect())
        });
        Ok(Response::new(pb::AuthUserGetResponse { roles: read.await?, header: self.header_now() }))
    }

    async fn user_list(
        &self,
        request: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let by = self.caller(&request).await?;
        let read = self.node.read_auth(|auth| {
            auth.check_admin(&by)?;
            Ok(auth.users().map(str::to_owned).collect())
        });
        Ok(Response::new(pb::AuthUserListResponse { users: read.await?, header: self.header_now() }))
    }

    async fn user_delete(
        &self,
        request: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        let asked = request.get_ref();
        let command = AuthCommand::UserDelete { name: asked.name.clone() };
        self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserDeleteResponse { header: self.header_now() }))
    }

    async fn user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let asked = request.get_ref();
        // As with etcd, nothing fits an empty one.
        let password = if asked.password.is_empty() {
            Bytes::new()
        } else {
            self.node.hash_password(asked.password.clone()).await?
        };
        let command = AuthCommand::UserChangePassword { name: asked.name.clone(), password };
        self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header: self.header_now() }))
    }

    async fn user_grant_role(
        &self,
        request: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        let asked = request.get_ref();
        let command = AuthCommand::UserGrantRole { name: asked.user.clone(), role: asked.role.clone() };
        self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserGrantRoleResponse { header: self.header_now() }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        let asked = request.get_ref();
        let command = AuthCommand::UserRevokeRole { name: asked.name.clone(), role: asked.role.clone() };
        self.change(&request, command).await?;
        Ok(Response::new(pb::AuthUserRevokeRoleResponse { header: self.header_now() }))
    }

    async fn role_add(
        &self,
        request: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        let asked = request.get_ref();
        let command = AuthCommand::RoleAdd { name: asked.name.clone() };
        self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleAddResponse { header: self.header_now() }))
    }

    async fn role_get(
        &self,
        request: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let by = self.caller(&request).await?;
        let name = request.into_inner().role;
        let read = self.node.read_auth(|auth| {
            auth.check_admin(&by).or_else(|denied| {
                let has = |user: &str| auth.user(user).is_some_and(|user| user.roles.contains(&name));
                if matches!(&by, Origin::User(caller) if has(&caller.name)) { Ok(()) } else { Err(denied) }
            })?;
            let role = auth.role(&name).ok_or(AuthError::RoleNotFound)?;
            Ok(role.permissions.clone())
        });
        let mut permissions = read.await?;
        if name == ROOT {
            let range_end = Bytes::from_static(&[0]);
            permissions = vec![Permission { access: Access::ReadWrite, key: Bytes::new(), range_end }];
        }
        let perm = permissions.into_iter().map(message).collect();
        Ok(Response::new(pb::AuthRoleGetResponse { header: self.header_now(), perm }))
    }

    async fn role_list(
        &self,
        request: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let by = self.caller(&request).await?;
        let read = self.node.read_auth(|auth| {
            auth.check_admin(&by)?;
            Ok(auth.roles().map(str::to_owned).collect())
        });
        Ok(Response::new(pb::AuthRoleListResponse { roles: read.await?, header: self.header_now() }))
    }

    async fn role_delete(
        &self,
        request: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        let asked = request.get_ref();
        let command = AuthCommand::RoleDelete { name: asked.role.clone() };
        self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleDeleteResponse { header: self.header_now() }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        let asked = request.get_ref();
        let Some(given) = asked.perm.clone() else {
            return Err(Status::invalid_argument("etcdserver: permission not given"));
        };
        let command =
            AuthCommand::RoleGrantPermission { name: asked.name.clone(), permission: permission(given)? };
        self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleGrantPermissionResponse { header: self.header_now() }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        let asked = request.get_ref();
        let command = AuthCommand::RoleRevokePermission {
            name: asked.role.clone(),
            key: asked.key.clone(),
            range_end: asked.range_end.clone(),
        };
        self.change(&request, command).await?;
        Ok(Response::new(pb::AuthRoleRevokePermissionResponse { header: self.header_now() }))
    }
}
