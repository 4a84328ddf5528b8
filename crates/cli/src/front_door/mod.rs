//! `quorate config front-door`: the configuration of a load balancer in front of the cluster.
//!
//! Owns: the flags, what the two balancers share. Does not: start a balancer; `--watch` has one reload.
//! Invariants: what a balancer cannot do is an error or stands in the file, never silence.
//! Limits: FRONT_DOOR_NODES_MAX, CHECK_INTERVAL_MIN to CHECK_INTERVAL_MAX. See: docs/operations/front-door.md.

mod backend;
mod haproxy;
mod nginx;
mod watch;

use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use crate::exit::{Exit, Failure, Outcome};
use crate::limits::{FRONT_DOOR_CHECK_INTERVAL_MAX, FRONT_DOOR_CHECK_INTERVAL_MIN};
use crate::{duration, output, status};
use backend::{Backend, Endpoint, Ports};
use watch::Watch;

/// Flags of `quorate config front-door`.
#[derive(Args, Debug)]
#[command(after_help = "\
The file goes to standard output. It asks /readyz of each node's admin listener: that has to be reachable from the
balancer. What the nodes need stands in the file's first lines.

nginx has no active checks of its own. With --watch this command stays and does them: it asks the nodes, rewrites
--upstream-file and runs --reload whenever the set of ready nodes changes.

Exit codes:
  0  done
  1  a file cannot be written
  2  wrong flags, or a balancer cannot do what is asked
  3  the node named by --admin cannot be reached")]
pub struct FrontDoorArgs {
    /// Which balancer
    #[arg(value_enum)]
    balancer: Balancer,
    /// Where TLS ends
    #[arg(long, value_enum, default_value_t)]
    pattern: Pattern,
    /// A node: NAME=HOST, with PORT and ADMIN_PORT when they differ. Separated by commas, or repeated
    #[arg(
        long,
        value_name = "NAME=HOST[:PORT][@ADMIN_PORT]",
        value_delimiter = ',',
        conflicts_with = "admin",
        required_unless_present = "admin"
    )]
    nodes: Vec<String>,
    /// Take the nodes from a running cluster: admin address of any of them
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Port of the nodes' listener for the balancer [default: 8883, or 1884 with TLS at the balancer]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    mqtt_port: Option<u16>,
    /// Port of the nodes' admin listener
    #[arg(long, value_name = "PORT", default_value_t = 9883, value_parser = clap::value_parser!(u16).range(1..))]
    admin_port: u16,
    /// Where clients connect
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:8883")]
    listen: String,
    /// A node that is not ready gets no new connections after this long
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration::parse)]
    check_interval: Duration,
    /// limits.keep_alive_max of the nodes: connections that say nothing for longer than one and a half of it are closed
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = duration::parse)]
    keep_alive_max: Duration,
    /// Connections at once (haproxy)
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    connections_max: u32,
    /// With TLS at the balancer: its certificate chain; for haproxy with the private key in the same file
    #[arg(long, value_name = "FILE")]
    cert: Option<String>,
    /// With TLS at the balancer: its private key (nginx)
    #[arg(long, value_name = "FILE")]
    key: Option<String>,
    /// With TLS at the balancer: clients must show a certificate of these authorities (haproxy)
    #[arg(long, value_name = "FILE")]
    client_ca: Option<String>,
    /// With TLS at the node: tell it the client's address with the PROXY protocol
    #[arg(long)]
    send_proxy: bool,
    /// Leave the connections of a node that is not ready any more where they are (haproxy)
    #[arg(long)]
    keep_connections: bool,
    /// Keep the nodes in a file of their own (nginx). Written with all nodes unless it is there
    #[arg(long, value_name = "FILE")]
    upstream_file: Option<String>,
    /// Stay, and keep --upstream-file to the nodes that are ready (nginx)
    #[arg(long, requires = "upstream_file", requires = "reload")]
    watch: bool,
    /// What has the balancer read its files again, without a shell
    #[arg(long, value_name = "COMMAND", requires = "watch")]
    reload: Option<String>,
}

/// A load balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Balancer {
    /// haproxy
    Haproxy,
    /// nginx with the module stream
    Nginx,
}

/// Where TLS ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Pattern {
    /// At the node: the balancer passes bytes on, the node sees the client's certificate
    #[default]
    Passthrough,
    /// At the balancer, which tells the node address and certificate of the client with the PROXY protocol
    TlsAtBalancer,
}

/// TLS at the balancer.
#[derive(Clone, Debug)]
struct Tls {
    cert: String,
    key: String,
    client_ca: Option<String>,
}

/// A front door.
#[derive(Clone, Debug)]
struct Door {
    pattern: Pattern,
    backends: Vec<Backend>,
    listen: Endpoint,
    check_interval: Duration,
    /// How long a connection may be silent.
    idle: Duration,
    connections_max: u32,
    tls: Option<Tls>,
    send_proxy: bool,
    keep_connections: bool,
}

