//! Carries a prune out.
//!
//! Order: take a pin for the prune; read the listing; plan and check; write the record of what is thinned; sweep.
//! Guarantees: nothing is removed that the check did not pass. The commits of a pin taken
//! during the prune stay. A crash at any step leaves every promise restorable, and the next prune continues. Two
//! prunes at once remove the same objects. An identity without the right to delete removes nothing and reports it
//! once.

use super::check;
use super::material::Material;
use super::plan::{PrunePlan, plan};
use super::report::PruneReport;
use super::sweep::{Removal, sweep};
use crate::archive::layout::ObjectName;
use crate::archive::pins::{PRUNE, Pin, PinRange, ReadPin};
use crate::archive::retry_policy::is_denied;
use crate::archive::store::Archive;
use crate::clock;
use crate::csn::CommitTime;
use crate::error::{Error, Result};
use crate::keep::Keep;
use std::collections::HashSet;
use std::time::Duration;

/// Largest difference between this machine's clock and the store's clock.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// Options of a prune.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PruneOptions {
    /// The policy.
    pub keep: Keep,
    /// Least age at which an object that nothing refers to is removed.
    pub grace: Duration,
    /// Whether objects are removed; otherwise the prune only shows what it would remove.
    pub confirm: bool,
    /// The node that prunes by its schedule; `None` for a tool.
    pub node: Option<String>,
}

/// Prunes an archive, or shows what a prune would remove.
pub async fn prune(archive: &Archive, options: &PruneOptions) -> Result<PruneReport> {
    if !options.confirm {
        let (material, plan) = decide(archive, options).await?;
        return Ok(PruneReport::new(options.keep.to_string(), &material, &plan, false));
    }
    // The pin comes before the listing: a publisher whose manifest is not in the listing then sees the pin and waits.
    let pin = match &options.node {
        Some(node) => Pin::take_for_prunes_of(archive, node).await,
        None => Pin::take(archive, PRUNE, PinRange::NOTHING).await,
    };
    let pin = match pin {
        Ok(pin) => pin,
        Err(Error::Store { source, path, .. }) if is_denied(&source) => {
            let (material, plan) = decide(archive, options).await?;
            let mut report = PruneReport::new(options.keep.to_string(), &material, &plan, true);
            report.denied = Some(format!("this identity may not write {path}: {source}"));
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let pruned = prune_pinned(archive, options, &pin).await;
    pin.release().await;
    pruned
}

/// Reads the material, plans, and checks the plan.
async fn decide(archive: &Archive, options: &PruneOptions) -> Result<(Material, PrunePlan)> {
    let material = Material::read(archive, &options.keep, CommitTime(clock::now_micros())).await?;
    let keep = options.keep.clone();
    let grace = options.grace;
    let decided = tokio::task::spawn_blocking(move || {
        let plan = plan(&material, &keep, grace);
        let checked = check::check(&material, &plan);
        (material, plan, checked)
    });
    let (material, plan, checked) = decided.await.expect("planning does not panic");
    match checked {
        Ok(()) => Ok((material, plan)),
        Err(lost) => Err(Error::Defect {
            reason: format!("nothing was removed, because the plan would lose what the policy promises: {lost}"),
        }),
    }
}

async fn prune_pinned(archive: &Archive, options: &PruneOptions, pin: &Pin) -> Result<PruneReport> {
    let (material, plan) = decide(archive, options).await?;
    check_clock(&material, pin)?;
    let mut report = PruneReport::new(options.keep.to_string(), &material, &plan, true);
    if plan.thinned != material.thinned
        && plan.removals.iter().any(|removal| !matches!(removal.object, ObjectName::Pin(_) | ObjectName::Thinned(_)))
    {
        plan.thinned.write(archive).await?;
    }
    let mut spared = Spared { known: pin_names(&material.pins), material, options };
    let swept = sweep(archive, &plan.removals, |pins, batch| {
        if pin.has_lapsed() {
            let reason = "the prune has ended, because it took so long that its pin expired. Start it again".to_owned();
            return Err(Error::NotNow { reason });
        }
        Ok(spared.filter(pins, batch))
    })
    .await?;
    (report.removed, report.bytes_removed) = (swept.removed, swept.bytes);
    report.denied = swept.denied.map(|error| match error {
        Error::Store { source, path, .. } => format!("this identity may not delete {path}: {source}"),
        error => error.to_string(),
    });
    Ok(report)
}

/// Checks this machine's clock against the store's, because a wrong clock must not decide what is old.
fn check_clock(material: &Material, pin: &Pin) -> Result<()> {
    let ObjectName::Pin(name) = pin.name() else { unreachable!("a pin is a pin") };
    let Some(stored) = material.listing.pins.get(name) else { return Ok(()) };
    let store = stored.time();
    if Duration::from_micros(store.0.abs_diff(material.now.0)) <= CLOCK_SKEW_MAX {
        return Ok(());
    }
    Err(Error::ClockSkew { own: material.now, store })
}

fn pin_names(pins: &[ReadPin]) -> Vec<String> {
    pins.iter().map(|pin| pin.name.to_string()).collect()
}

/// Spares the objects that a pin taken during the prune names.
struct Spared<'o> {
    material: Material,
    known: Vec<String>,
    options: &'o PruneOptions,
}

impl Spared<'_> {
    /// Returns the batch without the objects that new pins name.
    fn filter(&mut self, pins: Vec<ReadPin>, batch: &[Removal]) -> Vec<Removal> {
        if pins.iter().all(|pin| self.known.contains(&pin.name.to_string())) {
            return batch.to_vec();
        }
        self.known = pin_names(&pins);
        self.material.pins = pins;
        let again = plan(&self.material, &self.options.keep, self.options.grace);
        let still: HashSet<&ObjectName> = again.removals.iter().map(|removal| &removal.object).collect();
        batch.iter().filter(|removal| still.contains(&removal.object)).cloned().collect()
    }
}
