//! What differs between two configurations, and what of it counts while the node runs.
//!
//! Owns: the judgement of every key. Does not: read files, apply anything.
//! Invariants: each key of the configuration is judged: taking the structures apart makes a new key a compile error here.

use std::collections::BTreeSet;

use crate::config::{
    AdminSettings, ClusterSettings, Config, LimitSettings, ListenerLimits, ListenerSettings, LogSettings,
    NodeSettings, StorageSettings, SysSettings, TelemetrySettings,
};

/// Keys that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// They count at once.
    pub applied: Vec<String>,
    /// They count at the next start.
    pub needs_restart: Vec<String>,
    /// They count at the first start of a cluster only.
    pub without_effect: Vec<String>,
}

/// Where the names of keys that differ are put.
#[derive(Clone, Copy)]
enum Kind {
    Live,
    Restart,
    Never,
}

impl Difference {
    fn note<T: PartialEq>(&mut self, kind: Kind, key: &str, old: &T, new: &T) {
        if old == new {
            return;
        }
        match kind {
            Kind::Live => self.applied.push(key.to_owned()),
            Kind::Restart => self.needs_restart.push(key.to_owned()),
            Kind::Never => self.without_effect.push(key.to_owned()),
        }
    }
}

/// The configuration that may be in force at once: `old`, with what counts live of `new`.
pub fn merge(old: &Config, new: &Config) -> (Config, Difference) {
    let Config { node, listeners, admin, peer, cluster, limits, storage, sys, log, telemetry } = new;
    let mut difference = Difference::default();
    let mut merged = old.clone();
    compare_node(&mut difference, &old.node, node);
    merged.listeners = merge_listeners(&mut difference, &old.listeners, listeners);
    merged.admin = merge_admin(&mut difference, &old.admin, admin);
    difference.note(Kind::Restart, "peer", &old.peer, peer);
    compare_cluster(&mut difference, &old.cluster, cluster);
    merged.limits = merge_limits(&mut difference, &old.limits, limits);
    merged.storage = merge_storage(&mut difference, &old.storage, storage);
    let SysSettings { interval } = sys;
    difference.note(Kind::Restart, "sys.interval", &old.sys.interval, interval);
    let TelemetrySettings { otlp_endpoint, sample_ratio } = telemetry;
    difference.note(Kind::Restart, "telemetry.otlp_endpoint", &old.telemetry.otlp_endpoint, otlp_endpoint);
    difference.note(Kind::Restart, "telemetry.sample_ratio", &old.telemetry.sample_ratio, sample_ratio);
    let LogSettings { format, level } = log;
    difference.note(Kind::Restart, "log.format", &old.log.format, format);
    difference.note(Kind::Live, "log.level", &old.log.level, level);
    merged.log.level.clone_from(level);
    (merged, difference)
}

fn compare_node(difference: &mut Difference, old: &NodeSettings, new: &NodeSettings) {
    let NodeSettings { name, data_dir, zone, stop_grace } = new;
    difference.note(Kind::Restart, "node.name", &old.name, name);
    difference.note(Kind::Restart, "node.data_dir", &old.data_dir, data_dir);
    difference.note(Kind::Restart, "node.zone", &old.zone, zone);
    difference.note(Kind::Restart, "node.stop_grace", &old.stop_grace, stop_grace);
}

fn merge_listeners(
    difference: &mut Difference,
    old: &[ListenerSettings],
    new: &[ListenerSettings],
) -> Vec<ListenerSettings> {
    let names = |listeners: &[ListenerSettings]| -> BTreeSet<String> {
        listeners.iter().map(|listener| listener.name.clone()).collect()
    };
    for name in names(old).symmetric_difference(&names(new)) {
        difference.needs_restart.push(format!("listeners.{name}"));
    }
    let find = |name: &str| new.iter().find(|listener| listener.name == name);
    let merge = |old: &ListenerSettings| match find(&old.name) {
        Some(new) => merge_listener(difference, old, new),
        None => old.clone(),
    };
    old.iter().map(merge).collect()
}

