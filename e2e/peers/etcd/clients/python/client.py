"""A client of three members, with TLS and a user: the package etcd3."""

import grpc
import etcd3

# etcd3 takes one host; gRPC takes a list of addresses for one, and goes to the next when one is gone. The name is that in the
# members' certificates.
client = etcd3.client(
    host="ipv4:127.0.0.1:12379,127.0.0.1:22379,127.0.0.1", port=32379,
    ca_cert="tls/ca.pem", user="app", password="app-secret",
    grpc_options=[("grpc.ssl_target_name_override", "localhost"), ("grpc.default_authority", "localhost")],
)

put = client.put("app/python", "1")
events, cancel = client.watch("app/python", start_revision=put.header.revision)
print("watched:", next(events).value)
cancel()

lease = client.lease(600)
swapped, _ = client.transaction(
    compare=[client.transactions.value("app/python") == "1"],
    success=[client.transactions.put("app/python", "2", lease)],
    failure=[],
)
print("swapped:", swapped)

try:
    client.put("other/python", "1")
    raise SystemExit("others' keys were written")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
print("python: ok")
