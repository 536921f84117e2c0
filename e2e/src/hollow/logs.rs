//! What processes of pods print, as a kubelet tells it to the API server, whom `kubectl logs` asks.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as Named, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::serve::Listener;
use futures::stream;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::pods::Pods;

/// Between two looks at a file that is followed.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the API server asks: one door for all nodes, by a certificate that nobody checks, as most kubelets have it.
pub(super) struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Door {
    /// Opens it, on loopback; also its port.
    pub(super) async fn open() -> Result<(Self, u16)> {
        let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        Ok((Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }, port))
    }

    /// Answers for as long as it is polled.
    pub(super) async fn serve(self, pods: Arc<Pods>) {
        let router =
            Router::new().route("/containerLogs/{namespace}/{pod}/{container}", get(tell)).with_state(pods);
        if let Err(error) = axum::serve(self, router).await {
            eprintln!("hollow logs: {error}");
        }
    }
}

impl Listener for Door {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            if let Ok((stream, from)) = self.listener.accept().await
                && let Ok(stream) = self.acceptor.accept(stream).await
            {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// What is asked for, in the kubelet's words.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    #[serde(default)]
    follow: bool,
    tail_lines: Option<usize>,
}

async fn tell(
    State(pods): State<Arc<Pods>>,
    Named((namespace, pod, container)): Named<(String, String, String)>,
    Query(asked): Query<Asked>,
) -> Response {
    let Some((live, path)) = pods.log(&namespace, &pod, &container) else {
        return (StatusCode::NOT_FOUND, format!("{pod} runs no process")).into_response();
    };
    let text = from(&path, 0);
    let read = text.len() as u64;
    let begin = Bytes::from(last_lines(text, asked.tail_lines));
    if !asked.follow {
        return begin.into_response();
    }
    // Until the process ends, with its last words.
    let rest = stream::unfold(read, move |read| {
        let (pods, live, path, namespace) = (pods.clone(), live.clone(), path.clone(), namespace.clone());
        async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                let is_over = !pods
                    .live(&namespace)
                    .iter()
                    .any(|now| now.uid == live.uid && now.process == live.process);
                let new = from(&path, read);
                if !new.is_empty() {
                    let read = read + new.len() as u64;
                    return Some((Bytes::from(new), read));
                }
                if is_over {
                    return None;
                }
            }
        }
    });
    let all = futures::StreamExt::chain(stream::iter([begin]), rest);
    Body::from_stream(futures::StreamExt::map(all, Ok::<_, std::io::Error>)).into_response()
}

/// A file from a place on; one that cannot be read has nothing to tell.
fn from(path: &Path, offset: u64) -> Vec<u8> {
    let mut text = Vec::new();
    let Ok(mut file) = std::fs::File::open(path) else { return text };
    let _ = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut text));
    text
}

fn last_lines(text: Vec<u8>, count: Option<usize>) -> Vec<u8> {
    let Some(count) = count else { return text };
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    lines[lines.len().saturating_sub(count)..].concat()
}
