//! Tests of the data directory.

use super::*;
use crate::io::testing::{FAULTS, each_step};

#[test]
fn a_directory_has_one_owner_and_keeps_its_identity() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::new(root.path());
    assert!(dir.is_empty().unwrap());
    let lock = dir.lock().unwrap();
    assert!(dir.is_empty().unwrap());
    assert!(dir.lock().unwrap_err().to_string().contains("in use"));
    drop(lock);
    dir.lock().unwrap();
    let mut identity = Identity::new(ClusterId([7; 16]), LastRole::Primary).unwrap();
    identity.begin_epoch(EpochStart::unhashed(Epoch(4), Csn(100)));
    dir.write_identity(&identity).unwrap();
    assert_eq!(dir.identity().unwrap(), Some(identity.clone()));
    assert_eq!(identity.shared_until(Epoch(1)), Some(Csn(100)));
    assert_eq!(identity.shared_until(Epoch(2)), None);
    assert_eq!(identity.shared_until(Epoch(4)), Some(Csn(u64::MAX)));
}

/// Goal: whichever step of replacing the identity fails, the directory has the old identity or the new one, and a
/// new directory either stays empty or belongs to this node.
#[test]
fn the_identity_is_replaced_as_a_whole_or_not_at_all() {
    let old = Identity::new(ClusterId([7; 16]), LastRole::Primary).unwrap();
    let new = Identity { role: LastRole::Replica, ..old.clone() };
    each_step(&FAULTS, |case| {
        for before in [None, Some(&old)] {
            let root = tempfile::tempdir().unwrap();
            let dir = DataDir::new(root.path());
            let _lock = dir.lock().unwrap();
            before.map_or(Ok(()), |old| dir.write_identity(old)).unwrap();
            let replaced = dir.replace_identity(&*case.io, &new);
            let found = dir.identity().unwrap();
            assert!(found.as_ref() == before || found.as_ref() == Some(&new));
            assert!(replaced.is_err() || found.as_ref() == Some(&new));
            assert_eq!(found.is_none(), dir.is_empty().unwrap());
            dir.write_identity(&new).unwrap();
            assert_eq!(dir.identity().unwrap().as_ref(), Some(&new));
        }
    });
}

#[test]
fn a_replica_follows_only_a_history_that_made_its_commits() {
    let history = |starts: &[(u32, u64)]| -> Vec<EpochStart> {
        starts.iter().map(|&(epoch, fork)| EpochStart::unhashed(Epoch(epoch), Csn(fork))).collect()
    };
    let mut identity = Identity::new(ClusterId([7; 16]), LastRole::Replica).unwrap();
    identity.history = history(&[(1, 0), (3, 100)]);
    for (starts, csn) in [
        (&[(1, 0), (3, 100)][..], 150),
        (&[(1, 0), (3, 100), (4, 150)], 150),
        // Epoch 2 made no commits, so a restore leaves it out.
        (&[(1, 0), (2, 100), (3, 100)], 150),
        (&[(1, 0), (4, 100)], 100),
        (&[(9, 0)], 0),
    ] {
        assert_eq!(identity.fault_in(&history(starts), Csn(csn)), None, "{starts:?}");
    }
    for (starts, csn, reason) in [
        (&[][..], 0, "no epoch"),
        (&[(3, 100), (1, 0)], 0, "do not follow"),
        (&[(1, 0), (3, 100), (4, 90)], 0, "do not follow"),
        (&[(1, 0)], 90, "knows epoch 3"),
        (&[(1, 0), (4, 149)], 150, "belong to"),
        (&[(1, 0), (3, 100), (4, 149)], 150, "belong to"),
        (&[(2, 0), (3, 100)], 150, "belong to"),
    ] {
        let fault = identity.fault_in(&history(starts), Csn(csn)).expect(reason);
        assert!(fault.contains(reason), "{starts:?}: {fault}");
    }
}

#[test]
fn an_unfinished_restore_is_never_opened() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::new(root.path());
    dir.begin_restore().unwrap();
    assert!(dir.identity().unwrap_err().to_string().contains("unfinished restore"));
    dir.end_restore().unwrap();
    assert_eq!(dir.identity().unwrap(), None);
}

#[test]
fn a_fresh_volume_is_an_empty_directory() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::new(root.path());
    let lost = root.path().join("lost+found");
    std::fs::create_dir(&lost).unwrap();
    assert!(dir.is_empty().unwrap());
    std::fs::write(root.path().join("other"), "x").unwrap();
    assert!(!dir.is_empty().unwrap());
    dir.clear().unwrap();
    assert!(dir.is_empty().unwrap() && lost.exists());
    std::fs::remove_dir(&lost).unwrap();
    std::fs::write(&lost, "a file").unwrap();
    assert!(!dir.is_empty().unwrap(), "no volume has a file of that name");
}

#[test]
fn an_abandoned_restore_leaves_an_empty_directory() {
    let root = tempfile::tempdir().unwrap();
    let dir = DataDir::new(root.path());
    std::fs::create_dir(dir.db()).unwrap();
    dir.abandon_restore().unwrap();
    assert!(dir.db().exists(), "only a restore is abandoned");
    dir.begin_restore().unwrap();
    std::fs::write(root.path().join("walferry.json"), "half").unwrap();
    let lock = dir.lock().unwrap();
    dir.abandon_restore().unwrap_err();
    assert!(dir.db().exists(), "somebody is at work");
    drop(lock);
    dir.abandon_restore().unwrap();
    assert!(dir.is_empty().unwrap() && dir.identity().unwrap().is_none());
}
