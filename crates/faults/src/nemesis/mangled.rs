//! Packets to a node wait: all for about as long, or each for another time, so that they overtake each other.
//!
//! Owns: the program that lets them wait, see [`crate::mangle`]. Proof: what it says of how many waited and were overtaken.
//! Does not: lose packets, but for those that wait when it ends.
//! Limits: the nodes must be in networks of their own; iptables with the target NFQUEUE.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quorate_tests::wait_for;

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::mangle::{Manner, QUEUE};
use crate::random::Random;
use crate::{machine, network};

/// The nemesis.
pub struct Mangled {
    ordered: bool,
    victim: usize,
    program: Option<Child>,
}

impl Mangled {
    /// Latency of 50 to 500 ms with jitter.
    pub fn latency() -> Mangled {
        Mangled { ordered: true, victim: 0, program: None }
    }

    /// Packets overtake each other.
    pub fn reorder() -> Mangled {
        Mangled { ordered: false, victim: 0, program: None }
    }

    fn manner(&self, random: &mut Random) -> Manner {
        let ms = Duration::from_millis;
        if self.ordered {
            let least = random.between(ms(50), ms(400));
            Manner { least, most: least + random.between(ms(10), ms(100)), ordered: true }
        } else {
            Manner { least: ms(0), most: random.between(ms(5), ms(50)), ordered: false }
        }
    }
}

impl Nemesis for Mangled {
    fn name(&self) -> &'static str {
        if self.ordered { "latency" } else { "reorder" }
    }

    fn what(&self) -> &'static str {
        if self.ordered {
            "packets to a node wait for 50 to 500 ms, with jitter"
        } else {
            "packets to a node overtake each other, within 5 to 50 ms"
        }
    }

    fn lacking(&self) -> Option<String> {
        network::why_none().or_else(|| machine::missing(&["iptables"])).or_else(|| {
            let queues = std::path::Path::new("/proc/net/netfilter/nfnetlink_queue").exists();
            (!queues).then(|| "the kernel has no queues of packets (NFQUEUE)".to_owned())
        })
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(4), Duration::from_secs(20))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        self.victim = random.below(cluster.nodes.len());
        let network = cluster.network()?;
        let mut words = network.entrance(self.victim);
        words.push(std::env::current_exe()?.display().to_string());
        words.extend(self.manner(random).words());
        let (program, arguments) = words.split_first().context("the program is there")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let program = self.program.insert(command.spawn().context("start the program for packets")?);
        network.queue(self.victim, QUEUE)?;
        ensure!(program.try_wait()?.is_none(), "the program for packets has ended");
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        let mut program = self.program.take().context("the program for packets runs")?;
        drop(program.stdin.take());
        let ended = wait_for("the program for packets to end", || program.try_wait().ok().flatten());
        if ended.is_err() {
            let _ = program.kill();
            let _ = program.wait();
        }
        let mut said = String::new();
        program.stdout.take().context("what it says")?.read_to_string(&mut said)?;
        ensure!(ended?.success(), "the program for packets failed");
        let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        ensure!(numbers.first().is_some_and(|waited| *waited > 0), "no packet waited: {said}");
        let overtaken = numbers.get(1).is_some_and(|overtaken| *overtaken > 0);
        ensure!(self.ordered || overtaken, "no packet was overtaken: {said}");
        Ok(said.trim().to_owned())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.network()?.unqueue(self.victim)
    }
}

impl Drop for Mangled {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}
