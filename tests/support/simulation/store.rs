//! The archive of a simulation: a directory or a real S3 server, with a proxy for each node that can inject faults.

use super::super::archive::Archive;
use super::super::faulty_s3::{Fault, FaultyS3, Mix};
use super::plan::{ArchiveFault, Plan};
use std::time::Duration;
use tempfile::TempDir;

/// The archive, directly and through the nodes' proxies.
pub(super) struct Store {
    /// The archive without a proxy, for checks.
    pub direct: Archive,
    /// The proxy of each node; empty if the archive is a directory.
    proxies: Vec<FaultyS3>,
    seed: u64,
    /// Whether the archive is slow, down or wrong at this moment.
    pub is_bad: bool,
}

impl Store {
    pub(super) fn new(plan: &Plan, root: &TempDir) -> Self {
        let direct = if plan.on_s3 { Archive::s3() } else { Archive::directory(&root.path().join("archive")) };
        let nodes = if plan.on_s3 { plan.replicas + 1 } else { 0 };
        let proxies = (0..nodes).map(|_| FaultyS3::start()).collect();
        Self { direct, proxies, seed: plan.seed, is_bad: false }
    }

    /// Returns the archive as the node of machine `number` reaches it.
    pub(super) fn of_node(&self, number: usize) -> Archive {
        self.proxies.get(number).map_or_else(|| self.direct.clone(), |proxy| proxy.to(&self.direct))
    }

    /// Makes the archive slow for one node.
    pub(super) fn slow_down_for(&mut self, number: usize) {
        let faults = [300, 900].map(|ms| Fault::Slow(Duration::from_millis(ms))).to_vec();
        if let Some(proxy) = self.proxies.get(number) {
            self.is_bad = true;
            proxy.mix(Mix { seed: self.seed, percent: 90, faults });
        }
    }

    /// Sets or removes a fault of the archive. A directory never has faults.
    pub(super) fn set(&mut self, fault: Option<ArchiveFault>) {
        self.is_bad = fault.is_some() && !self.proxies.is_empty();
        self.seed = self.seed.wrapping_add(1);
        let (percent, faults) = match fault {
            None => return self.proxies.iter().for_each(FaultyS3::heal),
            Some(ArchiveFault::Down) => return self.proxies.iter().for_each(|proxy| proxy.set_down(true)),
            Some(ArchiveFault::Errors) => {
                let slow_down = Fault::SlowDown { retry_after_s: 1 };
                (
                    40,
                    vec![
                        Fault::Status(500),
                        slow_down,
                        Fault::DropRequest,
                        Fault::LoseReply,
                        Fault::CutUpload,
                        Fault::CutBody,
                    ],
                )
            }
            Some(ArchiveFault::Slow) => (60, [50, 300, 900].map(|ms| Fault::Slow(Duration::from_millis(ms))).to_vec()),
            // The store's replies about an epoch's record decide which node may write, so these must not stay wrong.
            Some(ArchiveFault::Lies) => {
                (30, vec![Fault::Pretend, Fault::StoreHalf, Fault::StoreHalfLoseReply, Fault::FlipBit(977)])
            }
        };
        for proxy in &self.proxies {
            proxy.mix(Mix { seed: self.seed, percent, faults: faults.clone() });
        }
    }
}
