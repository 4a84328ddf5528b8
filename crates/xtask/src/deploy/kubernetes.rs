//! The chart: rendered by a real template engine, held against the schemas of Kubernetes, started as it would be.
//!
//! Owns: the renderer and the Python environment, kept in the target folder; `deploy/kubernetes/quorate.yaml`, which is
//! the chart with its default values. Does not: need a cluster of Kubernetes, or its tools.
//! Invariants: versions from a registry are fixed here.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, Checked, Running, has, output, read, write};

/// It has the schemas of the versions below, and what reads YAML.
const PYTHON_PACKAGE: &str = "kubernetes-validate==1.37.0";

/// The oldest version that the chart is for, and the newest with a schema.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

/// What the plain manifest begins with.
const HEAD: &str = "# A cluster of three nodes: the chart deploy/helm/quorate with its default values, in the namespace quorate.
# Made by: cargo xtask deploy-check --write kubernetes. See docs/operations/deploy.md.
";

/// Only true of what the package manager installs.
const LABEL_OF_CHART: &str = "app.kubernetes.io/managed-by:";

/// Longest wait for a node to be ready.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why a check of the chart cannot run, or what it needs.
fn tools(bench: &Bench) -> Result<Result<Tools, Checked>> {
    let skipped = |why: &str| Ok(Err(Checked::Skipped(why.to_owned())));
    if !has("go") || !Path::new("/usr/share/gocode/src/github.com/Masterminds/sprig").exists() {
        return skipped(
            "no template engine: Debian's golang-go and golang-github-masterminds-sprig-dev are not installed",
        );
    }
    if !has("python3") {
        return skipped("python3 is not installed");
    }
    let kept = bench.scratch.with_file_name("deploy-tools");
    fs::create_dir_all(&kept)?;
    let environment = kept.join("python");
    let python = environment.join("bin").join("python");
    let installed =
        fs::read_to_string(environment.join("installed")).is_ok_and(|noted| noted == PYTHON_PACKAGE);
    if !installed {
        output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        if let Err(error) =
            output(Command::new(&python).args(["-m", "pip", "install", "--quiet", PYTHON_PACKAGE]))
        {
            return skipped(&format!("{PYTHON_PACKAGE} cannot be had: {error:#}"));
        }
        write(&environment.join("installed"), PYTHON_PACKAGE)?;
    }
    let renderer = kept.join("render");
    let mut go = Command::new("go");
    go.current_dir(bench.root.join("deploy/helm/render")).arg("build").arg("-o").arg(&renderer).arg(".");
    go.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOCACHE", kept.join("go"));
    output(go.env("GOFLAGS", ""))?;
    Ok(Ok(Tools { python, renderer, root: bench.root.clone() }))
}

struct Tools {
    python: PathBuf,
    renderer: PathBuf,
    root: PathBuf,
}

impl Tools {
    fn chart(&self) -> PathBuf {
        self.root.join("deploy/helm/quorate")
    }

    fn all_values(&self) -> PathBuf {
        self.root.join("deploy/helm/render/values-all.yaml")
    }

    fn render(&self, values: &[&Path]) -> Result<String> {
        output(Command::new(&self.renderer).arg(self.chart()).args(["quorate", "quorate"]).args(values))
    }

    fn check(&self, arguments: &[&Path]) -> Result<String> {
        output(Command::new(&self.python).arg(self.root.join("deploy/kubernetes/check.py")).args(arguments))
    }
}

/// Values that are wrong are refused by the chart's schema; its own are right.
pub fn values(bench: &Bench) -> Result<Checked> {
    let tools = match tools(bench)? {
        Ok(tools) => tools,
        Err(skipped) => return Ok(skipped),
    };
    let folder = bench.folder("values")?;
    let (schema, own) = (tools.chart().join("values.schema.json"), tools.chart().join("values.yaml"));
    let checked = |file: &Path| tools.check(&["values".as_ref(), &schema, &own, file]);
    checked(&own).context("the chart's own values")?;
    checked(&tools.all_values())?;
    let wrong = [
        "replicas: 0",
        "replica: 3",
        "cluster: { name: Quorate }",
        "cluster: { founders: 10 }",
        "listeners: { tls: { port: 0 } }",
        "listeners: { proxyTrusted: [balancer] }",
        "service: { type: Ingress }",
        "podDisruptionBudget: { maxUnavailable: 2 }",
        "storage: { size: 20 }",
    ];
    for text in wrong {
        let file = folder.join("wrong.yaml");
        write(&file, text)?;
        ensure!(checked(&file).is_err(), "the schema lets {text:?} pass");
    }
    for text in ["replicas: 2", "listeners: { plain: { enabled: false } }"] {
        let file = folder.join("wrong.yaml");
        write(&file, text)?;
        ensure!(tools.render(&[&file]).is_err(), "the chart lets {text:?} pass");
    }
    Ok(Checked::Passed(format!("the chart's values are right, {} wrong ones are refused", wrong.len() + 2)))
}