fn merge_listener(
    difference: &mut Difference,
    old: &ListenerSettings,
    new: &ListenerSettings,
) -> ListenerSettings {
    let ListenerSettings {
        name,
        kind,
        bind,
        insecure,
        socket_mode,
        tls,
        proxy,
        principal,
        limits,
        advertise,
    } = new;
    let key = |key: &str| format!("listeners.{name}.{key}");
    difference.note(Kind::Restart, &key("kind"), &old.kind, kind);
    difference.note(Kind::Restart, &key("bind"), &old.bind, bind);
    difference.note(Kind::Restart, &key("socket_mode"), &old.socket_mode, socket_mode);
    difference.note(Kind::Restart, &key("advertise"), &old.advertise, advertise);
    // It only says that somebody agrees.
    difference.note(Kind::Live, &key("insecure"), &old.insecure, insecure);
    let mut merged = ListenerSettings { insecure: *insecure, ..old.clone() };
    if old.kind == *kind {
        difference.note(Kind::Live, &key("tls"), &old.tls, tls);
        merged.tls.clone_from(tls);
        difference.note(Kind::Live, &key("principal"), &old.principal, principal);
        merged.principal = *principal;
    }
    difference.note(Kind::Live, &key("proxy"), &old.proxy, proxy);
    merged.proxy.clone_from(proxy);
    compare_listener_limits(difference, name, &old.limits, limits);
    merged.limits = limits.clone();
    merged
}

fn compare_listener_limits(
    difference: &mut Difference,
    listener: &str,
    old: &ListenerLimits,
    new: &ListenerLimits,
) {
    let ListenerLimits {
        connections_max,
        handshakes_max,
        handshakes_per_address_max,
        connect_rate,
        connect_rate_per_address,
        handshake_timeout,
        packet_bytes_max,
    } = new;
    let key = |key: &str| format!("listeners.{listener}.{key}");
    let live = Kind::Live;
    difference.note(live, &key("connections_max"), &old.connections_max, connections_max);
    difference.note(live, &key("handshakes_max"), &old.handshakes_max, handshakes_max);
    let (old_max, new_max) = (&old.handshakes_per_address_max, handshakes_per_address_max);
    difference.note(live, &key("handshakes_per_address_max"), old_max, new_max);
    difference.note(live, &key("connect_rate"), &old.connect_rate, connect_rate);
    let (old_rate, new_rate) = (&old.connect_rate_per_address, connect_rate_per_address);
    difference.note(live, &key("connect_rate_per_address"), old_rate, new_rate);
    difference.note(live, &key("handshake_timeout"), &old.handshake_timeout, handshake_timeout);
    difference.note(live, &key("packet_bytes_max"), &old.packet_bytes_max, packet_bytes_max);
}

fn merge_admin(difference: &mut Difference, old: &AdminSettings, new: &AdminSettings) -> AdminSettings {
    let AdminSettings { bind, insecure, token_file, host_names } = new;
    difference.note(Kind::Restart, "admin.bind", &old.bind, bind);
    difference.note(Kind::Live, "admin.insecure", &old.insecure, insecure);
    difference.note(Kind::Live, "admin.host_names", &old.host_names, host_names);
    let mut merged = AdminSettings {
        bind: old.bind,
        insecure: *insecure,
        token_file: None,
        host_names: host_names.clone(),
    };
    // The listener stays where it is until the restart: it must not be left there without the token that guards it.
    let agreed = *insecure && *bind == old.bind;
    let unguarded = token_file.is_none() && !agreed && !old.bind.ip().is_loopback();
    let kind = if unguarded { Kind::Restart } else { Kind::Live };
    difference.note(kind, "admin.token_file", &old.token_file, token_file);
    merged.token_file = if unguarded { old.token_file.clone() } else { token_file.clone() };
    merged
}

fn compare_cluster(difference: &mut Difference, old: &ClusterSettings, new: &ClusterSettings) {
    let ClusterSettings { name, partitions, bootstrap } = new;
    difference.note(Kind::Never, "cluster.name", &old.name, name);
    difference.note(Kind::Never, "cluster.partitions", &old.partitions, partitions);
    difference.note(Kind::Never, "cluster.bootstrap", &old.bootstrap, bootstrap);
}

