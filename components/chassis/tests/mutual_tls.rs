//! TLS between processes that check one another: who is let in, what others are told, and new certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aistack_chassis::tls::{Allowed, MutualFiles, MutualTls, Pair, self_signed};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsStream;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a CA").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a certificate with this common name, for `host`, into `dir`, and the CA beside it.
    fn issue(&self, dir: &Path, name: &str, host: &str) -> MutualFiles {
        std::fs::create_dir_all(dir).expect("created");
        let file = |name: &str, text: &str| -> PathBuf {
            std::fs::write(dir.join(name), text).expect("written");
            dir.join(name)
        };
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial(name));
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        MutualFiles {
            own: Pair {
                cert_file: file("cert.pem", &cert.pem()),
                key_file: file("key.pem", &key.serialize_pem()),
            },
            own_as_client: None,
            ca_file: file("ca.pem", &self.pem),
            crl_file: None,
            allowed: Allowed::Any,
            versions: (None, None),
        }
    }
}

/// The number of the certificate with this common name.
fn serial(name: &str) -> SerialNumber {
    SerialNumber::from_slice(name.as_bytes())
}

impl Authority {
    /// The list that revokes the certificates with these common names. It ran out long ago.
    fn revokes(&self, names: &[&str]) -> rcgen::CertificateRevocationList {
        let revoked = names.iter().map(|name| RevokedCertParams {
            serial_number: serial(name),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2021, 1, 8),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list")
    }
}

type Opened = Result<TlsStream<TcpStream>, String>;

/// One connects to the other: what each of them gets.
async fn meet(connects: &MutualTls, accepts: &MutualTls) -> (Opened, Opened) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let opens = async {
        let stream = TcpStream::connect(&address).await.expect("connected");
        connects.connect(stream, &address).await.map_err(|error| error.to_string())
    };
    let accepted = async {
        let (stream, _) = listener.accept().await.expect("accepted");
        accepts.accept(stream).await.map_err(|error| error.to_string())
    };
    tokio::join!(opens, accepted)
}

async fn echo(from: &mut TlsStream<TcpStream>, to: &mut TlsStream<TcpStream>, byte: u8) {
    from.write_u8(byte).await.expect("written");
    from.flush().await.expect("written");
    assert_eq!(to.read_u8().await.expect("read"), byte);
}

fn verified(files: MutualFiles) -> MutualTls {
    MutualTls::verified(files).expect("certificates that can be used")
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    const ANYTHING: &str = "";
    let dir = tempfile::tempdir().expect("dir");
    let at = |name: &str| dir.path().join(name);
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let a = verified(ours.issue(&at("a"), "a", "127.0.0.1"));
    let b = verified(ours.issue(&at("b"), "b", "127.0.0.1"));
    let stranger = verified(theirs.issue(&at("stranger"), "stranger", "127.0.0.1"));
    let elsewhere = verified(ours.issue(&at("elsewhere"), "elsewhere", "10.0.0.1"));
    let only =
        |dir: &str, allowed| verified(MutualFiles { allowed, ..ours.issue(&at(dir), "x", "127.0.0.1") });
    let only_a = only("only-a", Allowed::CommonNames(vec!["a".to_owned()]));
    let only_host = only("only-host", Allowed::Hosts(vec!["10.0.0.1".to_owned()]));

    let (mut one, mut other) = match meet(&a, &b).await {
        (Ok(one), Ok(other)) => (one, other),
        refused => panic!("{refused:?}"),
    };
    echo(&mut one, &mut other, 7).await;
    echo(&mut other, &mut one, 8).await;
    let ca_of = |name: &str| format!("must chain to a CA in {}", at(name).join("ca.pem").display());
    // Who connects, who accepts, and what each of them says. The latter may or may not see the former hang up.
    let table: &[(&MutualTls, &MutualTls, Option<&str>, Option<&str>)] = &[
        (&a, &stranger, Some(&ca_of("a")), Some("does not take the certificate")),
        (&stranger, &a, Some(&ca_of("stranger")), Some("does not take the certificate")),
        (&a, &elsewhere, Some("among its subject alternative names"), Some("TLS with 127.0.0.1")),
        // Whoever connects may come from anywhere.
        (&elsewhere, &a, None, None),
        (&a, &only_a, None, None),
        (&only_a, &b, Some("\"b\" is none of [\"a\"]"), Some(ANYTHING)),
        (&b, &only_a, Some("TLS with"), Some("\"b\" is none of [\"a\"]")),
        (&elsewhere, &only_host, None, None),
        (&a, &only_host, Some("TLS with"), Some("valid for none of [\"10.0.0.1\"]")),
    ];
    for (row, (connects, accepts, told, refuses)) in table.iter().enumerate() {
        let (connected, accepted) = meet(connects, accepts).await;
        for (side, outcome, part) in [("connects", connected, told), ("accepts", accepted, refuses)] {
            match (outcome, part) {
                (Ok(_), None) => {}
                (_, Some(part)) if *part == ANYTHING => {}
                (Err(error), Some(part)) if error.contains(part) => {}
                (outcome, part) => panic!("row {row}, who {side}: {outcome:?}, expected {part:?}"),
            }
        }
    }
}