/// Runs the command.
pub async fn run(args: FrontDoorArgs) -> Outcome {
    let door = door(&args).await?;
    let upstream_file = args.upstream_file.as_deref();
    if let (true, Some(file)) = (args.watch, upstream_file) {
        let reload = args.reload.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned);
        return watch::run(&door, &Watch { upstream_file: file.into(), reload: reload.collect() }).await;
    }
    let text = match args.balancer {
        Balancer::Haproxy => haproxy::text(&door),
        Balancer::Nginx => {
            if let Some(file) = upstream_file.filter(|file| !std::path::Path::new(file).exists()) {
                let nodes: Vec<_> = door.backends.iter().collect();
                watch::write(file.as_ref(), &nginx::upstream(&door, &nodes))?;
            }
            nginx::text(&door, upstream_file)
        }
    };
    Ok(output::print(&text)?)
}

async fn door(args: &FrontDoorArgs) -> Outcome<Door> {
    check_flags(args).map_err(|(problem, hint)| Failure::usage(problem).hint(hint))?;
    let usual = match args.pattern {
        Pattern::Passthrough => 8883,
        Pattern::TlsAtBalancer => 1884,
    };
    let ports = Ports { mqtt: args.mqtt_port.unwrap_or(usual), admin: args.admin_port };
    let backends = match &args.admin {
        None => backend::parse_all(&args.nodes, ports),
        Some(url) => backend::of_cluster(&status::fetch(url).await?, ports.mqtt),
    };
    let hint = "name them with --nodes NAME=HOST[:PORT][@ADMIN_PORT],…";
    let backends = backends.map_err(|problem| Failure::new(Exit::Usage, anyhow!(problem)).hint(hint))?;
    let listen = backend::endpoint(&args.listen, 8883)
        .ok_or_else(|| Failure::usage(format!("--listen {:?} is no host and port", args.listen)))?;
    let tls = match (&args.cert, &args.key) {
        (Some(cert), key) if args.pattern == Pattern::TlsAtBalancer => Some(Tls {
            cert: cert.clone(),
            key: key.clone().unwrap_or_default(),
            client_ca: args.client_ca.clone(),
        }),
        _ => None,
    };
    Ok(Door {
        pattern: args.pattern,
        backends,
        listen,
        check_interval: args.check_interval,
        idle: args.keep_alive_max * 3 / 2 + Duration::from_secs(30),
        connections_max: args.connections_max,
        tls,
        send_proxy: args.send_proxy,
        keep_connections: args.keep_connections,
    })
}

/// What is wrong with the flags together, and what to do.
fn check_flags(args: &FrontDoorArgs) -> Result<(), (String, &'static str)> {
    let wrong = |problem: &str, hint: &'static str| Err((problem.to_owned(), hint));
    let range = FRONT_DOOR_CHECK_INTERVAL_MIN..=FRONT_DOOR_CHECK_INTERVAL_MAX;
    if !range.contains(&args.check_interval) {
        let (least, most) = (range.start().as_millis(), range.end().as_secs());
        return Err((format!("--check-interval is not between {least} ms and {most} s"), "2s is usual"));
    }
    if !(Duration::from_secs(1)..=Duration::from_secs(65_535)).contains(&args.keep_alive_max) {
        return wrong(
            "--keep-alive-max is not between 1 s and 65535 s",
            "give what limits.keep_alive_max is",
        );
    }
    let paths = [&args.cert, &args.key, &args.client_ca, &args.upstream_file];
    if let Some(path) = paths.into_iter().flatten().find(|path| !backend::is_plain_path(path)) {
        return Err((format!("{path:?} has characters with a meaning in the file"), "use another path"));
    }
    let tls_flags = args.cert.is_some() || args.key.is_some() || args.client_ca.is_some();
    let nginx = args.balancer == Balancer::Nginx;
    match args.pattern {
        Pattern::Passthrough if tls_flags => {
            return wrong(
                "--cert, --key and --client-ca are for --pattern tls-at-balancer",
                "with passthrough certificates stand in the configuration of the nodes",
            );
        }
        Pattern::TlsAtBalancer if args.cert.is_none() || nginx != args.key.is_some() => {
            return wrong(
                "TLS at the balancer needs its certificate",
                "haproxy: --cert FILE with chain and key; nginx: --cert CHAIN --key KEY",
            );
        }
        Pattern::TlsAtBalancer if nginx && args.client_ca.is_some() => {
            return wrong(
                "nginx cannot tell the node the name in a client's certificate: it sends the PROXY protocol in version 1 only",
                "use haproxy, or --pattern passthrough, where the node checks certificates itself",
            );
        }
        Pattern::Passthrough | Pattern::TlsAtBalancer => {}
    }
    if !nginx && args.upstream_file.is_some() {
        return wrong("--upstream-file and --watch are for nginx", "haproxy checks the nodes itself");
    }
    Ok(())
}

