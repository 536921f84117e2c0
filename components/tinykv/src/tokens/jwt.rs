//! JSON Web Tokens: header, claims and signature, each in base64.

use crate::mvcc::Caller;
use aistack_api::tinykv::{JwtConfig, SigningMethod};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Why tokens cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// A key's file cannot be read.
    #[error("auth.jwt: cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A key's file is no PEM.
    #[error("auth.jwt: {path}: {source}", path = path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// A key does not fit the signing method.
    #[error("auth.jwt: {path} holds no key for {method:?}: {reason}", path = path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The method.
        method: SigningMethod,
        /// What is wrong with it.
        reason: String,
    },
    /// The two keys are not of one pair.
    #[error("auth.jwt: {public} is not the public key of {private}", public = public.display(), private = private.display())]
    Mismatch {
        /// The public key's file.
        public: PathBuf,
        /// The private key's file.
        private: PathBuf,
    },
    /// Nothing to read tokens with.
    #[error("auth.jwt: {method:?} needs {missing}")]
    Missing {
        /// The method.
        method: SigningMethod,
        /// Which setting is missing.
        missing: &'static str,
    },
}

/// Signs tokens, and reads them.
pub struct Jwt {
    method: SigningMethod,
    ttl: Duration,
    sign: Option<Signer>,
    verify: Verifier,
}

enum Signer {
    Hmac(hmac::Key),
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

enum Verifier {
    Hmac(hmac::Key),
    Key(UnparsedPublicKey<Vec<u8>>),
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: SigningMethod,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    #[serde(default)]
    exp: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
}

impl Jwt {
    /// Reads the keys.
    pub fn open(config: &JwtConfig) -> Result<Self, TokensError> {
        let (method, ttl) = (config.sign_method, config.ttl());
        let (private, public) = (config.private_key_file.as_deref(), config.public_key_file.as_deref());
        if let Some(algorithm) = hmac_of(method) {
            let path = private.ok_or(TokensError::Missing { method, missing: "private_key_file" })?;
            let secret =
                std::fs::read(path).map_err(|source| TokensError::Read { path: path.to_owned(), source })?;
            let key = hmac::Key::new(algorithm, &secret);
            return Ok(Self {
                method,
                ttl,
                sign: Some(Signer::Hmac(key.clone())),
                verify: Verifier::Hmac(key),
            });
        }
        let sign = private.map(|path| signer(method, path)).transpose()?;
        let shown = public.map(|path| public_key(method, path)).transpose()?;
        let own = sign.as_ref().and_then(Signer::public);
        let key = match (own, shown) {
            (Some(own), Some(shown)) if own != shown => {
                let of = |path: Option<&Path>| path.map(Path::to_owned).unwrap_or_default();
                return Err(TokensError::Mismatch { public: of(public), private: of(private) });
            }
            (Some(key), _) | (None, Some(key)) => key,
            (None, None) => {
                return Err(TokensError::Missing { method, missing: "public_key_file or private_key_file" });
            }
        };
        Ok(Self {
            method,
            ttl,
            sign,
            verify: Verifier::Key(UnparsedPublicKey::new(verification(method), key)),
        })
    }

    /// A token; `None` where this member can only read them.
    pub fn sign(&self, name: &str, revision: u64) -> Option<String> {
        let signer = self.sign.as_ref()?;
        let exp = now() + self.ttl.as_secs();
        let claims = Claims { username: name.to_owned(), revision, exp: Some(exp), nbf: None };
        let header = Header { alg: self.method, typ: Some("JWT".to_owned()) };
        let part = |json: Result<Vec<u8>, _>| json.ok().map(|json| BASE64.encode(json));
        let head = format!("{}.{}", part(serde_json::to_vec(&header))?, part(serde_json::to_vec(&claims))?);
        let signature = signer.sign(head.as_bytes())?;
        Some(format!("{head}.{}", BASE64.encode(signature)))
    }

