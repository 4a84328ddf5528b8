//! Who a client is by its certificate.
//!
//! Owns: what is read from a verified certificate, and how much of it. Does not: verify; rustls has done that.
//! Invariants: a certificate that is not understood whole gives no identity, never a part of one; no name has control
//! characters.
//! Limits: `CERTIFICATE_NAMES_MAX`, `CERTIFICATE_NAME_BYTES_MAX`.

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::limits::{CERTIFICATE_NAME_BYTES_MAX, CERTIFICATE_NAMES_MAX};

/// The names in a client's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateIdentity {
    /// Common name of the subject.
    pub common_name: Option<Box<str>>,
    /// Subject alternative names.
    pub names: Vec<SubjectName>,
}

/// A subject alternative name. Other kinds than these are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// Of a host.
    Dns(Box<str>),
    /// An address.
    Address(IpAddr),
    /// Of a mailbox.
    Email(Box<str>),
    /// Of a service or device.
    Uri(Box<str>),
}

/// Why a verified certificate gives no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not understood.
    #[error("the certificate is not understood")]
    Malformed,
    /// Which of them it would be is a guess.
    #[error("the certificate has more than one common name")]
    CommonNames,
    /// Above a limit.
    #[error("the certificate has more than {CERTIFICATE_NAMES_MAX} names")]
    TooMany,
    /// A name is too long or has characters that no name has.
    #[error("a name in the certificate is empty, too long or has control characters")]
    Name,
}

impl CertificateIdentity {
    /// Reads the names of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<CertificateIdentity, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| IdentityError::Malformed)?;
        let mut common_names = certificate.subject().iter_common_name();
        let common_name = match (common_names.next(), common_names.next()) {
            (None, _) => None,
            (Some(name), None) => Some(checked(name.as_str().map_err(|_| IdentityError::Name)?)?),
            (Some(_), Some(_)) => return Err(IdentityError::CommonNames),
        };
        let alternative = certificate.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
        let listed =
            alternative.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        if listed.len() > CERTIFICATE_NAMES_MAX {
            return Err(IdentityError::TooMany);
        }
        let mut names = Vec::new();
        for name in listed {
            names.extend(subject_name(name)?);
        }
        Ok(CertificateIdentity { common_name, names })
    }

    /// An identity of a common name alone, as a proxy tells it.
    pub fn of_common_name(name: &[u8]) -> Result<CertificateIdentity, IdentityError> {
        let name = std::str::from_utf8(name).map_err(|_| IdentityError::Name)?;
        Ok(CertificateIdentity { common_name: Some(checked(name)?), names: Vec::new() })
    }
}

impl fmt::Display for CertificateIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CN={}", self.common_name.as_deref().unwrap_or_default())?;
        for name in &self.names {
            match name {
                SubjectName::Dns(name) => write!(f, ",DNS:{name}"),
                SubjectName::Address(address) => write!(f, ",IP:{address}"),
                SubjectName::Email(name) => write!(f, ",email:{name}"),
                SubjectName::Uri(name) => write!(f, ",URI:{name}"),
            }?;
        }
        Ok(())
    }
}

fn subject_name(name: &GeneralName<'_>) -> Result<Option<SubjectName>, IdentityError> {
    Ok(match name {
        GeneralName::DNSName(name) => Some(SubjectName::Dns(checked(name)?)),
        GeneralName::RFC822Name(name) => Some(SubjectName::Email(checked(name)?)),
        GeneralName::URI(name) => Some(SubjectName::Uri(checked(name)?)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            Some(SubjectName::Address(address.map_err(|_| IdentityError::Malformed)?))
        }
        _ => None,
    })
}

fn checked(name: &str) -> Result<Box<str>, IdentityError> {
    if name.is_empty() || name.len() > CERTIFICATE_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(IdentityError::Name);
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn read(common_names: &[&str], names: Vec<SanType>) -> Result<CertificateIdentity, IdentityError> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (place, name) in common_names.iter().enumerate() {
            // The library keeps one name of a type: another type with the same meaning has to do.
            match place {
                0 => params.distinguished_name.push(DnType::CommonName, *name),
                _ => params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), *name),
            }
        }
        params.subject_alt_names = names;
        CertificateIdentity::of(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    #[test]
    fn names_of_a_certificate_are_read() {
        let identity = read(
            &["pump-7"],
            vec![
                dns("pump-7.example.net"),
                SanType::IpAddress("192.0.2.7".parse().unwrap()),
                SanType::IpAddress("2001:db8::7".parse().unwrap()),
                SanType::URI("urn:pump:7".try_into().unwrap()),
                SanType::Rfc822Name("pump@example.net".try_into().unwrap()),
            ],
        );
        assert_eq!(
            identity.unwrap().to_string(),
            "CN=pump-7,DNS:pump-7.example.net,IP:192.0.2.7,IP:2001:db8::7,URI:urn:pump:7,email:pump@example.net"
        );
        assert_eq!(read(&[], Vec::new()), Ok(CertificateIdentity::default()));
    }

    #[test]
    fn certificates_beyond_the_limits_give_no_identity() {
        let long = "x".repeat(CERTIFICATE_NAME_BYTES_MAX + 1);
        let many = |count: usize| (0..count).map(|number| dns(&format!("n{number}"))).collect::<Vec<_>>();
        for (common_names, names, error) in [
            (vec!["a", "b"], Vec::new(), IdentityError::CommonNames),
            (vec![long.as_str()], Vec::new(), IdentityError::Name),
            (vec![""], Vec::new(), IdentityError::Name),
            (vec!["a\nb"], Vec::new(), IdentityError::Name),
            (vec!["a"], vec![dns(&long)], IdentityError::Name),
            (vec!["a"], many(CERTIFICATE_NAMES_MAX + 1), IdentityError::TooMany),
        ] {
            assert_eq!(read(&common_names, names), Err(error), "{common_names:?}");
        }
        assert_eq!(read(&["a"], many(CERTIFICATE_NAMES_MAX)).unwrap().names.len(), CERTIFICATE_NAMES_MAX);
        let rubbish = CertificateDer::from(vec![0x30, 3, 1, 2]);
        assert_eq!(CertificateIdentity::of(&rubbish), Err(IdentityError::Malformed));
    }

    #[test]
    fn common_name_of_a_proxy_obeys_the_same_limits() {
        assert_eq!(CertificateIdentity::of_common_name(b"pump-7").unwrap().to_string(), "CN=pump-7");
        for name in [&b""[..], b"a\0b", b"\xff", &[b'x'; 256]] {
            assert_eq!(CertificateIdentity::of_common_name(name), Err(IdentityError::Name));
        }
    }
}
