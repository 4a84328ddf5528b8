//! Real haproxy and nginx in front of three nodes, as `quorate config front-door` sets them up: a node that is not ready
//! gets no new connections, and the client's certificate stays its identity.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_api::{Readiness, SessionExplanation};
use quorate_tests::{Cluster, DEADLINE, let_pass, wait_for};

/// The promise: no new connection after so long.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Clients that connect after it.
const CLIENTS: usize = 6;

/// Longest wait for all of them together: one that is sent to a node that does not answer waits longer.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// Addresses that are not those of the balancer: reserved for documentation.
const ELSEWHERE: &str = "192.0.2.0/24";

/// Why a node is not ready.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// kill -9.
    Killed,
    /// SIGSTOP: connections to it are taken by the system and answered by nobody.
    Stopped,
    /// It leaves: those that are there may stay for the grace.
    Drained,
    /// It runs and knows no other node: its certificate authority is another one.
    Alone,
}

impl Cause {
    fn begin(self, cluster: &mut Cluster, node: usize) {
        match self {
            Cause::Killed => cluster.kill(node).unwrap(),
            Cause::Stopped => cluster.signal(node, "STOP").unwrap(),
            Cause::Drained => {
                let node = cluster.node(node);
                cluster
                    .run(&format!("cluster drain {} --grace 60s --admin http://{}", node.name, node.admin))
                    .unwrap();
            }
            Cause::Alone => {
                cluster.kill(node).unwrap();
                cluster.configure(node, |text| text.replace("../tls/ca.pem", "../strange/ca.pem")).unwrap();
                cluster.restart(node).unwrap();
                wait_for("the lone node to say that it is not ready", || {
                    let (status, body) = cluster.get(node, "/readyz").ok()?;
                    let readiness: Readiness = serde_json::from_str(&body).ok()?;
                    (status == 503 && !readiness.ready).then_some(())
                })
                .unwrap();
            }
        }
    }

    fn end(self, cluster: &mut Cluster, node: usize) {
        match self {
            Cause::Killed => cluster.restart(node).unwrap(),
            Cause::Stopped => cluster.signal(node, "CONT").unwrap(),
            Cause::Drained => {
                let node = cluster.node(node);
                cluster.run(&format!("cluster undrain {} --admin http://{}", node.name, node.admin)).unwrap();
            }
            Cause::Alone => {
                cluster.kill(node).unwrap();
                cluster.configure(node, |text| text.replace("../strange/ca.pem", "../tls/ca.pem")).unwrap();
                cluster.restart(node).unwrap();
            }
        }
        cluster.wait_ready(node).unwrap();
    }
}

/// A process that ends with the value.
struct Running(Child);

impl Running {
    /// A balancer in the directory of the cluster; returns when its port is open.
    fn balancer(house: &House, program: &str, arguments: &[&str]) -> Running {
        let cluster = &house.cluster;
        let path = cluster.dir().join(format!("{program}.log"));
        let log = std::fs::File::create(&path).unwrap();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(cluster.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut running = Running(command.spawn().unwrap());
        wait_for(&format!("{program} to open its port"), || {
            let ended = running.0.try_wait().unwrap();
            let log = || std::fs::read_to_string(&path).unwrap_or_default();
            assert!(ended.is_none(), "{program} ended: {}", log());
            TcpStream::connect(("127.0.0.1", house.port(Port::Front))).ok()
        })
        .unwrap();
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // With its workers, which SIGKILL would leave behind.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!(
            "front door of {program}: skipped, it is not installed (Debian: apt-get install {program})"
        );
    }
    found
}

/// Three nodes with the listeners that a front door needs, beside those of `dev`.
struct House {
    cluster: Cluster,
    base: u16,
}

impl House {
    fn build(test: &str) -> House {
        let mut cluster = Cluster::start(test, 3).unwrap();
        let base = cluster.node(0).mqtt_port;
        for arguments in
            ["ca --dir door", "node front --dir door", "client pump-7 --dir door", "ca --dir strange"]
        {
            cluster.run(&format!("cert {arguments}")).unwrap();
        }
        let door = cluster.dir().join("door");
        let read = |file: &str| std::fs::read_to_string(door.join(file)).unwrap();
        std::fs::write(door.join("both.pem"), read("front.pem") + &read("front.key")).unwrap();
        cluster.kill_all().unwrap();
        let mut house = House { cluster, base };
        for node in 0..3 {
            let listeners = house.listeners(node);
            house.cluster.configure(node, |text| text + &listeners).unwrap();
            house.cluster.restart(node).unwrap();
        }
        (0..3).for_each(|node| house.cluster.wait_ready(node).unwrap());
        house
    }

    /// A port of the cluster's stretch that `dev` has not given to a node.
    fn port(&self, use_of: Port) -> u16 {
        self.base
            + match use_of {
                Port::Tls(node) => 1003 + node as u16,
                Port::Proxied(node) => 10_003 + node as u16,
                Port::Distrusted => 3,
                Port::Front => 7,
            }
    }