#[tokio::test]
async fn new_files_count_for_new_connections_and_half_of_them_for_none() {
    let dir = tempfile::tempdir().expect("dir");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let [first, second] = ["a", "b"].map(|name| dir.path().join(name));
    let a = verified(old.issue(&first, "a", "127.0.0.1"));
    let b = verified(old.issue(&second, "b", "127.0.0.1"));
    let (Ok(mut one), Ok(mut other)) = meet(&a, &b).await else { panic!("they know one another") };

    // A certificate whose key is not there yet: what was there before stays in use.
    let elsewhere = dir.path().join("elsewhere");
    let issued = new.issue(&elsewhere, "a", "127.0.0.1");
    std::fs::copy(&issued.own.cert_file, first.join("cert.pem")).expect("copied");
    assert!(meet(&a, &b).await.0.is_ok(), "the old pair");
    // Whole, but of a CA that the other does not know.
    std::fs::copy(&issued.own.key_file, first.join("key.pem")).expect("copied");
    let (told, refused) = meet(&a, &b).await;
    let (told, refused) = (told.expect_err("another CA's"), refused.expect_err("another CA's"));
    assert!(told.contains("does not take the certificate"), "{told}");
    assert!(refused.contains(&second.join("ca.pem").display().to_string()), "{refused}");
    // Until it learns of it.
    std::fs::write(second.join("ca.pem"), format!("{}{}", old.pem, new.pem)).expect("written");
    assert!(matches!(meet(&a, &b).await, (Ok(_), Ok(_))));
    // The connection from before all this still stands.
    echo(&mut one, &mut other, 1).await;
    echo(&mut other, &mut one, 2).await;
}

#[tokio::test]
async fn whom_the_ca_revokes_is_let_in_no_more_on_either_side() {
    let dir = tempfile::tempdir().expect("dir");
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let list = dir.path().join("revoked.pem");
    std::fs::write(&list, ours.revokes(&["nobody"]).pem().expect("PEM")).expect("written");
    let checking =
        MutualFiles { crl_file: Some(list.clone()), ..ours.issue(&dir.path().join("a"), "a", "127.0.0.1") };
    let a = verified(checking.clone());
    let b = verified(ours.issue(&dir.path().join("b"), "b", "127.0.0.1"));
    let c = verified(ours.issue(&dir.path().join("c"), "c", "127.0.0.1"));
    let works = async |connects: &MutualTls, accepts: &MutualTls| {
        matches!(meet(connects, accepts).await, (Ok(_), Ok(_)))
    };
    assert!(works(&a, &b).await && works(&b, &a).await);

    // A new list counts for new connections, in DER as in PEM.
    let lists =
        [ours.revokes(&["b", "x"]).pem().expect("PEM").into_bytes(), ours.revokes(&["b"]).der().to_vec()];
    for bytes in lists {
        std::fs::write(&list, bytes).expect("written");
        let refused = meet(&a, &b).await.0.expect_err("revoked");
        assert!(refused.contains("has revoked its certificate"), "{refused}");
        let (told, refused) = meet(&b, &a).await;
        let (told, refused) = (told.expect_err("revoked"), refused.expect_err("revoked"));
        assert!(told.contains("does not take the certificate"), "{told}");
        assert!(refused.contains("has revoked its certificate"), "{refused}");
        assert!(works(&a, &c).await && works(&c, &a).await);
    }
    // Another CA's list says nothing about ours; what is no list changes nothing, and is refused at the start.
    std::fs::write(&list, theirs.revokes(&["b"]).der()).expect("written");
    assert!(works(&a, &b).await);
    std::fs::write(&list, "no list").expect("written");
    assert!(works(&a, &b).await);
    assert!(MutualTls::verified(checking).is_err());
}

#[tokio::test]
async fn self_signed_pairs_are_kept_and_encrypt_without_proof() {
    let dir = tempfile::tempdir().expect("dir");
    let hosts = ["localhost".to_owned()];
    let made = self_signed(dir.path(), &hosts).expect("made");
    let key = std::fs::read(&made.key_file).expect("a key");
    assert_eq!(self_signed(dir.path(), &hosts).expect("kept"), made);
    assert_eq!(std::fs::read(&made.key_file).expect("a key"), key, "made once");
    let other = self_signed(&dir.path().join("other"), &hosts).expect("made");
    let a = MutualTls::unverified(made, (None, None)).expect("usable");
    let b = MutualTls::unverified(other, (None, None)).expect("usable");
    let (Ok(mut one), Ok(mut other)) = meet(&a, &b).await else { panic!("nobody is checked") };
    echo(&mut one, &mut other, 3).await;
    // Those that check do not take such a certificate, and show theirs to nobody who does not ask.
    let checks = verified(Authority::new("ours").issue(&dir.path().join("c"), "c", "127.0.0.1"));
    assert!(meet(&checks, &a).await.0.is_err());
    assert!(meet(&a, &checks).await.1.is_err());
}

#[tokio::test]
async fn those_who_speak_no_common_version_do_not_meet() {
    use aistack_api::server::TlsVersion::{V1_2, V1_3};
    let dir = tempfile::tempdir().expect("dir");
    let authority = Authority::new("ours");
    let of = |name: &str, versions| {
        let files = authority.issue(&dir.path().join(name), name, "127.0.0.1");
        verified(MutualFiles { versions, ..files })
    };
    let (any, old, new) =
        (of("any", (None, None)), of("old", (None, Some(V1_2))), of("new", (Some(V1_3), None)));
    for (connects, accepts, expected) in
        [(&any, &old, true), (&old, &any, true), (&any, &new, true), (&old, &new, false), (&new, &old, false)]
    {
        assert_eq!(meet(connects, accepts).await.1.is_ok(), expected);
    }
}

#[tokio::test]
async fn who_does_not_encrypt_is_told_apart() {
    let dir = tempfile::tempdir().expect("dir");
    let made = self_signed(dir.path(), &["localhost".to_owned()]).expect("made");
    let tls = MutualTls::unverified(made, (None, None));
    let tls = Arc::new(tls.expect("usable"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut clear = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
    clear.write_all(b"hello").await.expect("written");
    let (stream, _) = listener.accept().await.expect("accepted");
    let error = tls.accept(stream).await.expect_err("not encrypted").to_string();
    assert!(error.contains("it does not encrypt"), "{error}");
}