/// What the replicas must agree on stays as the cluster began; the rest counts for connections that come.
fn merge_limits(difference: &mut Difference, old: &LimitSettings, new: &LimitSettings) -> LimitSettings {
    let LimitSettings {
        session_expiry_max,
        queue_messages_max,
        queue_bytes_max,
        inflight_max,
        receive_max,
        packet_bytes_max,
        topic_alias_max,
        subscriptions_max,
        keep_alive_max,
        connect_timeout,
        overflow,
        memory_bytes,
        anonymous,
    } = new;
    let never = Kind::Never;
    difference.note(never, "limits.session_expiry_max", &old.session_expiry_max, session_expiry_max);
    difference.note(never, "limits.queue_messages_max", &old.queue_messages_max, queue_messages_max);
    difference.note(never, "limits.queue_bytes_max", &old.queue_bytes_max, queue_bytes_max);
    difference.note(never, "limits.inflight_max", &old.inflight_max, inflight_max);
    difference.note(never, "limits.subscriptions_max", &old.subscriptions_max, subscriptions_max);
    difference.note(never, "limits.overflow", &old.overflow, overflow);
    difference.note(Kind::Restart, "limits.memory_bytes", &old.memory_bytes, memory_bytes);
    let live = Kind::Live;
    difference.note(live, "limits.receive_max", &old.receive_max, receive_max);
    difference.note(live, "limits.packet_bytes_max", &old.packet_bytes_max, packet_bytes_max);
    difference.note(live, "limits.topic_alias_max", &old.topic_alias_max, topic_alias_max);
    difference.note(live, "limits.keep_alive_max", &old.keep_alive_max, keep_alive_max);
    difference.note(live, "limits.connect_timeout", &old.connect_timeout, connect_timeout);
    difference.note(live, "limits.anonymous", &old.anonymous, anonymous);
    LimitSettings {
        session_expiry_max: old.session_expiry_max,
        queue_messages_max: old.queue_messages_max,
        queue_bytes_max: old.queue_bytes_max,
        inflight_max: old.inflight_max,
        subscriptions_max: old.subscriptions_max,
        overflow: old.overflow,
        memory_bytes: old.memory_bytes,
        ..new.clone()
    }
}