/// What is rendered is known to Kubernetes, and the configuration in it to the program.
pub fn manifests(bench: &Bench) -> Result<Checked> {
    let tools = match tools(bench)? {
        Ok(tools) => tools,
        Err(skipped) => return Ok(skipped),
    };
    let folder = bench.folder("manifests")?;
    let plain = tools.root.join("deploy/kubernetes/quorate.yaml");
    let rendered = tools.render(&[])?;
    let lines = rendered.lines().filter(|line| !line.contains(LABEL_OF_CHART)).map(str::trim_end);
    let expected = HEAD.to_owned() + &lines.collect::<Vec<_>>().join("\n") + "\n";
    if bench.write {
        write(&plain, &expected)?;
    }
    ensure!(
        read(&plain)? == expected,
        "deploy/kubernetes/quorate.yaml is not what the chart renders: cargo xtask deploy-check --write kubernetes"
    );
    let mut objects = Vec::new();
    for (name, values) in [("default", Vec::new()), ("all", vec![tools.all_values()])] {
        let values: Vec<&Path> = values.iter().map(PathBuf::as_path).collect();
        let file = folder.join(format!("{name}.yaml"));
        write(&file, &tools.render(&values)?)?;
        let [oldest, newest] = VERSIONS;
        let kinds = tools.check(&["manifests".as_ref(), &file, oldest.as_ref(), newest.as_ref()])?;
        for kind in ["StatefulSet", "Service", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy"] {
            ensure!(kinds.split_whitespace().any(|found| found == kind), "{name} has no {kind}");
        }
        objects.extend(kinds.split_whitespace().map(str::to_owned));
        let configs = bench.folder(&format!("manifests/{name}"))?;
        for config in tools.check(&["configs".as_ref(), &file, &configs])?.lines() {
            let checked = ["config", "check", "--config"];
            output(Command::new(&bench.binary).args(checked).arg(configs.join(config)))?;
        }
    }
    tools.check(&["manifests".as_ref(), &plain, VERSIONS[0].as_ref()])?;
    Ok(Checked::Passed(format!("{} objects are valid in {}", objects.len(), VERSIONS.join(" and "))))
}

/// The configuration of the pods founds a cluster, survives a kill, and lets a pod above the founders join: with the
/// same command at each start.
pub fn founding(bench: &Bench) -> Result<Checked> {
    let tools = match tools(bench)? {
        Ok(tools) => tools,
        Err(skipped) => return Ok(skipped),
    };
    let folder = bench.folder("founding")?;
    let values = folder.join("values.yaml");
    write(&values, "replicas: 4\n")?;
    write(&folder.join("all.yaml"), &tools.render(&[&values])?)?;
    let names = tools.check(&["configs".as_ref(), &folder.join("all.yaml"), &folder])?;
    let names: Vec<&str> = names.lines().filter_map(|name| name.strip_suffix(".toml")).collect();
    let pods = Pods::prepare(bench, &folder, &names)?;
    let mut nodes: Vec<Running> = (0..3).map(|number| pods.start(number)).collect::<Result<_>>()?;
    (0..3).try_for_each(|number| pods.wait_ready(number))?;
    let mut killed = nodes.remove(0);
    killed.0.kill()?;
    killed.0.wait()?;
    nodes.push(pods.start(0)?);
    pods.wait_ready(0).context("after it was killed")?;
    nodes.push(pods.start(3)?);
    pods.wait_ready(3).context("as it joins")?;
    Ok(Checked::Passed("three pods found, one is killed and comes back, a fourth joins".to_owned()))
}

/// Pods as processes on this machine.
struct Pods<'a> {
    bench: &'a Bench,
    folder: &'a Path,
    names: &'a [&'a str],
    /// Of each: MQTT, admin, peer.
    ports: Vec<[u16; 3]>,
}

