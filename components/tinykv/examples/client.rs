//! A client of three members, with TLS and a user: the crate `etcd-client`, with its feature `tls`.

use etcd_client::{Certificate, Client, Compare, CompareOp, ConnectOptions, Error, PutOptions};
use etcd_client::{ResponseHeader, TlsOptions, Txn, TxnOp, WatchOptions};

const MEMBERS: [&str; 3] = ["https://127.0.0.1:12379", "https://127.0.0.1:22379", "https://127.0.0.1:32379"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ca = Certificate::from_pem(std::fs::read("tls/ca.pem")?);
    let options = ConnectOptions::new()
        .with_tls(TlsOptions::new().ca_certificate(ca).domain_name("localhost"))
        .with_user("app", "app-secret");
    let mut client = Client::connect(MEMBERS, Some(options)).await?;

    let put = client.put("app/rust", "1", None).await?;
    let revision = put.header().map_or(0, ResponseHeader::revision);
    let from = WatchOptions::new().with_start_revision(revision);
    let mut events = client.watch("app/rust", Some(from)).await?;
    while let Some(response) = events.message().await? {
        if let Some(event) = response.events().first() {
            println!("watched: {:?}", event.event_type());
            break;
        }
    }

    let lease = client.lease_grant(600, None).await?.id();
    let write = TxnOp::put("app/rust", "2", Some(PutOptions::new().with_lease(lease)));
    let swap = Txn::new().when([Compare::value("app/rust", CompareOp::Equal, "1")]).and_then([write]);
    println!("swapped: {}", client.txn(swap).await?.succeeded());

    match client.put("other/rust", "1", None).await {
        Err(Error::GRpcStatus(status)) if status.message().contains("permission denied") => {}
        other => return Err(format!("others' keys: {other:?}").into()),
    }
    println!("rust: ok");
    Ok(())
}
