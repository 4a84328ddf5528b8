//! The configuration of nginx (module stream) as a front door.
//!
//! Owns: its text, for nginx 1.18 and later. Does not: run nginx, or ask nodes; nginx does not either, see `watch`.
//! Invariants: the file with the nodes is a file of its own when somebody is to rewrite it.

use super::backend::Backend;
use super::{Door, Pattern, seconds_up};

/// The `stream` block, with the nodes in it or included from a file.
pub fn text(door: &Door, upstream_file: Option<&str>) -> String {
    let idle_s = seconds_up(door.idle);
    let upstream = match upstream_file {
        Some(file) => format!("    include {file};\n"),
        None => {
            let block = upstream(door, &door.backends.iter().collect::<Vec<_>>());
            block.lines().map(|line| format!("    {line}\n")).collect()
        }
    };
    let tls = match &door.tls {
        None => String::new(),
        Some(tls) => format!(
            "        ssl_certificate {};\n        ssl_certificate_key {};\n        ssl_protocols TLSv1.2 TLSv1.3;\n",
            tls.cert, tls.key
        ),
    };
    let ssl = if door.tls.is_some() { " ssl" } else { "" };
    let proxy = match door.pattern == Pattern::TlsAtBalancer || door.send_proxy {
        true => {
            "        # Version 1, the only one that nginx sends: the address of the client, nothing of its certificate.\n        proxy_protocol on;\n"
        }
        false => "",
    };
    format!(
        "{head}
stream {{
{upstream}
    server {{
        listen {listen}{ssl} so_keepalive=on;
{tls}        proxy_pass quorate;
        proxy_socket_keepalive on;
        # A node that does not take the connection: the next one is tried at once.
        proxy_connect_timeout {connect_ms}ms;
        proxy_next_upstream on;
        proxy_next_upstream_tries {tries};
        # One and a half Keep Alive, and some.
        proxy_timeout {idle_s}s;
{proxy}    }}
}}
",
        head = door.head("nginx", "nginx -t"),
        listen = door.listen,
        connect_ms = (door.check_interval.as_millis() / 2).max(500),
        tries = door.backends.len(),
    )
}

/// The `upstream` block with these nodes.
pub fn upstream(door: &Door, nodes: &[&Backend]) -> String {
    let mut text = String::from(
        "upstream quorate {\n    # Shared by the workers: what one has found out, all know.\n    zone quorate 128k;\n    least_conn;\n",
    );
    for node in nodes {
        let rest_s = seconds_up(door.check_interval);
        text.push_str(&format!(
            "    server {} max_fails=1 fail_timeout={rest_s}s; # {}\n",
            node.mqtt, node.name
        ));
    }
    text.push_str("}\n");
    text
}