    fn listeners(&self, node: usize) -> String {
        let proxied = |port: Port, trusted: &str| {
            format!(
                "[[listener]]\nbind = \"127.0.0.1:{}\"\nproxy_protocol = true\nproxy_trusted = [\"{trusted}\"]\n\
                 principal = \"certificate\"\n",
                self.port(port)
            )
        };
        let tls = format!(
            "\n[[listener]]\nkind = \"tls\"\nbind = \"127.0.0.1:{}\"\ncert_file = \"../door/front.pem\"\n\
             key_file = \"../door/front.key\"\nclient_certificate = \"required\"\nclient_ca_file = \"../door/ca.pem\"\n\
             principal = \"certificate\"\n",
            self.port(Port::Tls(node))
        );
        let mut all = tls + &proxied(Port::Proxied(node), "127.0.0.1");
        if node == 0 {
            all += &proxied(Port::Distrusted, ELSEWHERE);
        }
        all
    }

    /// `--nodes` and what else both balancers need.
    fn flags(&self, port: fn(usize) -> Port) -> String {
        let node = |place: usize| {
            let node = self.cluster.node(place);
            format!("{}=127.0.0.1:{}@{}", node.name, self.port(port(place)), node.admin)
        };
        let nodes = [node(0), node(1), node(2)].join(",");
        let interval = CHECK_INTERVAL.as_millis();
        format!(
            "--nodes {nodes} --listen 127.0.0.1:{} --check-interval {interval}ms --connections-max 1000",
            self.port(Port::Front)
        )
    }

    /// Connects a client with a certificate through the front door, to stay.
    fn connect(&self, client_id: &str) -> Running {
        let arguments = format!(
            "sub --cafile door/ca.pem --cert door/pump-7.pem --key door/pump-7.key -h localhost -p {} -i {client_id} -c \
             -x 3600 -t door/# -q 1",
            self.port(Port::Front)
        );
        Running(self.cluster.spawn(&arguments).unwrap())
    }

    /// The node that has a client's connection, as another node sees it, and the principal of its session.
    fn whereabouts(&self, asked: usize, client_id: &str) -> Option<(String, String)> {
        let (status, body) = self.cluster.get(asked, &format!("/v1/sessions/{client_id}")).ok()?;
        assert_eq!(status, 200, "{body}");
        let session = serde_json::from_str::<SessionExplanation>(&body).unwrap().session?;
        Some((session.owner?.node.name, session.principal))
    }

    /// New clients connect; gives the nodes that they are connected to.
    fn newcomers(&self, asked: usize, round: &str) -> Vec<String> {
        let names: Vec<String> = (0..CLIENTS).map(|number| format!("{round}-{number}")).collect();
        let begun = Instant::now();
        let _connections: Vec<Running> = names.iter().map(|name| self.connect(name)).collect();
        let found = names.iter().map(|name| {
            let found =
                wait_for(&format!("{name} to be connected"), || self.whereabouts(asked, name)).unwrap();
            assert_eq!(found.1, "pump-7", "the principal of {name}");
            found.0
        });
        let nodes = found.collect();
        let took = begun.elapsed();
        assert!(took < CONNECTED_WITHIN, "{round}: clients waited {took:?} for their connections");
        nodes
    }

    /// The front door is open: what comes is served by all nodes.
    fn wait_until_all_serve(&self, round: &str) -> Vec<Running> {
        let mut missing: Vec<String> = self.cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let begun = Instant::now();
        let mut held = Vec::new();
        loop {
            let name = format!("{round}-{}", held.len());
            held.push(self.connect(&name));
            let connected = wait_for(&name, || self.whereabouts(0, &name));
            missing.retain(|node| *node != connected.as_ref().unwrap().0);
            if missing.is_empty() {
                return held;
            }
            assert!(begun.elapsed() < DEADLINE, "{round}: {missing:?} get no connections");
        }
    }

    /// Every cause at a node, one after the other.
    fn make_not_ready(&mut self, balancer: &str) {
        let causes = [Cause::Killed, Cause::Stopped, Cause::Alone, Cause::Drained];
        for (round, cause) in causes.into_iter().enumerate() {
            let victim = round % 3;
            let held = self.wait_until_all_serve(&format!("{balancer}-before-{round}"));
            let mut there: Vec<String> =
                (0..held.len()).map(|number| format!("{balancer}-before-{round}-{number}")).collect();
            let owner = |name: &String| self.whereabouts((victim + 1) % 3, name).map(|(node, _)| node);
            there.retain(|name| owner(name).as_ref() == Some(&self.cluster.node(victim).name));
            cause.begin(&mut self.cluster, victim);
            let_pass(CHECK_INTERVAL);
            let nodes = self.newcomers((victim + 1) % 3, &format!("{balancer}-new-{round}"));
            let name = &self.cluster.node(victim).name;
            assert!(!nodes.contains(name), "{cause:?}: {name} got one of {nodes:?}");
            // How the others share them is the balancer's choice: one of them may have had fewer connections before.
            if let Cause::Drained = cause {
                assert!(!there.is_empty(), "{name} has clients before it is drained");
                for client in &there {
                    let found = self.whereabouts(0, client).map(|(node, _)| node);
                    assert_eq!(
                        found.as_ref(),
                        Some(name),
                        "{client} was cut off from a node that only leaves"
                    );
                }
            }
            drop(held);
            cause.end(&mut self.cluster, victim);
        }
        self.wait_until_all_serve(&format!("{balancer}-after"));
    }
}