    /// Whom a token proves its bearer to be.
    pub fn proof(&self, token: &str) -> Option<Caller> {
        let (head, signature) = token.rsplit_once('.')?;
        let (header, claims) = head.split_once('.')?;
        let header: Header = serde_json::from_slice(&BASE64.decode(header).ok()?).ok()?;
        if header.alg != self.method {
            return None;
        }
        let signature = BASE64.decode(signature).ok()?;
        match &self.verify {
            Verifier::Hmac(key) => hmac::verify(key, head.as_bytes(), &signature).ok()?,
            Verifier::Key(key) => key.verify(head.as_bytes(), &signature).ok()?,
        }
        let claims: Claims = serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()?;
        let now = now();
        let lives = claims.exp.is_none_or(|end| now < end) && claims.nbf.is_none_or(|start| start <= now);
        lives.then_some(Caller { name: claims.username, revision: claims.revision })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Signer {
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        Some(match self {
            Self::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).ok()?;
                signature
            }
            Self::Ec(pair) => pair.sign(&random, message).ok()?.as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }

    /// The other half of the pair, as verification takes it.
    fn public(&self) -> Option<Vec<u8>> {
        match self {
            Self::Hmac(_) => None,
            Self::Rsa(pair, _) => Some(pair.public_key().as_ref().to_vec()),
            Self::Ec(pair) => Some(pair.public_key().as_ref().to_vec()),
            Self::Ed(pair) => Some(pair.public_key().as_ref().to_vec()),
        }
    }
}

/// Object identifiers, in DER: a key of an elliptic curve, and the curves (RFC 5480 §2.1.1).
const EC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// A key as openssl writes it by `ecparam -genkey` (SEC 1, RFC 5915), in the envelope of PKCS#8 (RFC 5208 §5).
fn pkcs8_of(sec1: &[u8], curve: &[u8]) -> Vec<u8> {
    const VERSION_0: &[u8] = &[0x02, 0x01, 0x00];
    const SEQUENCE: u8 = 0x30;
    const OCTETS: u8 = 0x04;
    let der = |tag: u8, content: &[u8]| {
        let mut length = content.len().to_be_bytes().to_vec();
        length.drain(..content.len().leading_zeros() as usize / 8);
        match length[..] {
            [short] if short < 0x80 => [&[tag, short], content].concat(),
            _ => [&[tag, 0x80 | length.len() as u8], &length[..], content].concat(),
        }
    };
    let algorithm = der(SEQUENCE, &[EC_KEY, curve].concat());
    der(SEQUENCE, &[VERSION_0, &algorithm, &der(OCTETS, sec1)].concat())
}

fn signer(method: SigningMethod, path: &Path) -> Result<Signer, TokensError> {
    use SigningMethod as M;
    let key = PrivateKeyDer::from_pem_file(path)
        .map_err(|source| TokensError::Pem { path: path.to_owned(), source })?;
    let wrong = |reason: &dyn std::fmt::Display| TokensError::Key {
        path: path.to_owned(),
        method,
        reason: reason.to_string(),
    };
    let ec = |algorithm, curve| {
        let der = match &key {
            PrivateKeyDer::Pkcs8(der) => der.secret_pkcs8_der().to_vec(),
            PrivateKeyDer::Sec1(der) => pkcs8_of(der.secret_sec1_der(), curve),
            _ => return Err(wrong(&"it is no key of an elliptic curve")),
        };
        EcdsaKeyPair::from_pkcs8(algorithm, &der, &SystemRandom::new())
            .map(Signer::Ec)
            .map_err(|error| wrong(&error))
    };
    let rsa = |encoding: &'static dyn signature::RsaEncoding| {
        let pair = match &key {
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(wrong(&"it is no RSA key")),
        };
        pair.map(|pair| Signer::Rsa(pair, encoding)).map_err(|error| wrong(&error))
    };
    match method {
        M::RS256 => rsa(&signature::RSA_PKCS1_SHA256),
        M::RS384 => rsa(&signature::RSA_PKCS1_SHA384),
        M::RS512 => rsa(&signature::RSA_PKCS1_SHA512),
        M::PS256 => rsa(&signature::RSA_PSS_SHA256),
        M::PS384 => rsa(&signature::RSA_PSS_SHA384),
        M::PS512 => rsa(&signature::RSA_PSS_SHA512),
        M::ES256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, P256),
        M::ES384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, P384),
        M::EdDSA | M::HS256 | M::HS384 | M::HS512 => match &key {
            PrivateKeyDer::Pkcs8(der) => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
                .map(Signer::Ed)
                .map_err(|error| wrong(&error)),
            _ => Err(wrong(&"it is no Ed25519 key")),
        },
    }
}

