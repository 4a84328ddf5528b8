//! Certificates of a development cluster: one authority and one certificate per node, made on this machine.
//!
//! Owns: when they are made. Does not: sign; see `cert::authority`, which `quorate cert` uses too.
//! Invariants: either every file exists or all are made anew, so that no node holds one of an old authority.
//! Limits: none expires, since a development directory has nobody to renew them.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::cert::authority::{AUTHORITY, Authority, Subject, Validity, files};

/// Makes `ca.pem`, `ca.key`, and `NAME.pem`, `NAME.key` for each name, in `dir`, unless all exist already.
///
/// A node certificate is valid for its name and for the loopback addresses, as server and as client.
pub fn ensure(dir: &Path, names: &[String]) -> anyhow::Result<()> {
    let stems = || std::iter::once(AUTHORITY).chain(names.iter().map(String::as_str));
    let all = || stems().map(|stem| files(dir, stem)).flat_map(|(certificate, key)| [certificate, key]);
    if all().all(|file| file.exists()) {
        return Ok(());
    }
    for file in all().filter(|file| file.exists()) {
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    }
    let (authority, issued) = Authority::generate("Quorate development CA", Validity::Unlimited)?;
    issued.write(dir, AUTHORITY)?;
    let addresses = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    for name in names {
        let subject = Subject::Node { name, addresses: &addresses };
        authority.issue(&subject, Validity::Unlimited)?.write(dir, name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn certificates_are_kept_as_a_whole_and_keys_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["n1".to_owned(), "n2".to_owned()];
        ensure(dir.path(), &names).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        let (ca, n2) = (read("ca.pem"), read("n2.pem"));
        assert!(ca.starts_with("-----BEGIN CERTIFICATE-----"));
        for key in ["ca.key", "n1.key", "n2.key"] {
            assert!(read(key).contains("PRIVATE KEY"));
            let mode = fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        ensure(dir.path(), &names).unwrap();
        assert_eq!((read("ca.pem"), read("n2.pem")), (ca.clone(), n2), "an existing set is kept");
        fs::remove_file(dir.path().join("n2.key")).unwrap();
        ensure(dir.path(), &names).unwrap();
        assert_ne!(read("ca.pem"), ca, "an incomplete set is made anew as a whole");
    }
}
