//! The JSON gateway under `/v3`: each call becomes a call of the gRPC service behind it, and its answer JSON again, as
//! etcd's own gateway does it. Keys and values are base64, 64-bit numbers are strings, fields have their proto names, and
//! what is empty is left out.

mod frames;
mod json;

use super::Door;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::any;
use bytes::Bytes;
use frames::Frames;
use futures::{Stream, StreamExt as _, stream};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use tonic::{Code, Status};
use tower::ServiceExt as _;

/// Service, method and paths, as etcd's proto files bind them. `RangeStream` has none.
const BINDINGS: &[(&str, &str, &[&str])] = &[
    ("etcdserverpb.KV", "Range", &["kv/range"]),
    ("etcdserverpb.KV", "Put", &["kv/put"]),
    ("etcdserverpb.KV", "DeleteRange", &["kv/deleterange"]),
    ("etcdserverpb.KV", "Txn", &["kv/txn"]),
    ("etcdserverpb.KV", "Compact", &["kv/compaction"]),
    ("etcdserverpb.Watch", "Watch", &["watch"]),
    ("etcdserverpb.Lease", "LeaseGrant", &["lease/grant"]),
    ("etcdserverpb.Lease", "LeaseRevoke", &["lease/revoke", "kv/lease/revoke"]),
    ("etcdserverpb.Lease", "LeaseKeepAlive", &["lease/keepalive"]),
    ("etcdserverpb.Lease", "LeaseTimeToLive", &["lease/timetolive", "kv/lease/timetolive"]),
    ("etcdserverpb.Lease", "LeaseLeases", &["lease/leases", "kv/lease/leases"]),
    ("etcdserverpb.Cluster", "MemberAdd", &["cluster/member/add"]),
    ("etcdserverpb.Cluster", "MemberRemove", &["cluster/member/remove"]),
    ("etcdserverpb.Cluster", "MemberUpdate", &["cluster/member/update"]),
    ("etcdserverpb.Cluster", "MemberList", &["cluster/member/list"]),
    ("etcdserverpb.Cluster", "MemberPromote", &["cluster/member/promote"]),
    ("etcdserverpb.Maintenance", "Alarm", &["maintenance/alarm"]),
    ("etcdserverpb.Maintenance", "Status", &["maintenance/status"]),
    ("etcdserverpb.Maintenance", "Defragment", &["maintenance/defragment"]),
    ("etcdserverpb.Maintenance", "Hash", &["maintenance/hash"]),
    ("etcdserverpb.Maintenance", "HashKV", &["maintenance/hashkv"]),
    ("etcdserverpb.Maintenance", "Snapshot", &["maintenance/snapshot"]),
    ("etcdserverpb.Maintenance", "MoveLeader", &["maintenance/transfer-leadership"]),
    ("etcdserverpb.Maintenance", "Downgrade", &["maintenance/downgrade"]),
    ("etcdserverpb.Auth", "AuthEnable", &["auth/enable"]),
    ("etcdserverpb.Auth", "AuthDisable", &["auth/disable"]),
    ("etcdserverpb.Auth", "AuthStatus", &["auth/status"]),
    ("etcdserverpb.Auth", "Authenticate", &["auth/authenticate"]),
    ("etcdserverpb.Auth", "UserAdd", &["auth/user/add"]),
    ("etcdserverpb.Auth", "UserGet", &["auth/user/get"]),
    ("etcdserverpb.Auth", "UserList", &["auth/user/list"]),
    ("etcdserverpb.Auth", "UserDelete", &["auth/user/delete"]),
    ("etcdserverpb.Auth", "UserChangePassword", &["auth/user/changepw"]),
    ("etcdserverpb.Auth", "UserGrantRole", &["auth/user/grant"]),
    ("etcdserverpb.Auth", "UserRevokeRole", &["auth/user/revoke"]),
    ("etcdserverpb.Auth", "RoleAdd", &["auth/role/add"]),
    ("etcdserverpb.Auth", "RoleGet", &["auth/role/get"]),
    ("etcdserverpb.Auth", "RoleList", &["auth/role/list"]),
    ("etcdserverpb.Auth", "RoleDelete", &["auth/role/delete"]),
    ("etcdserverpb.Auth", "RoleGrantPermission", &["auth/role/grant"]),
    ("etcdserverpb.Auth", "RoleRevokePermission", &["auth/role/revoke"]),
    ("v3lockpb.Lock", "Lock", &["lock/lock"]),
    ("v3lockpb.Lock", "Unlock", &["lock/unlock"]),
    ("v3electionpb.Election", "Campaign", &["election/campaign"]),
    ("v3electionpb.Election", "Proclaim", &["election/proclaim"]),
    ("v3electionpb.Election", "Leader", &["election/leader"]),
    ("v3electionpb.Election", "Observe", &["election/observe"]),
    ("v3electionpb.Election", "Resign", &["election/resign"]),
];

struct Gateway {
    methods: HashMap<&'static str, MethodDescriptor>,
    services: Router,
}

