//! Memory images: written and read as one, two and four files in parallel; the digests alone.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use walferry::csn::Csn;
use walferry::engine::memory::{Change, LargeValue, List, Memory, MemoryCut, Slot, ZsetBuilder};
use walferry::log::recovery::CutPoint;
use walferry::snapshot::image::{Contents, ImageParts, Share, read_images};

const LISTS: u64 = 200_000;
const ZSETS: u64 = 50_000;
const MEMBERS: u64 = 20;
const STRINGS: u64 = 200_000;
const SEEN: Change = Change { csn: Csn(1), hidden: None };

fn memory() -> Memory {
    let memory = Memory::new();
    for number in 0..STRINGS {
        let value = format!("{{\"id\":{number},\"city\":\"Reykjavik\"}}");
        memory.insert(Slot::string(format!("string:{number}").as_bytes(), 0, value.as_bytes()), SEEN);
    }
    for number in 0..LISTS {
        let mut value = List::new();
        for nth in 0..4 {
            value.push_back(format!("{{\"id\":{number},\"nth\":{nth},\"city\":\"Reykjavik\"}}").as_bytes());
        }
        memory.insert(Slot::large(format!("list:{number}").as_bytes(), 0, LargeValue::List(value)), SEEN);
    }
    for number in 0..ZSETS {
        let mut value = ZsetBuilder::default();
        for nth in 0..MEMBERS {
            assert!(value.push(format!("player:{number}:{nth}").as_bytes(), (number * nth) as f64));
        }
        let value = value.finish().expect("members differ");
        memory.insert(Slot::large(format!("zset:{number}").as_bytes(), 0, LargeValue::Zset(value)), SEEN);
    }
    memory
}

/// Writes a cut as `images` images in parallel.
fn write(cut: &MemoryCut, images: usize) -> Vec<Vec<Bytes>> {
    std::thread::scope(|scope| {
        let parts = |nth| ImageParts::new(cut, CutPoint::default(), Share { nth, of: images });
        let writers: Vec<_> = (0..images).map(|nth| scope.spawn(move || parts(nth).collect())).collect();
        writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
    })
}

fn images(criterion: &mut Criterion) {
    let cut = memory().cut();
    let bytes: usize = write(&cut, 1)[0].iter().map(Bytes::len).sum();
    println!("{} keys, {bytes} bytes as one image", cut.len());
    let mut group = criterion.benchmark_group("image");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(STRINGS + LISTS * 4 + ZSETS * MEMBERS));
    for images in [1, 2, 4] {
        group.bench_function(format!("write/{images} files"), |bencher| bencher.iter(|| write(&cut, images)));
        let written = write(&cut, images);
        group.bench_function(format!("read/{images} files"), |bencher| {
            bencher.iter(|| {
                let open = |nth: usize| written[nth].iter().cloned().map(Ok);
                read_images(images, |nth| nth.to_string(), open).expect("what was written")
            });
        });
    }
    group.bench_function("digests", |bencher| bencher.iter(|| Contents::of(&cut)));
    group.finish();
}

criterion_group!(benches, images);
criterion_main!(benches);
