//! Servers as a hostile tenant would write them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Takes connections and has each answered.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    answer: impl Fn(TcpStream) -> F + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address.to_string()
}

async fn says(stream: &mut TcpStream, head: &str) {
    let _ = stream.read(&mut [0; 4096]).await;
    let _ = stream.write_all(head.as_bytes()).await;
}

#[tokio::test]
async fn an_answer_leads_nowhere_else() {
    let visited = Arc::new(AtomicUsize::new(0));
    let counted = visited.clone();
    let victim = serve(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { says(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await }
    })
    .await;
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let head = format!(
            "HTTP/1.1 {status}\r\nlocation: http://{victim}/collections/x\r\ncontent-length: 0\r\n\r\n"
        );
        let hostile = serve(move |mut stream| {
            let head = head.clone();
            async move { says(&mut stream, &head).await }
        })
        .await;
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let request =
                Request::builder().method(method.clone()).uri(format!("http://{hostile}/collections/x"));
            let answer = Outside::new(true).ask(request, Some(&json!({}))).await.expect("an answer");
            assert!(answer.status.is_redirection(), "{method} {status}");
        }
    }
    assert_eq!(visited.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_without_end_is_not_kept() {
    let hostile = serve(|mut stream| async move {
        says(&mut stream, "HTTP/1.1 200 OK\r\n\r\n").await;
        let junk = vec![b' '; 1 << 16];
        while stream.write_all(&junk).await.is_ok() {}
    })
    .await;
    let told = Outside::new(true).ask(Request::get(format!("http://{hostile}")), None).await;
    assert_eq!(told.map(|answer| answer.status), Err(Silence::TooLong));
}

#[tokio::test]
async fn an_answer_that_drips_takes_no_longer_than_a_step() {
    let hostile = serve(|mut stream| async move {
        says(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let outside = Outside::new(true);
    let url = format!("http://{hostile}");
    let began = tokio::time::Instant::now();
    let sixty_four = step(async {
        for _ in 0..64 {
            let told = outside.ask(Request::get(&url), None).await;
            assert_eq!(told.map(|answer| answer.status), Err(Silence::Late));
        }
    });
    sixty_four.await;
    assert!(began.elapsed() < 2 * patience::STEP, "{:?}", began.elapsed());
}

#[tokio::test]
async fn nobody_has_the_operator_call_its_own_machine() {
    let there = serve(|mut stream| async move {
        says(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let port: u16 = there.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let (in_a_cluster, on_a_laptop) = (Outside::new(false), Outside::new(true));
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.1", "169.254.169.254"] {
        let told = in_a_cluster.visit(&format!("http://{host}:{port}/"), None).await;
        assert_eq!(told.map(|answer| answer.status), Err(Silence::NotAdmitted), "{host}");
    }
    assert_eq!(in_a_cluster.connect("localhost", port).await, Err(Silence::NotAdmitted));
    assert_eq!(in_a_cluster.connect("127.0.0.1", port).await, Err(Silence::NotAdmitted));
    assert!(on_a_laptop.visit(&format!("http://localhost:{port}/"), None).await.is_ok());
    assert_eq!(on_a_laptop.connect("localhost", port).await, Ok(()));
}

/// A CA, and what it signs.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![purpose];
        (params.signed_by(&key, &self.issuer).expect("signed").pem(), key.serialize_pem())
    }
}

#[test]
fn a_certificate_is_known_to_those_who_trust_its_authority() {
    let [one, other] = [Authority::new(), Authority::new()];
    let (certificate, _) = one.sign("kv", ExtendedKeyUsagePurpose::ServerAuth);
    let both = format!("{}\n{}", other.pem, one.pem);
    let table = [
        (one.pem.as_str(), true),
        (&other.pem, false),
        (&both, true),
        // It is told of elsewhere.
        ("no certificate", true),
    ];
    for (authority, expected) in table {
        assert_eq!(may_know(authority, &certificate), expected, "{authority}");
    }
}

#[tokio::test]
async fn a_server_is_shown_the_certificate_and_called_by_the_name_that_the_manifest_gives() {
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    let authority = Authority::new();
    let (certificate, key) = authority.sign("etcd.internal", ExtendedKeyUsagePurpose::ServerAuth);
    let identity = authority.sign("operator", ExtendedKeyUsagePurpose::ClientAuth);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(&authority.pem)).expect("a CA");
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("CAs");
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let server = server
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![der(&certificate)], key)
        .expect("they fit");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let there = serve(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = match acceptor.accept(stream).into_fallible().await {
                Ok(stream) => stream,
                // What is left unread when a connection closes resets it, and the reason may be lost on the way.
                Err((_, mut stream)) => {
                    let _ = stream.shutdown().await;
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    return;
                }
            };
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    })
    .await;
    let url = format!("https://{there}/health");
    let whole = Certificates {
        authority: authority.pem.clone(),
        identity: Some(identity),
        server_name: Some("etcd.internal".to_owned()),
    };
    let outside = Outside::new(true);
    assert_eq!(outside.visit(&url, Some(&whole)).await.map(|answer| answer.status), Ok(StatusCode::OK));
    let nameless = Certificates { server_name: None, ..whole.clone() };
    let unknown = Certificates { identity: None, ..whole.clone() };
    let stranger = Certificates { authority: Authority::new().pem, ..whole };
    for (lacks, certificates) in [("name", nameless), ("identity", unknown), ("authority", stranger)] {
        let told = outside.visit(&url, Some(&certificates)).await;
        assert!(matches!(told, Err(Silence::Certificate(_))), "without the {lacks}: {told:?}");
    }
}