/// The key inside of its wrapping, which may be a certificate, as verification takes it.
fn public_key(method: SigningMethod, path: &Path) -> Result<Vec<u8>, TokensError> {
    let wrong = |reason: &dyn std::fmt::Display| TokensError::Key {
        path: path.to_owned(),
        method,
        reason: reason.to_string(),
    };
    if let Ok(certificate) = CertificateDer::from_pem_file(path) {
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|error| wrong(&error))?;
        return Ok(parsed.public_key().subject_public_key.data.to_vec());
    }
    let wrapped = SubjectPublicKeyInfoDer::from_pem_file(path)
        .map_err(|source| TokensError::Pem { path: path.to_owned(), source })?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&wrapped).map_err(|error| wrong(&error))?;
    Ok(info.subject_public_key.data.to_vec())
}

fn hmac_of(method: SigningMethod) -> Option<hmac::Algorithm> {
    match method {
        SigningMethod::HS256 => Some(hmac::HMAC_SHA256),
        SigningMethod::HS384 => Some(hmac::HMAC_SHA384),
        SigningMethod::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

fn verification(method: SigningMethod) -> &'static dyn VerificationAlgorithm {
    use SigningMethod as M;
    match method {
        M::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        M::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        M::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        M::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        M::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        M::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        M::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        M::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
        M::EdDSA | M::HS256 | M::HS384 | M::HS512 => &signature::ED25519,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(file: &Path, method: SigningMethod) -> Jwt {
        let config = JwtConfig {
            sign_method: method,
            private_key_file: Some(file.to_owned()),
            ..JwtConfig::default()
        };
        Jwt::open(&config).expect("a key")
    }

    #[test]
    fn a_token_proves_its_user_to_whoever_has_the_key() {
        let dir = tempfile::tempdir().expect("dir");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::write(&one, "a secret").expect("written");
        std::fs::write(&other, "another secret").expect("written");
        let token = with(&one, SigningMethod::HS256).sign("ann", 5).expect("it has a key");
        let proof = |file, method| with(file, method).proof(&token);
        let caller = Caller { name: "ann".into(), revision: 5 };
        assert_eq!(proof(&one, SigningMethod::HS256), Some(caller));
        assert_eq!(proof(&other, SigningMethod::HS256), None);
        assert_eq!(proof(&one, SigningMethod::HS512), None);
        let brief = Jwt { ttl: Duration::ZERO, ..with(&one, SigningMethod::HS256) };
        let run_out = brief.sign("ann", 5).expect("it has a key");
        assert_eq!(brief.proof(&run_out), None);
        let none = JwtConfig { sign_method: SigningMethod::RS256, ..JwtConfig::default() };
        assert!(Jwt::open(&none).is_err_and(|error| error.to_string().contains("public_key_file")));
    }

    #[test]
    fn key_pairs_sign_and_verify() {
        let dir = tempfile::tempdir().expect("dir");
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).expect("drawn");
        let p256 = EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .expect("drawn");
        let p384 = EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, &random)
            .expect("drawn");
        let (p256, p384) = (p256.as_ref(), p384.as_ref());
        // What the envelope of PKCS#8 holds of them is in SEC 1's form.
        let (bare256, bare384) = (&p256[p256.len() - 109..], &p384[p384.len() - 158..]);
        for (method, kind, key) in [
            (SigningMethod::EdDSA, "PRIVATE KEY", ed.as_ref()),
            (SigningMethod::ES256, "PRIVATE KEY", p256),
            (SigningMethod::ES256, "EC PRIVATE KEY", bare256),
            (SigningMethod::ES384, "EC PRIVATE KEY", bare384),
        ] {
            let text = base64::engine::general_purpose::STANDARD.encode(key);
            let pem = format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n");
            let path = dir.path().join(format!("{method:?}"));
            std::fs::write(&path, pem).expect("written");
            let jwt = with(&path, method);
            let token = jwt.sign("ann", 9).expect("it has a key");
            assert_eq!(jwt.proof(&token), Some(Caller { name: "ann".into(), revision: 9 }), "{method:?}");
            let (head, signature) = token.split_at(token.len() - 10);
            assert_eq!(jwt.proof(&format!("{head}{}", signature.chars().rev().collect::<String>())), None);
        }
    }
}