/// The gateway in front of a door's services.
pub fn gateway(door: &Door) -> Router {
    let gateway = Gateway { methods: methods(), services: door.services() };
    // The second is what clients of etcd 3.3 call.
    Router::new()
        .route("/v3/{*path}", any(call))
        .route("/v3beta/{*path}", any(call))
        .with_state(Arc::new(gateway))
}

fn methods() -> HashMap<&'static str, MethodDescriptor> {
    let pool = DescriptorPool::decode(wire::etcd::FILE_DESCRIPTOR_SET)
        .expect("the descriptors were generated with the code");
    let mut methods = HashMap::new();
    for (service, name, paths) in BINDINGS {
        let service = pool.get_service_by_name(service);
        let method = service.and_then(|service| service.methods().find(|method| method.name() == *name));
        let method = method.expect("the table names services and methods of the descriptors");
        methods.extend(paths.iter().map(|path| (*path, method.clone())));
    }
    methods
}

async fn call(State(gateway): State<Arc<Gateway>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let path = path.strip_prefix("/v3/").or_else(|| path.strip_prefix("/v3beta/")).unwrap_or(path);
    let Some(method) = gateway.methods.get(path) else {
        return refuse(&Status::not_found("Not Found"));
    };
    if parts.method != Method::POST {
        return refuse(&Status::unimplemented("Method Not Allowed"));
    }
    let messages = if method.is_client_streaming() {
        Body::from_stream(json::messages(body, method.input()))
    } else {
        match json::message(body, &method.input()).await {
            Ok(message) => Body::from(frames::frame(&message)),
            Err(status) => return refuse(&status),
        }
    };
    let uri = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut request = Request::new(messages);
    *request.method_mut() = Method::POST;
    *request.headers_mut() = metadata(&parts.headers);
    match uri.parse() {
        Ok(uri) => *request.uri_mut() = uri,
        Err(_) => return refuse(&Status::internal("the path of a method is no path")),
    }
    let Ok(response) = gateway.services.clone().oneshot(request).await;
    let mut answers = Frames::of(response);
    if method.is_server_streaming() {
        stream_out(method.clone(), answers).await
    } else {
        one(method, &mut answers).await
    }
}

/// What of a request's headers goes on: the token, and whatever is marked as metadata.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let marked = name.as_str().strip_prefix("grpc-metadata-");
        let kept = if name == header::AUTHORIZATION { Some(name.as_str()) } else { marked };
        if let Some(Ok(name)) = kept.map(|name| HeaderName::from_bytes(name.as_bytes())) {
            metadata.append(name, value.clone());
        }
    }
    metadata.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, header::HeaderValue::from_static("trailers"));
    metadata
}

async fn one(method: &MethodDescriptor, answers: &mut Frames) -> Response<Body> {
    let mut answer = None;
    loop {
        match answers.next().await {
            Ok(Some(message)) => answer = Some(message),
            Ok(None) => break,
            Err(status) => return refuse(&status),
        }
    }
    match answer
        .ok_or_else(|| Status::internal("no answer"))
        .and_then(|bytes| json::text(method.output(), bytes))
    {
        Ok(text) => json_response(StatusCode::OK, Body::from(text)),
        Err(status) => refuse(&status),
    }
}

/// One line an answer. An error before the first decides the status code, one after it is a line of its own.
async fn stream_out(method: MethodDescriptor, mut answers: Frames) -> Response<Body> {
    let first = match answers.next().await {
        Ok(first) => first,
        Err(status) => {
            let line = format!("{{\"error\":{}}}\n", json::status(&status));
            return json_response(http_status(status.code()), Body::from(line));
        }
    };
    let lines = lines(method, first, answers).map(Ok::<_, Infallible>);
    json_response(StatusCode::OK, Body::from_stream(lines))
}

fn lines(method: MethodDescriptor, first: Option<Bytes>, answers: Frames) -> impl Stream<Item = String> {
    stream::unfold((first, Some(answers)), move |(ready, answers)| {
        let output = method.output();
        async move {
            let mut answers = answers?;
            let next = match ready {
                Some(message) => Ok(Some(message)),
                None => answers.next().await,
            };
            match next.and_then(|message| message.map(|bytes| json::text(output, bytes)).transpose()) {
                Ok(Some(text)) => Some((format!("{{\"result\":{text}}}\n"), (None, Some(answers)))),
                Ok(None) => None,
                Err(status) => Some((format!("{{\"error\":{}}}\n", json::status(&status)), (None, None))),
            }
        }
    })
}

fn json_response(status: StatusCode, body: Body) -> Response<Body> {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn refuse(status: &Status) -> Response<Body> {
    json_response(http_status(status.code()), Body::from(json::status(status)))
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // "Client closed request", which no standard knows.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_but_one_has_a_path() {
        let methods = methods();
        let pool = DescriptorPool::decode(wire::etcd::FILE_DESCRIPTOR_SET).expect("descriptors");
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let bound = methods.values().any(|bound| bound.full_name() == method.full_name());
            assert_eq!(bound, method.name() != "RangeStream", "{}", method.full_name());
        }
    }
}
