//! Root, intermediate and leaf, as clients of content signatures want them.
//!
//! Every issuer is a CA with the usages certSign and cRLSign; the leaf has exactly one extended usage, codeSigning, and its
//! name as common name and as alternative name. The intermediate may issue for that name alone. Its key is made for one leaf
//! and kept by nobody, so that a new chain takes the key of the root and nothing else.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P384_SHA384, PublicKeyData, SigningKey, date_time_ymd,
};

use super::write_new;

const DAY: u64 = 24 * 3600;
/// How long a root is valid: clients are built with it.
const ROOT_DAYS: u64 = 20 * 365;
/// Clocks of clients may be behind.
const CLOCK_SKEW: u64 = DAY;
const ROOT_NAME: &str = "Root of content signatures";
const INTERMEDIATE_NAME: &str = "Issuer of content signatures";

/// The root of one's own trust.
#[derive(Debug)]
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
    pem: String,
}

/// A certificate's contents, valid from a day before `now` on.
fn params(name: &str, now: u64, days: u64) -> CertificateParams {
    let time = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let mut params = CertificateParams::default();
    params.not_before = time(now.saturating_sub(CLOCK_SKEW));
    params.not_after = time(now + days * DAY);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

fn issuer(name: &str, now: u64, days: u64, below: BasicConstraints) -> CertificateParams {
    let mut params = params(name, now, days);
    params.is_ca = IsCa::Ca(below);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(name: &str, now: u64, days: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(name, now, days);
    params.subject_alt_names = CertificateParams::new([name.to_owned()])?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    Ok(params)
}

impl Root {
    /// The root of a directory, which is made where there is none.
    ///
    /// # Errors
    /// The files cannot be read or written, or one of the two is missing.
    pub fn open(directory: &Path, now: u64) -> Result<Self, Box<dyn Error>> {
        let (key_path, path) = (directory.join("root.key.pem"), directory.join("root.pem"));
        let params = issuer(ROOT_NAME, now, ROOT_DAYS, BasicConstraints::Unconstrained);
        if !key_path.exists() && !path.exists() {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
            let certificate = params.self_signed(&key)?;
            write_new(&key_path, &key.serialize_pem(), true)?;
            write_new(&path, &text(&certificate), false)?;
        }
        let key = KeyPair::from_pem(&std::fs::read_to_string(key_path)?)?;
        let pem = std::fs::read_to_string(path)?;
        Ok(Self {
            der: super::key::body(&pem)?,
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// Its certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

/// The chain of a key: its certificate, that of the intermediate, and the root's, as PEM.
///
/// # Errors
/// The name is none that a certificate can have.
pub fn chain(
    root: &Root,
    name: &str,
    key: &impl PublicKeyData,
    now: u64,
    days: u64,
) -> Result<String, rcgen::Error> {
    let below = BasicConstraints::Constrained(0);
    let mut intermediate = issuer(INTERMEDIATE_NAME, now, days, below);
    intermediate.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(name.to_owned())],
        excluded_subtrees: vec![],
    });
    let intermediate_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    let intermediate_certificate = intermediate.signed_by(&intermediate_key, &root.issuer)?;
    let issuer = Issuer::new(intermediate, intermediate_key);
    let leaf = leaf(name, now, days)?.signed_by(key, &issuer)?;
    Ok([&text(&leaf), &text(&intermediate_certificate), &*root.pem].concat())
}

/// A request for a certificate of that name, signed by the key, as PEM.
///
/// # Errors
/// The key does not sign.
pub fn request(name: &str, key: &impl SigningKey) -> Result<String, rcgen::Error> {
    let mut params = leaf(name, 0, 0)?;
    params.use_authority_key_identifier_extension = false;
    Ok(params.serialize_request(key)?.pem()?.replace('\r', ""))
}

/// The fingerprint by which clients know a root: its SHA-256 in hexadecimal with colons.
pub fn fingerprint(der: &[u8]) -> String {
    let bytes = digest(&SHA256, der);
    let bytes: Vec<_> = bytes.as_ref().iter().map(|b| format!("{b:02X}")).collect();
    bytes.join(":")
}

fn text(certificate: &Certificate) -> String {
    certificate.pem().replace('\r', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::key::PublicKey;

    const NOW: u64 = 1_795_000_000;

    #[test]
    fn a_root_is_made_once_and_its_key_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let first = Root::open(directory.path(), NOW).unwrap();
        let again = Root::open(directory.path(), NOW + DAY).unwrap();
        assert_eq!(first.der(), again.der());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let key = directory.path().join("root.key.pem");
            assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::remove_file(directory.path().join("root.key.pem")).unwrap();
        assert!(Root::open(directory.path(), NOW).is_err());
    }

    #[test]
    fn a_chain_has_the_certificate_of_the_key_first_and_the_root_last() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path(), NOW).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let public = PublicKey::from_pem(&key.public_key_pem()).unwrap();
        let pem = chain(&root, "a.example.org", &public, NOW, 90).unwrap();
        let certificates: Vec<_> = pem.split_inclusive("-----END CERTIFICATE-----\n").collect();
        assert_eq!(certificates.len(), 3);
        assert_eq!(certificates[2], root.pem);
        let der = super::super::key::body(certificates[0]).unwrap();
        let contains = |part: &[u8]| der.windows(part.len()).any(|window| window == part);
        assert!(contains(public.der_bytes()) && contains(b"a.example.org"));
    }

    #[test]
    fn keys_of_other_curves_are_refused() {
        let key = KeyPair::generate().unwrap();
        assert!(PublicKey::from_pem(&key.public_key_pem()).is_err());
    }
}
