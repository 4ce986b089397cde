//! The memory engines' hot paths: pushing and popping, sorted sets of a million members, cuts.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use walferry::engine::memory::{Entry, List, ListEncoder, ListOps, Memory, Zset};

const MEMBERS: u64 = 1_000_000;

/// Returns a generator of numbers below `bound` in an order that no cache can predict.
fn numbers(bound: u64) -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    }
}

fn member(number: u64) -> [u8; 14] {
    let mut name = *b"member:0000000";
    let mut rest = number;
    for digit in name[7..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    name
}

fn large_list() -> List {
    let mut list = List::new();
    (0..MEMBERS).for_each(|_| list.push_front(&[7; 100]));
    list
}

fn large_zset() -> Zset {
    let (mut zset, mut next) = (Zset::new(), numbers(1 << 40));
    for number in 0..MEMBERS {
        zset.insert(&member(number), next() as f64);
    }
    zset
}

fn lists(c: &mut Criterion) {
    let mut list = large_list();
    c.bench_function("list/push_front", |b| b.iter(|| list.push_front(black_box(&[7; 100]))));
    c.bench_function("list/push_front_pop_back", |b| {
        b.iter(|| {
            list.push_front(black_box(&[7; 100]));
            list.pop_back()
        });
    });
    let mut next = numbers(MEMBERS);
    c.bench_function("list/get", |b| b.iter(|| list.get(next()).map(<[u8]>::len)));
    c.bench_function("list/insert_remove", |b| {
        b.iter(|| {
            let at = next();
            list.insert(at, black_box(&[8; 100]));
            list.remove(at)
        });
    });
}

fn list_ops(c: &mut Criterion) {
    let (mut memory, mut buffer, mut next) = (Memory::new(), Vec::new(), numbers(10_000));
    c.bench_function("list/lpush_op_of_10k_keys", |b| {
        b.iter(|| {
            buffer.clear();
            let element: &[u8] = &[7; 100];
            ListEncoder::new(&mut buffer).push_front(&member(next()), [element].into_iter());
            ListOps::new(&buffer).try_for_each(|op| op?.apply(&mut memory.lists)).expect("a push fits");
        });
    });
}

fn zsets(c: &mut Criterion) {
    let mut zset = large_zset();
    println!("zset: {} bytes a member", zset.memory_bytes() / MEMBERS as usize);
    let (mut next, mut score) = (numbers(MEMBERS), numbers(1 << 40));
    c.bench_function("zset/score", |b| b.iter(|| zset.score(&member(next()))));
    c.bench_function("zset/rank", |b| b.iter(|| zset.rank(&member(next()))));
    c.bench_function("zset/change_score", |b| b.iter(|| zset.insert(&member(next()), score() as f64)));
    let mut fresh = MEMBERS;
    c.bench_function("zset/add_remove", |b| {
        b.iter(|| {
            fresh = (fresh + 1) % 10_000_000;
            zset.insert(&member(fresh), score() as f64);
            zset.remove(&member(next()))
        });
    });
    c.bench_function("zset/range_of_100", |b| {
        b.iter(|| zset.iter_from(next()).take(100).map(|(_, score)| score).sum::<f64>());
    });
}

fn cuts(c: &mut Criterion) {
    let mut memory = Memory::new();
    for number in 0..MEMBERS {
        let mut value = List::new();
        value.push_back(b"value");
        memory.lists.insert(&member(number), Entry { value, expire_ms: 0 });
    }
    println!("dictionary: {} bytes a key", memory.memory_bytes() / MEMBERS as usize);
    let mut next = numbers(MEMBERS);
    c.bench_function("dictionary/get", |b| b.iter(|| memory.lists.get(&member(next())).map(|e| e.value.len())));
    c.bench_function("dictionary/cut", |b| b.iter(|| memory.cut()));
    c.bench_function("dictionary/first_write_after_cut", |b| {
        b.iter_batched(
            || (),
            |()| {
                let cut = memory.cut();
                memory.lists.update(&member(next()), |list| list.push_back(b"more"));
                cut
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, lists, list_ops, zsets, cuts);
criterion_main!(benches);
