//! `[admin]`: the admin HTTP listener and who may speak to it.
//!
//! Owns: its keys, their defaults and bounds. Does not: open sockets, read the token.
//! Invariants: beyond loopback there is a token, or the operator has said that the network is trusted.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::read_address;
use super::reader::{Reader, Section};
use crate::limits::{ADMIN_HOST_NAMES_MAX, HOST_NAME_BYTES_MAX};

/// The admin HTTP listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Address and port.
    pub bind: SocketAddr,
    /// Requests without a token are accepted beyond loopback by the operator.
    pub insecure: bool,
    /// File with the tokens that requests must carry; without one, none is asked for.
    pub token_file: Option<PathBuf>,
    /// Names under which the listener is asked, besides `localhost` and addresses; in lower case.
    pub host_names: Vec<String>,
}

/// Reads `[admin]`.
pub fn read_admin(
    reader: &mut Reader<'_>,
    mut section: Section<'_, '_>,
    base: &Path,
    defaults: AdminSettings,
) -> AdminSettings {
    let place = section.place_of("bind");
    let bind = read_address(reader, &mut section, "bind").unwrap_or(defaults.bind);
    let insecure = section.boolean(reader, "insecure").unwrap_or(false);
    let token_file = section.path(reader, "token_file", base);
    let host_names = read_host_names(reader, &mut section);
    section.finish(reader);
    if !bind.ip().is_loopback() && !insecure && token_file.is_none() {
        reader.error(
            &place,
            format!("everybody who reaches {bind} could administer this node"),
            "bind 127.0.0.1, or name a file with a secret of at least 16 characters in token_file (openssl rand -hex 32 \
             makes one), or set insecure = true there if all who reach it may",
        );
    }
    AdminSettings { bind, insecure, token_file, host_names }
}

fn read_host_names(reader: &mut Reader<'_>, section: &mut Section<'_, '_>) -> Vec<String> {
    let list_place = section.place_of("host_names");
    let texts = section.strings(reader, "host_names").unwrap_or_default();
    if texts.len() > ADMIN_HOST_NAMES_MAX {
        reader.error(
            &list_place,
            format!("`admin.host_names` has {} names", texts.len()),
            format!("list at most {ADMIN_HOST_NAMES_MAX}"),
        );
    }
    let legal = |text: &str| {
        let character = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        !text.is_empty() && text.len() <= HOST_NAME_BYTES_MAX && text.chars().all(character)
    };
    let mut names = Vec::new();
    for (text, place) in texts {
        if legal(&text) {
            names.push(text.to_ascii_lowercase());
        } else {
            reader.error(
                &place,
                format!("`admin.host_names` has \"{}\", which is no host name", text.escape_debug()),
                "write names without scheme and port, like [\"n1.example.net\"]",
            );
        }
    }
    names
}
