//! TLS to PostgreSQL, as the URL asks for it: `sslmode` and `sslrootcert`, with the meanings that they have for `psql`.
//!
//! Without `sslmode` the connection is encrypted where the server can, and then the server has to show a certificate that
//! the system trusts: `psql` would believe anybody.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_platform_verifier::ConfigVerifierExt;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The URL's `sslmode`.
    #[error("sslmode must be disable, prefer, require, verify-ca or verify-full, not {0}")]
    Mode(String),
    /// The file of certificates.
    #[error("sslrootcert={0}: {1}")]
    File(String, pem::Error),
    /// It has none.
    #[error("sslrootcert={0} must be a file with certificates in PEM")]
    NoCertificate(String),
    /// The rest.
    #[error("TLS: {0}")]
    Tls(#[from] Error),
    /// Of the verifier.
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// How far a server has to show who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// Not at all.
    Nothing,
    /// By a certificate of an authority that is trusted, whoever it is for.
    Authority,
    /// By one for the name that it was asked for by.
    Name,
}

/// The URL without what tokio-postgres does not know, and what to connect with.
///
/// # Errors
/// The URL asks for what there is not.
pub fn of_url(url: &str) -> Result<(String, ClientConfig), TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // Only the first one counts; the platform's verifier takes it.
    let _ = CryptoProvider::install_default((*provider).clone());
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut roots, mut others) = (None, None, vec![]);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        match name {
            "sslmode" => mode = Some(decoded.into_owned()),
            // As psql: the system's own.
            "sslrootcert" if decoded == "system" => roots = None,
            "sslrootcert" => roots = Some(decoded.into_owned()),
            _ => others.push(pair.to_owned()),
        }
    }
    let (known, check) = match mode.as_deref() {
        None => ("prefer", Check::Name),
        Some("disable") => ("disable", Check::Nothing),
        Some("prefer" | "allow") => ("prefer", Check::Nothing),
        Some("require") if roots.is_none() => ("require", Check::Nothing),
        Some("require" | "verify-ca") => ("require", Check::Authority),
        Some("verify-full") => ("require", Check::Name),
        Some(other) => return Err(TlsError::Mode(other.to_owned())),
    };
    others.push(format!("sslmode={known}"));
    let url = format!("{address}?{}", others.join("&"));
    let config = match (check, roots) {
        (Check::Name, None) => ClientConfig::with_platform_verifier()?,
        (Check::Nothing, _) => with(&provider, Arc::new(Lenient(None, provider.clone())))?,
        (check, roots) => {
            let verifier = match &roots {
                Some(file) => WebPkiServerVerifier::builder_with_provider(
                    Arc::new(certificates(file)?),
                    provider.clone(),
                )
                .build()? as Arc<dyn ServerCertVerifier>,
                None => Arc::new(rustls_platform_verifier::Verifier::new(provider.clone())?),
            };
            match check {
                Check::Name => with(&provider, verifier)?,
                _ => {
                    let lenient = Lenient(Some(verifier), provider.clone());
                    with(&provider, Arc::new(lenient))?
                }
            }
        }
    };
    Ok((url, config))
}

fn with(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(provider.clone());
    let config = config.with_safe_default_protocol_versions()?;
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(config.with_no_client_auth())
}

fn certificates(file: &str) -> Result<RootCertStore, TlsError> {
    let failed = |error| TlsError::File(file.to_owned(), error);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(failed)? {
        roots.add(certificate.map_err(failed)?)?;
    }
    match roots.is_empty() {
        true => Err(TlsError::NoCertificate(file.to_owned())),
        false => Ok(roots),
    }
}

/// Takes a server for who it says, if its certificate is of an authority of the verifier, or with none always.
#[derive(Debug)]
struct Lenient(Option<Arc<dyn ServerCertVerifier>>, Arc<CryptoProvider>);

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(verifier) = &self.0 else {
            return Ok(ServerCertVerified::assertion());
        };
        match verifier.verify_server_cert(certificate, others, name, ocsp, now) {
            // Names are looked at last, when all else was right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.1.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.1.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_gets_the_modes_that_it_knows() {
        let url = |of: &str| of_url(of).unwrap().0;
        assert_eq!(url("postgres://h/d"), "postgres://h/d?sslmode=prefer");
        assert_eq!(
            url("postgres://h/d?sslmode=verify-full&connect_timeout=3"),
            "postgres://h/d?connect_timeout=3&sslmode=require"
        );
        assert_eq!(
            url("postgres://h/d?sslrootcert=system&sslmode=disable"),
            "postgres://h/d?sslmode=disable"
        );
    }

    #[test]
    fn what_the_url_asks_for_has_to_be_there() {
        for wrong in ["sslmode=yes", "sslmode=verify-ca&sslrootcert=/nowhere.pem"] {
            assert!(
                of_url(&format!("postgres://h/d?{wrong}")).is_err(),
                "{wrong}"
            );
        }
    }
}
