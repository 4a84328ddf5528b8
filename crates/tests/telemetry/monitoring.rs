//! A real Prometheus and a real Alertmanager on loopback, with our rules made fast.
//!
//! Owns: their processes, configuration and folder; what Alertmanager told. Does not: know what is to fire.
//! Invariants: both end with the value; the expressions of the rules are ours, only their times are shorter.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use quorate_tests::wait_for;
use serde_json::Value;

use crate::http::{Server, encoded, free_port, get};

/// What Alertmanager told: whether it fires or is resolved, the alert, the instance.
pub type Told = BTreeSet<(String, String, String)>;

/// A target: its address, path, and the instance it counts as.
pub struct Target {
    pub address: String,
    pub path: String,
    pub instance: String,
}

/// Prometheus and Alertmanager.
pub struct Monitoring {
    prometheus: (Child, u16),
    alertmanager: Child,
    _webhook: Server,
    told: Arc<Mutex<Told>>,
    folder: PathBuf,
}

/// Names of all alerts of the rules.
pub fn alerts_of(rules: &str) -> Vec<String> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned)).collect()
}

/// The rules with times that a test can wait for: seconds for minutes and hours, in `for` and in ranges.
pub fn shortened(rules: &str) -> String {
    let times = [("[5m]", "[5s]"), ("[10m]", "[30s]"), ("[30m]", "[20s]"), ("[1h]", "[8s]")];
    let lines = rules.lines().map(|line| match line.trim_start().starts_with("for: ") {
        true => "        for: 1s".to_owned(),
        false => times.iter().fold(line.to_owned(), |line, (long, short)| line.replace(long, short)),
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

impl Monitoring {
    /// Starts both and waits until they are ready.
    pub fn start(name: &str, rules: &Path, targets: &[Target]) -> Result<Monitoring> {
        let folder = std::env::temp_dir().join(format!("quorate-telemetry-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let rules = fs::read_to_string(rules).with_context(|| format!("read {}", rules.display()))?;
        fs::write(folder.join("quorate.rules.yml"), shortened(&rules))?;
        let told = Arc::<Mutex<Told>>::default();
        let noted = told.clone();
        let webhook = Server::start(move |_, body| {
            note(&noted, body);
            String::new()
        })?;
        let (port, alertmanager_port) = (free_port()?, free_port()?);
        fs::write(folder.join("alertmanager.yml"), alertmanager_configuration(webhook.port))?;
        fs::write(folder.join("prometheus.yml"), configuration(alertmanager_port, targets))?;
        let alertmanager = start(
            "prometheus-alertmanager",
            &folder,
            &[
                "--config.file=alertmanager.yml",
                "--storage.path=alertmanager",
                "--cluster.listen-address=",
                &format!("--web.listen-address=127.0.0.1:{alertmanager_port}"),
            ],
        )?;
        let prometheus = start(
            "prometheus",
            &folder,
            &[
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=prometheus",
                &format!("--web.listen-address=127.0.0.1:{port}"),
            ],
        )?;
        let monitoring =
            Monitoring { prometheus: (prometheus, port), alertmanager, _webhook: webhook, told, folder };
        for port in [alertmanager_port, port] {
            wait_for("Prometheus and Alertmanager to be ready", || {
                get(port, "/-/ready").ok().filter(|(status, _)| *status == 200)
            })
            .with_context(|| monitoring.logs())?;
        }
        Ok(monitoring)
    }

    /// What Alertmanager told so far.
    pub fn told(&self) -> Told {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until Alertmanager has told of each alert that it `fires`, or is `resolved`.
    pub fn wait_told(&self, alerts: &[&str], status: &str) -> Result<()> {
        let missing = || -> Vec<&str> {
            let told = self.told();
            let has = |alert: &str| told.iter().any(|(found, name, _)| found == status && name == alert);
            alerts.iter().copied().filter(|alert| !has(alert)).collect()
        };
        wait_for("Alertmanager to tell", || missing().is_empty().then_some(())).with_context(|| {
            format!("not {status}: {:?}; told: {:?}\n{}", missing(), self.told(), self.logs())
        })
    }

    /// The samples that an expression gives now.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let (_, body) = get(self.prometheus.1, &format!("/api/v1/query?query={}", encoded(expression)))?;
        let answer: Value = serde_json::from_str(&body).with_context(|| format!("{expression}: {body}"))?;
        ensure!(answer["status"] == "success", "{expression}: {}", answer["error"]);
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Alerts that fire now, with their instance.
    pub fn firing(&self) -> Result<BTreeSet<String>> {
        let samples = self.query("ALERTS{alertstate=\"firing\"}")?;
        let text = |sample: &Value, label: &str| sample["metric"][label].as_str().unwrap_or("").to_owned();
        Ok(samples.iter().map(|sample| text(sample, "alertname")).collect())
    }

    fn logs(&self) -> String {
        ["prometheus", "prometheus-alertmanager"]
            .map(|program| {
                let log =
                    fs::read_to_string(self.folder.join(program).with_extension("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().filter(|line| !line.contains("level=info")).collect();
                format!("{program}:\n{}", lines[lines.len().saturating_sub(10)..].join("\n"))
            })
            .join("\n")
    }
}

impl Drop for Monitoring {
    fn drop(&mut self) {
        for child in [&mut self.prometheus.0, &mut self.alertmanager] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn start(program: &str, folder: &Path, arguments: &[&str]) -> Result<Child> {
    let log = fs::File::create(folder.join(program).with_extension("log"))?;
    Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {program}"))
}

fn configuration(alertmanager: u16, targets: &[Target]) -> String {
    let mut text = format!(
        "global:\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\n  evaluation_interval: 500ms\n\
         rule_files: [quorate.rules.yml]\n\
         alerting:\n  alertmanagers:\n    - static_configs:\n        - targets: ['127.0.0.1:{alertmanager}']\n\
         scrape_configs:\n  - job_name: quorate\n    static_configs:\n"
    );
    for Target { address, path, instance } in targets {
        text += &format!(
            "      - targets: ['{address}']\n        labels:\n          __metrics_path__: '{path}'\n          instance: '{instance}'\n"
        );
    }
    text
}

fn alertmanager_configuration(webhook: u16) -> String {
    format!(
        "route:\n  receiver: test\n  group_by: ['...']\n  group_wait: 0s\n  group_interval: 1s\n  repeat_interval: 1h\n\
         receivers:\n  - name: test\n    webhook_configs:\n      - url: 'http://127.0.0.1:{webhook}/'\n        send_resolved: true\n"
    )
}

/// Takes in a notification. One with an annotation that could not be filled in counts as another alert.
fn note(told: &Mutex<Told>, body: &[u8]) {
    let Ok(notification) = serde_json::from_slice::<Value>(body) else { return };
    for alert in notification["alerts"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let whole = ["summary", "description", "runbook"].iter().all(|name| {
            let text = text(&alert["annotations"][name]);
            !text.is_empty() && !text.contains("error expanding") && !text.contains("no value")
        });
        let name = text(&alert["labels"]["alertname"]);
        let name = if whole { name } else { format!("{name} with broken annotations") };
        let instance = text(&alert["labels"]["instance"]);
        told.lock().unwrap_or_else(PoisonError::into_inner).insert((text(&alert["status"]), name, instance));
    }
}
