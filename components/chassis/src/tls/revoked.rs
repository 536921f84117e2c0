//! Lists of revoked certificates.

use std::path::Path;

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;

use super::TlsError;

/// The lists in a file, of either form; none without a file. A list that ran out still counts: what it revokes stays
/// revoked, and a list that nobody renewed locks nobody else out.
pub(super) fn revoked(path: Option<&Path>) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let bytes = std::fs::read(path).map_err(|source| TlsError::Revoked { path: path.to_owned(), source })?;
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { path: path.to_owned(), source })?;
    // DER, as openssl writes it on request; what is neither is refused where it is used.
    Ok(if lists.is_empty() { vec![CertificateRevocationListDer::from(bytes)] } else { lists })
}
