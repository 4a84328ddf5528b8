//! The configuration of haproxy as a front door.
//!
//! Owns: its text, for haproxy 2.4 and later. Does not: run haproxy.
//! Invariants: a node that is not ready gets no new connection after one check interval: a check comes every quarter of
//! it, takes at most as long, and two in a row decide. One that only leaves keeps the connections that it has.

use std::fmt::Write;

use super::{Door, Pattern, seconds_up};

/// Checks that have to fail, or to succeed, one after the other.
const CHECKS: u32 = 2;

/// The whole file.
pub fn text(door: &Door) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _written = write_all(&mut text, door);
    text
}

fn write_all(text: &mut String, door: &Door) -> std::fmt::Result {
    let check_ms = door.check_interval.as_millis() / 4;
    let idle_s = seconds_up(door.idle);
    text.push_str(&door.head("haproxy", "haproxy -c -f FILE"));
    write!(
        text,
        "\nglobal
    # Each takes two open files: LimitNOFILE of the service has to be above twice as many.
    maxconn {connections}
    log stderr format raw local0 info

defaults
    mode tcp
    log global
    option tcplog
    # Connections that say nothing are health checks of others, or scans.
    option dontlognull
    option clitcpka
    option srvtcpka
    option redispatch
    retries 2
    timeout connect {connect}ms
    # The rest of one check; connecting has as much.
    timeout check {check_ms}ms
    # One and a half Keep Alive, and some. A client of MQTT 3 with a longer Keep Alive, or none, is closed after this
    # long without a packet.
    timeout client {idle_s}s
    timeout server {idle_s}s
    timeout client-fin 10s
    timeout server-fin 10s

frontend mqtt
    bind {bind}
    default_backend quorate

backend quorate
    # Connections last: the one with the fewest gets the next.
    balance leastconn
    option httpchk
    # 404 is a node that is drained or told to stop, sound otherwise: nobody new goes there, and it sends away those that
    # it has at its own pace. Anything else but 200 is a node that does not serve.
    http-check disable-on-404
    http-check send meth GET uri /readyz?leaving=404 ver HTTP/1.1 hdr Host localhost hdr Connection close
    http-check expect status 200
",
        connections = door.connections_max,
        connect = (check_ms * 2).max(1000),
        bind = bind(door),
    )?;
    let sessions = if door.keep_connections { "" } else { " on-marked-down shutdown-sessions" };
    writeln!(
        text,
        "    default-server check inter {check_ms}ms fall {CHECKS} rise {CHECKS} slowstart 10s{sessions}{proxy}",
        proxy = match (door.pattern, door.send_proxy) {
            (Pattern::Passthrough, false) => "",
            (Pattern::Passthrough, true) => " send-proxy-v2",
            (Pattern::TlsAtBalancer, _) => " send-proxy-v2-ssl-cn",
        }
    )?;
    for node in &door.backends {
        let addr = match node.admin.host == node.mqtt.host {
            true => String::new(),
            false if node.admin.host.contains(':') => format!(" addr [{}]", node.admin.host),
            false => format!(" addr {}", node.admin.host),
        };
        writeln!(text, "    server {} {}{addr} port {}", node.name, node.mqtt, node.admin.port)?;
    }
    Ok(())
}

fn bind(door: &Door) -> String {
    let listen = &door.listen;
    let mut bind = if listen.host.contains(':') {
        // haproxy takes the port behind the last colon.
        format!("{}:{}", listen.host, listen.port)
    } else {
        listen.to_string()
    };
    if let Some(tls) = &door.tls {
        bind.push_str(&format!(" ssl crt {} ssl-min-ver TLSv1.2", tls.cert));
        if let Some(authority) = &tls.client_ca {
            bind.push_str(&format!(" ca-file {authority} verify required"));
        }
    }
    bind
}
