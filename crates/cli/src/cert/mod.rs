//! `quorate cert`: an authority of one's own, and certificates for nodes and clients.
//!
//! Owns: the folder, names and addresses as they are typed, what is printed. Does not: sign; see [`authority`].
//! Invariants: no file is overwritten; what a later command needs is read back and checked.
//! Limits: `CERTIFICATE_DAYS_MAX`, `CERTIFICATE_ADDRESSES_MAX`.

pub mod authority;

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::{Args, Subcommand};

use crate::client::unique;
use crate::exit::{Exit, Failure, Outcome};
use crate::limits::{CERTIFICATE_ADDRESSES_MAX, CERTIFICATE_DAYS_MAX};
use crate::output;
use authority::{AUTHORITY, Authority, Issued, Subject, Validity, files};

/// Flags of `quorate cert`.
#[derive(Args, Debug)]
#[command(after_help = "\
Paths of the files made go to standard output, one a line: certificate, then key. Keys are readable by their owner only \
(mode 0600). Nothing is overwritten.

Exit codes:
  0  done
  1  a file cannot be read or written
  2  a name or address is wrong, a file exists already, or there is no authority")]
pub struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Subcommand, Debug)]
enum CertCommand {
    /// Make an authority: ca.pem, which everybody may have, and ca.key, which nobody may
    Ca {
        /// Its common name [default: Quorate CA with a number of its own]
        #[arg(long)]
        name: Option<String>,
        /// Days until it expires
        #[arg(long, default_value_t = 3650, value_parser = days())]
        days: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Make a certificate for a node, for its links to other nodes and for its listeners
    #[command(after_help = "\
The certificate is valid for NAME and for each --address, as server and as client. NAME is node.name of the \
configuration. Clients check the name or address that they dial: give all of them.")]
    Node {
        /// Name of the node: 1 to 63 of a-z, 0-9 and -
        name: String,
        /// Host name or IP address under which the node is reached. May be repeated
        #[arg(long = "address", value_name = "HOST", default_values = ["localhost", "127.0.0.1", "::1"])]
        addresses: Vec<String>,
        /// Days until it expires
        #[arg(long, default_value_t = 825, value_parser = days())]
        days: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Make a certificate for a client
    Client {
        /// Common name of the client: 1 to 64 of A-Z, a-z, 0-9, - _ and . (also the file name)
        name: String,
        /// Days until it expires
        #[arg(long, default_value_t = 825, value_parser = days())]
        days: u32,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args, Debug)]
struct Place {
    /// Folder of the authority and of what it signs
    #[arg(long, value_name = "DIR", default_value = "./quorate-tls")]
    dir: PathBuf,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(CERTIFICATE_DAYS_MAX))
}

/// Runs the command.
pub fn run(args: CertArgs) -> Outcome {
    match args.command {
        CertCommand::Ca { name, days, place } => {
            // Two authorities of one name are taken for each other, and then a signature seems to be wrong.
            let name = name.unwrap_or_else(|| format!("Quorate CA {:08x}", unique() & 0xffff_ffff));
            check_common_name(&name)?;
            check_free(&place.dir, AUTHORITY)?;
            let (_, issued) = Authority::generate(&name, Validity::Days(days))?;
            report(&issued, &place.dir, AUTHORITY)?;
            eprintln!(
                "Next: quorate cert node NAME --address HOST --dir {dir}, for each node\n      quorate cert client NAME --dir \
                 {dir}, for each client that is to show a certificate\nKeep ca.key where no node and no client can read \
                 it. Use one authority for links between nodes and another for clients:\nwhoever has a certificate of an \
                 authority comes in where that authority counts.",
                dir = place.dir.display()
            );
        }
        CertCommand::Node { name, addresses, days, place } => {
            check_node_name(&name)?;
            check_addresses(&addresses)?;
            let subject = Subject::Node { name: &name, addresses: &addresses };
            let (certificate, key) = issue(&subject, &name, days, &place.dir)?;
            let (authority, _) = files(&place.dir, AUTHORITY);
            eprintln!(
                "Next, in the configuration of {name}, for links between nodes:\n  [peer]\n  ca_file = {ca:?}\n  cert_file = \
                 {cert:?}\n  key_file = {key:?}\nor for clients:\n  [[listener]]\n  kind = \"tls\"\n  bind = \
                 \"0.0.0.0:8883\"\n  cert_file = {cert:?}\n  key_file = {key:?}\nClients trust it by {ca:?}.",
                ca = authority,
                cert = certificate,
                key = key,
            );
        }
        CertCommand::Client { name, days, place } => {
            check_client_name(&name)?;
            let (certificate, key) = issue(&Subject::Client(&name), &name, days, &place.dir)?;
            let (authority, _) = files(&place.dir, AUTHORITY);
            eprintln!(
                "Next, in [[listener]] with TLS on each node:\n  client_certificate = \"required\"\n  client_ca_file = \
                 {ca:?}\nThen: quorate pub --cafile CA-OF-THE-LISTENER --cert {} --key {} -h HOST -p 8883 -t TOPIC -m \
                 MESSAGE",
                certificate.display(),
                key.display(),
                ca = authority,
            );
        }
    }
    Ok(())
}

/// Signs, writes and prints; gives the paths.
fn issue(subject: &Subject<'_>, stem: &str, days: u32, dir: &Path) -> Outcome<(PathBuf, PathBuf)> {
    let (authority, authority_key) = files(dir, AUTHORITY);
    if !authority.exists() || !authority_key.exists() {
        return Err(Failure::usage(format!("{} has no authority", dir.display()))
            .hint(format!("make one with: quorate cert ca --dir {}", dir.display())));
    }
    check_free(dir, stem)?;
    let issued = Authority::load(dir)?.issue(subject, Validity::Days(days))?;
    report(&issued, dir, stem)
}

fn report(issued: &Issued, dir: &Path, stem: &str) -> Outcome<(PathBuf, PathBuf)> {
    let (certificate, key) = issued.write(dir, stem)?;
    output::print(&format!("{}\n{}\n", certificate.display(), key.display()))?;
    Ok((certificate, key))
}

fn check_free(dir: &Path, stem: &str) -> Outcome {
    let (certificate, key) = files(dir, stem);
    match [certificate, key].into_iter().find(|file| file.exists()) {
        Some(file) => Err(Failure::new(Exit::Usage, anyhow!("{} exists already", file.display()))
            .hint("move it away, or choose another --dir or name")),
        None => Ok(()),
    }
}

/// As the configuration has it.
fn check_node_name(name: &str) -> Outcome {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = (1..=63).contains(&name.len()) && name.chars().all(legal);
    if !fits || name.starts_with('-') || name.ends_with('-') || name == AUTHORITY {
        return Err(Failure::usage(format!("{name:?} is no node name"))
            .hint("use 1 to 63 of a-z, 0-9 and -, the first and last not -, and not \"ca\""));
    }
    Ok(())
}

fn check_client_name(name: &str) -> Outcome {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = (1..=64).contains(&name.len()) && name.chars().all(legal);
    if !fits || name.starts_with(['-', '.']) || name == AUTHORITY {
        return Err(Failure::usage(format!("{name:?} cannot be the name of a client here"))
            .hint("use 1 to 64 of A-Z, a-z, 0-9, - _ and ., the first not - or ., and not \"ca\""));
    }
    Ok(())
}

fn check_common_name(name: &str) -> Outcome {
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(Failure::usage(format!("{name:?} is no common name"))
            .hint("use 1 to 64 characters, none of them a control character"));
    }
    Ok(())
}

fn check_addresses(addresses: &[String]) -> Outcome {
    if addresses.len() > CERTIFICATE_ADDRESSES_MAX {
        return Err(Failure::usage(format!(
            "a certificate has at most {CERTIFICATE_ADDRESSES_MAX} addresses"
        ))
        .hint("leave out addresses that nobody dials, or make a second certificate"));
    }
    for address in addresses {
        if rustls::pki_types::ServerName::try_from(address.as_str()).is_err() {
            return Err(Failure::usage(format!("{address:?} is no host name or IP address")).hint(
                "give it without scheme and port, like --address broker.example.net --address 10.0.0.1",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
