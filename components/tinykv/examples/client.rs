//! A client of three members, with TLS and a user: the crate `etcd-client`, with its feature `tls`.

use std::time::Duration;

use etcd_client::{Certificate, Client, Compare, CompareOp, ConnectOptions, Error, PutOptions};
use etcd_client::{ResponseHeader, TlsOptions, Txn, TxnOp, WatchOptions};
use tokio::time::sleep;
use tonic::Code;

const MEMBERS: [&str; 3] = ["https://127.0.0.1:12379", "https://127.0.0.1:22379", "https://127.0.0.1:32379"];

/// Asks until a member answers. The crate sends a request to any member of its list, and where that one is gone hands the error to its
/// caller. A request that was on its way when a member died may be done twice.
async fn answered<T>(mut ask: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    loop {
        match ask().await {
            Err(Error::GRpcStatus(status)) if status.code() == Code::Unavailable => {
                sleep(Duration::from_millis(100)).await;
            }
            answer => return answer,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ca = Certificate::from_pem(std::fs::read("tls/ca.pem")?);
    let options =
        ConnectOptions::new().with_tls(TlsOptions::new().ca_certificate(ca).domain_name("localhost"));
    let mut client = Client::connect(MEMBERS, Some(options)).await?;
    // With `with_user` it would be `connect` that asks for a token, of a client that is new each time: there a member that is gone
    // fails before the others have shaken hands.
    let user = ("app".to_owned(), "app-secret".to_owned());
    answered(async || client.update_user(Some(user.clone())).await).await?;

    let put = answered(async || client.put("app/rust", "1", None).await).await?;
    let revision = put.header().map_or(0, ResponseHeader::revision);
    let from = WatchOptions::new().with_start_revision(revision);
    let mut events = answered(async || client.watch("app/rust", Some(from.clone())).await).await?;
    while let Some(response) = events.message().await? {
        if let Some(event) = response.events().first() {
            println!("watched: {:?}", event.event_type());
            break;
        }
    }

    let lease = answered(async || client.lease_grant(600, None).await).await?.id();
    let write = TxnOp::put("app/rust", "2", Some(PutOptions::new().with_lease(lease)));
    let swap = Txn::new().when([Compare::value("app/rust", CompareOp::Equal, "1")]).and_then([write]);
    println!("swapped: {}", answered(async || client.txn(swap.clone()).await).await?.succeeded());

    match answered(async || client.put("other/rust", "1", None).await).await {
        Err(Error::GRpcStatus(status)) if status.message().contains("permission denied") => {}
        other => return Err(format!("others' keys: {other:?}").into()),
    }
    println!("rust: ok");
    Ok(())
}