impl Door {
    /// The first lines: what made the file, how to check it, and the listener that the nodes need.
    fn head(&self, balancer: &str, check: &str) -> String {
        let port = self.backends.first().map_or(8883, |node| node.mqtt.port);
        let proxied = self.pattern == Pattern::TlsAtBalancer || self.send_proxy;
        let mut lines = vec![
            format!("Front door of a Quorate cluster, made by: quorate config front-door {balancer}"),
            format!("Check it with: {check}"),
            "The nodes need a listener like this one:".to_owned(),
            "  [[listener]]".to_owned(),
        ];
        match self.pattern {
            Pattern::Passthrough => lines.extend([
                "  kind = \"tls\"".to_owned(),
                format!("  bind = \"0.0.0.0:{port}\""),
                "  cert_file, key_file, and for certificates of clients client_ca_file and client_certificate".to_owned(),
            ]),
            Pattern::TlsAtBalancer => lines.extend([
                "  kind = \"tcp\"".to_owned(),
                format!("  bind = \"ADDRESS:{port}\"  # where only the balancer comes"),
                "  insecure = true".to_owned(),
            ]),
        }
        if proxied {
            lines.extend([
                "  proxy_protocol = true".to_owned(),
                "  proxy_trusted = [\"ADDRESS OF THE BALANCER\"]".to_owned(),
            ]);
        }
        if self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
            lines.push("  principal = \"certificate\"".to_owned());
        }
        lines.push(
            "and an admin listener that the balancer reaches. See docs/operations/front-door.md.".to_owned(),
        );
        lines.iter().map(|line| format!("# {line}\n")).collect()
    }
}

/// Whole seconds, never fewer than it lasts.
fn seconds_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: FrontDoorArgs,
    }

    fn made(line: &str) -> Result<Door, String> {
        let words = ["front-door"].into_iter().chain(line.split_whitespace());
        let args = Line::try_parse_from(words).map_err(|error| error.to_string())?.args;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(door(&args)).map_err(|failure| format!("{:#}", failure.error.unwrap()))
    }

    /// Three nodes behind nginx.
    pub(super) fn three() -> Door {
        made("nginx --nodes n1=10.0.0.1,n2=10.0.0.2,n3=10.0.0.3").unwrap()
    }

    #[test]
    fn file_of_haproxy_checks_readiness_and_says_how_long_that_takes() {
        let text = haproxy::text(
            &made("haproxy --nodes n1=10.0.0.1,n2=10.0.0.2@192.0.2.2:7 --check-interval 4s").unwrap(),
        );
        for line in [
            "    balance leastconn",
            "    http-check disable-on-404",
            "    http-check expect status 200",
            "    timeout check 1000ms",
            "    timeout client 480s",
            "    default-server check inter 1000ms fall 2 rise 2 slowstart 10s on-marked-down shutdown-sessions",
            "    server n1 10.0.0.1:8883 port 9883",
            "    server n2 10.0.0.2:8883 addr 192.0.2.2 port 7",
            "    bind 0.0.0.0:8883",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let text = haproxy::text(
            &made("haproxy --nodes n1=::1 --pattern tls-at-balancer --cert a.pem --client-ca ca.pem --listen [::1]:1")
                .unwrap(),
        );
        assert!(
            text.contains("bind ::1:1 ssl crt a.pem ssl-min-ver TLSv1.2 ca-file ca.pem verify required"),
            "{text}"
        );
        assert!(
            text.contains(" send-proxy-v2-ssl-cn\n") && text.contains("server n1 [::1]:1884 port 9883"),
            "{text}"
        );
    }

    #[test]
    fn file_of_nginx_names_its_nodes_or_includes_them() {
        let text = nginx::text(&three(), None);
        assert!(text.contains("server 10.0.0.3:8883 max_fails=1 fail_timeout=2s; # n3"), "{text}");
        assert!(!text.contains("proxy_protocol"), "{text}");
        let tls = made("nginx --nodes n1=h --pattern tls-at-balancer --cert c.pem --key k.pem").unwrap();
        let text = nginx::text(&tls, Some("/etc/nginx/quorate-nodes.conf"));
        for part in [
            "listen 0.0.0.0:8883 ssl ",
            "ssl_certificate_key k.pem;",
            "proxy_protocol on;",
            "include /etc/nginx/quorate-nodes.conf;",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn flags_that_do_not_fit_together_are_refused() {
        for (line, part) in [
            ("haproxy", "--nodes"),
            ("haproxy --nodes n1=h --cert a", "tls-at-balancer"),
            ("haproxy --nodes n1=h --pattern tls-at-balancer", "needs its certificate"),
            ("nginx --nodes n1=h --pattern tls-at-balancer --cert a", "needs its certificate"),
            ("nginx --nodes n1=h --pattern tls-at-balancer --cert a --key b --client-ca c", "version 1 only"),
            ("haproxy --nodes n1=h --upstream-file f", "for nginx"),
            ("nginx --nodes n1=h --watch", "--upstream-file"),
            ("nginx --nodes n1=h --check-interval 1ms", "--check-interval"),
            ("nginx --nodes n1=h --keep-alive-max 0s", "--keep-alive-max"),
            ("nginx --nodes n1=h --upstream-file a;b", "characters"),
            ("nginx --nodes n1=h --listen nowhere:0", "--listen"),
            ("nginx --nodes n1=h,n1=i", "twice"),
        ] {
            let problem = made(line).err().unwrap_or_else(|| panic!("{line}"));
            assert!(problem.contains(part), "{line}: {problem}");
        }
    }
}