fn merge_storage(
    difference: &mut Difference,
    old: &StorageSettings,
    new: &StorageSettings,
) -> StorageSettings {
    let StorageSettings {
        segment_bytes,
        body_cache_bytes,
        log_bytes_target,
        disk_soft_bytes,
        disk_reserve_bytes,
        scrub_bytes_per_second,
    } = new;
    let (old_scrub, new_scrub) = (&old.scrub_bytes_per_second, scrub_bytes_per_second);
    difference.note(Kind::Restart, "storage.scrub_bytes_per_second", old_scrub, new_scrub);
    let (old_reserve, new_reserve) = (&old.disk_reserve_bytes, disk_reserve_bytes);
    difference.note(Kind::Restart, "storage.disk_reserve_bytes", old_reserve, new_reserve);
    difference.note(Kind::Restart, "storage.segment_bytes", &old.segment_bytes, segment_bytes);
    difference.note(Kind::Restart, "storage.body_cache_bytes", &old.body_cache_bytes, body_cache_bytes);
    difference.note(Kind::Restart, "storage.log_bytes_target", &old.log_bytes_target, log_bytes_target);
    difference.note(Kind::Live, "storage.disk_soft_bytes", &old.disk_soft_bytes, disk_soft_bytes);
    StorageSettings { disk_soft_bytes: *disk_soft_bytes, ..old.clone() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::parse;

    fn read(text: &str) -> Config {
        parse(Path::new("q.toml"), text).unwrap()
    }

    /// Checks what differs when `new` follows `old`: what counts at once, after a restart, and never.
    fn check(old: &str, new: &str, live: &[&str], restart: &[&str], never: &[&str]) -> Config {
        let (merged, difference) = merge(&read(old), &read(new));
        assert_eq!(difference.applied, live, "{new}");
        assert_eq!(difference.needs_restart, restart, "{new}");
        assert_eq!(difference.without_effect, never, "{new}");
        let (_, again) = merge(&merged, &read(new));
        assert_eq!((again.applied, again.needs_restart), (Vec::new(), difference.needs_restart), "{new}");
        merged
    }

    #[test]
    fn each_key_is_told_and_only_live_ones_are_taken() {
        check("", "", &[], &[], &[]);
        let merged = check(
            "",
            "[log]\nlevel = \"debug\"\nformat = \"json\"\n[node]\nname = \"n2\"\n[sys]\ninterval = \"1s\"\n",
            &["log.level"],
            &["node.name", "sys.interval", "log.format"],
            &[],
        );
        assert_eq!((merged.log.level.as_str(), merged.node.name.as_str()), ("debug", "n1"));
        let text = "[limits]\nreceive_max = 7\nanonymous = false\nqueue_messages_max = 9\nkeep_alive_max = \"60s\"\n";
        let live = ["limits.receive_max", "limits.keep_alive_max", "limits.anonymous"];
        let merged = check("", text, &live, &[], &["limits.queue_messages_max"]);
        assert_eq!((merged.limits.receive_max, merged.limits.queue_messages_max), (7, 10_000_000));
        check("", "[cluster]\npartitions = 3\n", &[], &[], &["cluster.partitions"]);
        check("", "[storage]\nbody_cache_bytes = \"1MiB\"\n", &[], &["storage.body_cache_bytes"], &[]);
        check("", "[limits]\nmemory_bytes = \"1GiB\"\n", &[], &["limits.memory_bytes"], &[]);
        let live = ["storage.disk_soft_bytes"];
        let merged = check("", "[storage]\ndisk_soft_bytes = \"1GiB\"\n", &live, &[], &[]);
        assert_eq!(merged.storage.disk_soft_bytes, 1 << 30);
    }

    #[test]
    fn listeners_are_compared_by_name() {
        let listener = |port: u16, keys: &str| format!("[[listener]]\nbind = \"127.0.0.1:{port}\"\n{keys}");
        let old = listener(1, "") + &listener(2, "name = \"b\"\n");
        let limits = "connections_max = 5\nhandshake_timeout = \"1s\"\nproxy_protocol = true\nproxy_trusted = [\"::1\"]\n";
        let new = listener(2, &format!("name = \"b\"\n{limits}")) + &listener(1, "");
        let live = ["listeners.b.proxy", "listeners.b.connections_max", "listeners.b.handshake_timeout"];
        let merged = check(&old, &new, &live, &[], &[]);
        assert_eq!(merged.listeners[1].limits.handshake_timeout, Duration::from_secs(1));
        let moved = listener(3, "") + &listener(4, "name = \"c\"\n");
        let restart = ["listeners.b", "listeners.c", "listeners.tcp.bind"];
        let merged = check(&old, &moved, &[], &restart, &[]);
        assert_eq!(merged.listeners, read(&old).listeners);
        let tls = |keys: &str| {
            listener(1, &format!("kind = \"tls\"\nname = \"t\"\ncert_file = \"c\"\nkey_file = \"k\"\n{keys}"))
        };
        check(&tls(""), &tls("tls_version_min = \"1.2\"\n"), &["listeners.t.tls"], &[], &[]);
        check(&listener(1, "name = \"t\"\n"), &tls(""), &[], &["listeners.t.kind"], &[]);
    }

    #[test]
    fn token_is_not_taken_from_a_listener_that_stays_reachable() {
        let guarded = "[admin]\nbind = \"0.0.0.0:9883\"\ntoken_file = \"token\"\n";
        let merged = check(guarded, "", &[], &["admin.bind", "admin.token_file"], &[]);
        assert!(merged.admin.token_file.is_some());
        let other = "[admin]\nbind = \"0.0.0.0:9883\"\ntoken_file = \"other\"\nhost_names = [\"a\"]\n";
        check(guarded, other, &["admin.host_names", "admin.token_file"], &[], &[]);
        let elsewhere = "[admin]\nbind = \"192.0.2.1:9883\"\ninsecure = true\n";
        let restart = ["admin.bind", "admin.token_file"];
        check(guarded, elsewhere, &["admin.insecure"], &restart, &[]);
        let consent = "[admin]\nbind = \"0.0.0.0:9883\"\ninsecure = true\n";
        check(guarded, consent, &["admin.insecure", "admin.token_file"], &[], &[]);
        check("[admin]\ntoken_file = \"token\"\n", "", &["admin.token_file"], &[], &[]);
    }
}
