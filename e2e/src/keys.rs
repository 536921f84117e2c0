//! The certificates of a control plane: an authority, the server's certificate, an administrator's, one of an administrator whose
//! writes are written down, and the key that signs service accounts.

use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// The one whose writes the API server writes down.
pub const AUDITED: &str = "audited";

/// Writes all of them into `folder`.
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
    let (admin, audited) = (administrator("admin")?, administrator(AUDITED)?);
    for (name, params) in [("server", server), ("admin", admin), (AUDITED, audited)] {
        let key = KeyPair::generate()?;
        file(&format!("{name}.crt"), params.signed_by(&key, &authority)?.pem())?;
        file(&format!("{name}.key"), key.serialize_pem())?;
    }
    Ok(())
}

fn administrator(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    Ok(params)
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "plane");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?).context("make an authority")
}
