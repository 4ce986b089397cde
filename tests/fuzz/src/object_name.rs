//! Object names, which come from listings and from a primary that sends a base; a name becomes a path.

use super::{Target, nothing_to_repair};
use walferry::archive::layout::ObjectName;

pub(crate) const TARGET: Target = Target { name: "object_name", decode, check, repair: nothing_to_repair, seeds };

fn decode(data: &[u8]) -> usize {
    if let Ok(text) = std::str::from_utf8(data) {
        drop(ObjectName::parse(text));
    }
    0
}

fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(name) = ObjectName::parse(text) else { return };
    assert_eq!(name.to_string(), text, "a name has one form");
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\\']);
    assert!(text.split('/').all(is_plain), "{text:?} leads out of the archive");
}

fn seeds() -> Vec<Vec<u8>> {
    let names = [
        "walferry.json",
        "epochs/00000003.json",
        "chunks/00000003/00000000000000000001-00000000000000000042.chunk",
        "bases/00000000000000000042-00000003/manifest.json",
        "bases/00000000000000000042-00000003/memory-0123456789abcdef.image",
        "sst/af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262.sst",
        "marks/before-deploy.json",
    ];
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}
