//! The hot paths of the memory home: strings, hashes, pushing and popping, sorted sets of a million members, cuts.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use walferry::csn::Csn;
use walferry::engine::memory::{Change, Encoder, LargeValue, List, Memory, Slot, Zset};

const MEMBERS: u64 = 1_000_000;
const SEEN: Change = Change { csn: Csn(1), hidden: None };

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

fn ops(c: &mut Criterion) {
    let change = |c: &mut Criterion, name: &str, encode: fn(&mut Encoder<'_>, &[u8])| {
        let (memory, mut buffer, mut next) = (Memory::new(), Vec::new(), numbers(10_000));
        c.bench_function(name, |b| {
            b.iter(|| {
                buffer.clear();
                encode(&mut Encoder::new(&mut buffer), &member(next()));
                memory.apply(&buffer, SEEN).expect("the op fits");
            });
        });
    };
    change(c, "list/lpush_op_of_10k_keys", |ops, key| ops.push_front(key, [&[7; 100][..]].into_iter()));
    change(c, "string/set_op_of_10k_keys", |ops, key| ops.set_string(key, 0, &[7; 100]));
    change(c, "hash/hset_op_of_10k_keys", |ops, key| {
        ops.put_fields(key, [(&b"name"[..], &[7; 20][..]), (b"age", b"36")].into_iter());
    });
    change(c, "set/sadd_op_of_10k_keys", |ops, key| ops.add_members(key, [&key[7..], &b"one"[..]].into_iter()));
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
    let memory = Memory::new();
    for number in 0..MEMBERS {
        let mut list = List::new();
        list.push_back(b"value");
        memory.insert(Slot::large(&member(number), 0, LargeValue::List(list)), SEEN);
    }
    println!("keys: {} bytes a list of one element", memory.memory_bytes() / MEMBERS as usize);
    let strings = Memory::new();
    (0..MEMBERS).for_each(|number| strings.insert(Slot::string(&member(number), 0, b"value"), SEEN));
    println!("keys: {} bytes a string of five bytes", strings.memory_bytes() / MEMBERS as usize);
    let mut next = numbers(MEMBERS);
    let len = |slot: &Slot| slot.as_list().map(List::len);
    c.bench_function("keys/get", |b| b.iter(|| memory.get(&member(next())).map(|slot| len(&slot))));
    c.bench_function("keys/seen", |b| b.iter(|| memory.seen(&member(next())).slot.map(|slot| len(&slot))));
    c.bench_function("keys/cut", |b| b.iter(|| memory.cut()));
    let mut more = Vec::new();
    c.bench_function("keys/first_write_after_cut", |b| {
        b.iter_batched(
            || (),
            |()| {
                let cut = memory.cut();
                more.clear();
                Encoder::new(&mut more).push_back(&member(next()), [&b"more"[..]].into_iter());
                memory.apply(&more, SEEN).expect("a push fits");
                cut
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, lists, ops, zsets, cuts);
criterion_main!(benches);