/// What a port is for.
#[derive(Clone, Copy)]
enum Port {
    /// TLS at the node.
    Tls(usize),
    /// Behind TLS at the balancer.
    Proxied(usize),
    /// Behind a balancer somewhere else.
    Distrusted,
    /// Of the balancer.
    Front,
}

/// Whether a listener closes a connection that begins so, instead of answering a CONNECT.
fn closes(port: u16, before: &[u8]) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let connect = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c";
    let _sent = stream.write_all(&[before, connect].concat());
    !matches!(stream.read(&mut [0; 4]), Ok(read) if read > 0)
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn haproxy_passes_tls_to_nodes_that_are_ready() {
    if !is_installed("haproxy") {
        return;
    }
    let mut house = House::build("door-haproxy");
    let file = house.cluster.run(&format!("config front-door haproxy {}", house.flags(Port::Tls))).unwrap();
    std::fs::write(house.cluster.dir().join("haproxy.cfg"), file).unwrap();
    let _haproxy = Running::balancer(&house, "haproxy", &["-db", "-f", "haproxy.cfg"]);
    house.make_not_ready("passthrough");
    println!(
        "haproxy_passes_tls_to_nodes_that_are_ready: killed, stopped, lone and drained node out within {CHECK_INTERVAL:?}"
    );
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn haproxy_ends_tls_and_tells_the_certificate() {
    if !is_installed("haproxy") {
        return;
    }
    let mut house = House::build("door-tls");
    let flags = house.flags(Port::Proxied);
    let tls = "--pattern tls-at-balancer --cert door/both.pem --client-ca door/ca.pem";
    let file = house.cluster.run(&format!("config front-door haproxy {flags} {tls}")).unwrap();
    std::fs::write(house.cluster.dir().join("haproxy.cfg"), file).unwrap();
    let _haproxy = Running::balancer(&house, "haproxy", &["-db", "-f", "haproxy.cfg"]);
    house.make_not_ready("terminated");

    let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 1883\r\n";
    assert!(closes(house.port(Port::Distrusted), header), "a header from an untrusted address");
    assert!(closes(house.port(Port::Proxied(0)), b""), "no header where one is required");
    assert!(!closes(house.port(Port::Proxied(0)), header), "a header from a trusted address");
    let stranger = format!(
        "sub --cafile door/ca.pem -h localhost -p {} -i stranger -t a -C 1 -W 20",
        house.port(Port::Front)
    );
    assert!(house.cluster.run(&stranger).is_err(), "a client without a certificate");
    println!(
        "haproxy_ends_tls_and_tells_the_certificate: every session had the principal of its certificate"
    );
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn nginx_passes_tls_to_nodes_that_are_ready() {
    if !is_installed("nginx") {
        return;
    }
    let mut house = House::build("door-nginx");
    let dir = house.cluster.dir().display().to_string();
    let flags = format!("{} --upstream-file {dir}/nodes.conf", house.flags(Port::Tls));
    let file = house.cluster.run(&format!("config front-door nginx {flags}")).unwrap();
    std::fs::write(house.cluster.dir().join("front-door.conf"), file).unwrap();
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let load = if std::path::Path::new(module).exists() {
        format!("load_module {module};\n")
    } else {
        String::new()
    };
    let main = format!("{load}pid nginx.pid;\ndaemon off;\nevents {{}}\ninclude front-door.conf;\n");
    std::fs::write(house.cluster.dir().join("nginx.conf"), main).unwrap();
    let arguments = ["-p", &dir, "-e", "nginx-error.log", "-c", "nginx.conf"];
    let _nginx = Running::balancer(&house, "nginx", &arguments);
    let reload = "nginx -p . -e nginx-error.log -c nginx.conf -s reload";
    let watch = ["config", "front-door", "nginx", "--watch", "--reload", reload];
    let flags: Vec<&str> = flags.split_whitespace().collect();
    let _watch = Running(house.cluster.spawn_words(&[&watch[..], &flags].concat()).unwrap());
    house.make_not_ready("nginx");
    println!(
        "nginx_passes_tls_to_nodes_that_are_ready: killed, stopped, lone and drained node out within {CHECK_INTERVAL:?}"
    );
}