impl<'a> Pods<'a> {
    fn prepare(bench: &'a Bench, folder: &'a Path, names: &'a [&'a str]) -> Result<Pods<'a>> {
        let ports = ports(names.len() * 3)?;
        let ports: Vec<[u16; 3]> = ports.chunks_exact(3).filter_map(|chunk| chunk.try_into().ok()).collect();
        let cert = |arguments: &[&str]| {
            output(
                Command::new(&bench.binary).arg("cert").args(arguments).arg("--dir").arg(folder.join("tls")),
            )
        };
        write(&folder.join("token"), "a-secret-of-this-check\n")?;
        cert(&["ca"])?;
        for name in names {
            cert(&["node", name])?;
        }
        for (name, own) in names.iter().zip(&ports) {
            let file = folder.join(format!("{name}.toml"));
            let mut text = read(&file)?;
            for (port, local) in [1883, 9883, 11883].iter().zip(own) {
                text = text.replace(&format!("0.0.0.0:{port}"), &format!("127.0.0.1:{local}"));
            }
            for (other, [_, _, peer]) in names.iter().zip(&ports) {
                let address = format!("{other}.quorate-peers.quorate.svc:11883");
                text = text.replace(&address, &format!("127.0.0.1:{peer}"));
            }
            text = text.replace("/etc/quorate/admin-token", &folder.display().to_string());
            text = text.replace("/etc/quorate/peer-tls", &folder.join("tls").display().to_string());
            text = text.replace("/var/lib/quorate", &folder.join(name).display().to_string());
            ensure!(!text.contains("/etc/") && !text.contains(".svc"), "{name} has other places: {text}");
            fs::create_dir_all(folder.join(name))?;
            write(&file, &text)?;
        }
        Ok(Pods { bench, folder, names, ports })
    }

    fn name(&self, number: usize) -> Result<&str> {
        self.names.get(number).copied().context("a pod of that number")
    }

    fn start(&self, number: usize) -> Result<Running> {
        let name = self.name(number)?;
        let log =
            fs::File::options().append(true).create(true).open(self.folder.join(format!("{name}.log")))?;
        let config = self.folder.join(format!("{name}.toml"));
        let mut command = Command::new(&self.bench.binary);
        command
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Ok(Running(command.spawn().with_context(|| format!("start {name}"))?))
    }

    fn wait_ready(&self, number: usize) -> Result<()> {
        let [_, admin, _] = self.ports.get(number).context("ports of the pod")?;
        let begun = Instant::now();
        let mut before = String::new();
        while begun.elapsed() < READY_WAIT_MAX {
            let answer = super::get(*admin, "/readyz");
            match answer {
                Ok((200, _)) => return Ok(()),
                Ok((_, body)) => before = body,
                Err(error) => before = format!("{error:#}"),
            }
            super::pause();
        }
        bail!("{} does not become ready: {before}", self.name(number)?)
    }
}

/// Ports that were free, all at once.
fn ports(count: usize) -> Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    let ports = listeners.iter().map(|listener| Ok(listener.local_addr()?.port()));
    ports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deploy(path: &str) -> String {
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)).unwrap()
    }

    #[test]
    fn schema_of_the_values_is_json_and_knows_every_section() {
        let schema: serde_json::Value =
            serde_json::from_str(&deploy("helm/quorate/values.schema.json")).unwrap();
        for line in deploy("helm/quorate/values.yaml").lines() {
            if let Some((key, _)) =
                line.split_once(':').filter(|_| line.starts_with(|c: char| c.is_ascii_lowercase()))
            {
                assert!(schema["properties"].get(key).is_some(), "{key} is not in the schema");
            }
        }
    }

    #[test]
    fn pods_are_probed_found_together_and_keep_their_disks() {
        let text = deploy("kubernetes/quorate.yaml");
        for part in [
            "podManagementPolicy: Parallel",
            "publishNotReadyAddresses: true",
            "path: /readyz",
            "path: /livez",
            "maxUnavailable: 1",
            "whenDeleted: Retain",
            "topologyKey: topology.kubernetes.io/zone",
            "terminationGracePeriodSeconds: 90",
            "readOnlyRootFilesystem: true",
        ] {
            assert!(text.contains(part), "{part}");
        }
        assert!(text.starts_with(HEAD));
        assert!(!text.contains(LABEL_OF_CHART) && !text.contains("{{"));
    }
}
