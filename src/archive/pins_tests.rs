//! Pins, and the prunes that publishers wait for.

use super::super::testing::faults::{Fault, FaultStore};
use super::*;
use chrono::DateTime;

fn range(from: u64, until: u64) -> PinRange {
    PinRange { from: Csn(from), until: Csn(until), epoch: Some(Epoch(2)) }
}

#[tokio::test]
async fn a_pin_is_there_until_it_is_released_or_dropped() {
    let store = FaultStore::default();
    let archive = store.archive();
    let pin = Pin::take(&archive, "restore", PinRange::ALL).await.unwrap();
    pin.change(range(5, 9)).await.unwrap();
    let found = list(&archive).await.unwrap();
    let record = found[0].record.clone().unwrap();
    assert_eq!((record.purpose.as_str(), record.range), ("restore", range(5, 9)));
    assert!(record.id.starts_with("restore-") && !pin.has_lapsed());
    assert_eq!(record.expires.0 - record.renewed.0, PIN_HOLDS.as_micros() as u64);
    pin.release().await;
    assert!(list(&archive).await.unwrap().is_empty());
    drop(Pin::take(&archive, "restore", range(1, 2)).await.unwrap());
    while !list(&archive).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    store.script_puts([Fault::Deny]);
    assert!(Pin::take(&archive, "restore", range(1, 2)).await.is_err());
}

#[tokio::test]
async fn a_pin_is_renewed_while_it_lives() {
    let archive = FaultStore::default().archive();
    let holds = Duration::from_millis(30);
    let pin = Pin::take_for(&archive, "copy", range(1, 2), holds).await.unwrap();
    let first = list(&archive).await.unwrap()[0].record.clone().unwrap();
    loop {
        let record = list(&archive).await.unwrap()[0].record.clone().unwrap();
        if record.renewed > first.renewed {
            assert_eq!(record.created, first.created);
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pin.release().await;
}

#[test]
fn a_pin_is_over_only_by_both_clocks() {
    let record = |renewed: u64, expires: u64| PinRecord {
        format: ARCHIVE_FORMAT,
        id: "x".to_owned(),
        who: "n".to_owned(),
        purpose: "restore".to_owned(),
        range: range(1, 2),
        created: CommitTime(0),
        renewed: CommitTime(renewed),
        expires: CommitTime(expires),
    };
    let stored = |micros: i64| Stored { size: 1, modified: DateTime::from_timestamp_micros(micros).unwrap() };
    for (renewed, expires, modified, now, holds) in [
        (100, 110, 100, 105, true),
        (100, 110, 100, 111, false),
        // The clock of the pin's process is behind: the store's clock counts.
        (10, 20, 100, 105, true),
        (10, 20, 100, 111, false),
        // The clock of the pin's process is ahead.
        (200, 210, 100, 205, true),
    ] {
        assert_eq!(
            record(renewed, expires).holds(&stored(modified), CommitTime(now)),
            holds,
            "{renewed} {modified} {now}"
        );
    }
    let text = digested::encode(&record(1, 2));
    assert_eq!(digested::decode::<PinRecord>(&text, "x", ARCHIVE_FORMAT).unwrap(), record(1, 2));
}

#[tokio::test]
async fn a_publisher_waits_for_the_prunes_it_finds_and_for_no_other() {
    let store = FaultStore::default();
    let archive = store.archive();
    wait_for_prunes(&archive).await.unwrap();
    let reader = Pin::take(&archive, "restore", PinRange::ALL).await.unwrap();
    wait_for_prunes(&archive).await.unwrap();
    let prune = Pin::take(&archive, PRUNE, PinRange::NOTHING).await.unwrap();
    let waiting = {
        let archive = archive.clone();
        tokio::spawn(async move { wait_for_prunes(&archive).await })
    };
    tokio::time::sleep(PRUNE_LOOK / 5).await;
    assert!(!waiting.is_finished());
    // A prune whose renewal was cut off is waited for, too.
    store.script_puts([Fault::Tear]);
    assert!(prune.change(PinRange::NOTHING).await.is_err());
    store.heal();
    assert!(list(&archive).await.unwrap().iter().any(|pin| pin.record.is_err()), "torn");
    tokio::time::sleep(PRUNE_LOOK * 2).await;
    assert!(!waiting.is_finished());
    // A prune that starts later is not waited for.
    let later = Pin::take(&archive, PRUNE, PinRange::NOTHING).await.unwrap();
    prune.release().await;
    waiting.await.unwrap().unwrap();
    later.release().await;
    reader.release().await;
}

/// Goal: a node has one pin for its prunes and ends it when it starts again; the pins of other nodes stay.
#[tokio::test]
async fn a_node_ends_what_its_prune_left() {
    let archive = FaultStore::default().archive();
    let own = Pin::take_for_prunes_of(&archive, "n1").await.unwrap();
    let other = Pin::take_for_prunes_of(&archive, "n2").await.unwrap();
    assert_eq!(own.name().to_string(), "pins/prune-n1.json");
    end_left_behind(&archive, "n1").await;
    let names: Vec<_> = list(&archive).await.unwrap().into_iter().map(|pin| pin.name.to_string()).collect();
    assert_eq!(names, ["prune-n2"]);
    drop(other);
    dropped_pins_end().await;
    assert_eq!(list(&archive).await.unwrap().len(), 0);
    own.release().await;
}
