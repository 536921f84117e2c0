//! What a control plane knows its own by: an authority and the server's certificate, tokens of an administrator and of one whose writes
//! are written down, and the key that signs service accounts.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// The administrator.
pub const ADMIN: &str = "admin";
/// Another, whose writes the API server writes down.
pub const AUDITED: &str = "audited";

/// Writes all of them into `folder`. Tokens, as a pod has one: to check a certificate with each request took the API server a fortieth
/// of its time.
pub fn write(folder: &Path) -> Result<()> {
    let authority = authority()?;
    let file = |name: &str, text: String| {
        std::fs::write(folder.join(name), text).with_context(|| format!("write {name}"))
    };
    file("ca.crt", authority.pem())?;
    file("ca.key", authority.key().serialize_pem())?;
    let accounts = KeyPair::generate()?;
    file("accounts.key", accounts.serialize_pem())?;
    file("accounts.pub", accounts.public_key_pem())?;
    let hosts = ["127.0.0.1", "10.96.0.1", "localhost", "kubernetes.default.svc"].map(str::to_owned);
    let mut server = CertificateParams::new(hosts.to_vec())?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    let key = KeyPair::generate()?;
    file("server.crt", server.signed_by(&key, &authority)?.pem())?;
    file("server.key", key.serialize_pem())?;
    let mut tokens = String::new();
    for user in [ADMIN, AUDITED] {
        let token = hex::encode(rand::random::<[u8; 16]>());
        writeln!(tokens, "{token},{user},{user},system:masters")?;
        file(&format!("{user}.token"), token)?;
    }
    file("tokens.csv", tokens)
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "plane");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("make an authority")
}
