//! Tests of the ops on sorted sets against a model.

use super::*;
use crate::csn::Csn;
use crate::engine::memory::Memory;
use crate::engine::memory::keys::Change as Commit;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SEEN: Commit = Commit { csn: Csn(1), hidden: None };

type Bytes = Vec<u8>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn zset_ops_have_their_effect(
        pairs in vec((vec(any::<u8>(), 0..12), -1e6..1e6), 1..200), removed in 0..200usize, start in 0..100u64,
    ) {
        let mut model: BTreeMap<Bytes, f64> = pairs.iter().cloned().collect();
        let gone: Vec<Bytes> = model.keys().take(removed).cloned().collect();
        let mut ops = Vec::new();
        let mut encoder = Encoder::new(&mut ops);
        encoder.set_scores(b"z", pairs.iter().map(|(member, score)| (member.as_slice(), *score)));
        encoder.expire(b"z", 77);
        encoder.rename(b"z", b"y");
        let memory = Memory::new();
        memory.apply(&ops, SEEN).expect("the ops fit");
        let cut = memory.cut();
        let before = model.len() as u64;
        if !gone.is_empty() {
            let mut ops = Vec::new();
            Encoder::new(&mut ops).remove_scored(b"y", gone.iter().map(Vec::as_slice));
            memory.apply(&ops, SEEN).expect("the members are there");
            model.retain(|member, _| !gone.contains(member));
        }
        let mut ops = Vec::new();
        Encoder::new(&mut ops).remove_ranks(b"y", start, start + 3);
        prop_assert_eq!(memory.apply(&ops, SEEN).is_ok(), start + 3 <= model.len() as u64);
        if start + 3 <= model.len() as u64 {
            let mut order: Vec<_> = model.clone().into_iter().collect();
            order.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            order[start as usize..][..3].iter().for_each(|(member, _)| assert!(model.remove(member).is_some()));
        }
        memory.check();
        match memory.get(b"y") {
            Some(slot) => {
                let zset = slot.as_zset().expect("a sorted set stays one");
                let found: BTreeMap<_, _> =
                    zset.iter_from(0).map(|(member, score)| (member.to_vec(), score)).collect();
                prop_assert_eq!((found, slot.expire_ms()), (model, 77));
            }
            None => prop_assert!(model.is_empty()),
        }
        let slot = cut.get(b"y").expect("the cut holds the set");
        prop_assert_eq!((slot.as_zset().map(Zset::len), cut.len()), (Some(before), 1));
    }
}
