//! RESP requests, which come from arbitrary clients.

use super::{Target, nothing_to_repair};
use walferry::command::args::{Args, OwnedArgs};
use walferry::server::frame::{Limits, Parsed, ProtocolError, Request, parse};

pub(crate) const TARGET: Target = Target { name: "resp", decode, check, repair: nothing_to_repair, seeds };

const SMALL: Limits = Limits {
    bulk_bytes_max: 64,
    args_max: 8,
    inline_bytes_max: 32,
    query_buffer_bytes_max: 256,
    reserve_bytes_max: 16,
    is_authenticated: true,
};

/// Returns the limits, the size of the steps in which the input arrives, and the input; the first byte chooses both.
fn setting(data: &[u8]) -> (Limits, usize, &[u8]) {
    let Some((&setting, input)) = data.split_first() else { return (SMALL, 1, &[]) };
    let limits = if setting & 1 == 0 { Limits::default() } else { SMALL };
    (Limits { is_authenticated: setting & 2 == 0, ..limits }, usize::from(setting >> 2) + 1, input)
}

/// Reads requests from input that arrives in steps; returns how the reading ended.
fn each_request(
    input: &[u8],
    limits: &Limits,
    step: usize,
    mut take: impl FnMut(Args<'_>),
) -> Result<usize, ProtocolError> {
    let (mut request, mut begin, mut end) = (Request::default(), 0, step.min(input.len()));
    loop {
        match parse(&input[begin..end], limits, &mut request)? {
            Parsed::Incomplete { needed } => {
                assert!((1..=limits.reserve_bytes_max).contains(&needed), "a hint of {needed}");
                if end == input.len() {
                    return Ok(begin);
                }
                end = end.saturating_add(step).min(input.len());
            }
            Parsed::Ignored { consumed } => begin += consumed,
            Parsed::Complete { consumed } => {
                take(request.args(&input[begin..end]));
                begin += consumed;
            }
        }
    }
}

fn decode(data: &[u8]) -> usize {
    let (limits, step, input) = setting(data);
    let _ = each_request(input, &limits, step, |_| {});
    0
}

fn check(data: &[u8]) {
    let (limits, step, input) = setting(data);
    let collect = |input: &[u8], limits: &Limits, step| {
        let mut found = Vec::new();
        let ended = each_request(input, limits, step, |args| found.push(OwnedArgs::from(args)));
        (found, ended)
    };
    let whole = collect(input, &limits, usize::MAX);
    assert!(collect(input, &limits, step) == whole, "steps of {step} bytes make a difference");
    let mut again = Vec::new();
    for args in &whole.0 {
        let args = args.as_args();
        assert!(!args.is_empty() && args.len() <= limits.args_max.max(input.len()), "{} arguments", args.len());
        again.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
        for argument in args.iter() {
            again.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            again.extend_from_slice(argument);
            again.extend_from_slice(b"\r\n");
        }
    }
    assert!(collect(&again, &Limits::default(), usize::MAX) == (whole.0, Ok(again.len())), "requests changed");
}

fn seeds() -> Vec<Vec<u8>> {
    let inputs: [&[u8]; 8] = [
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*1\r\n$4\r\nPING\r\n",
        b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n*0\r\n*-1\r\n\r\nPING\r\n",
        b"SET key 'quoted \\' value' \"\\x41\\n\\\"\"\r\nget key\n",
        b"*2\r\n$4\r\nAUTH\r\n$16385\r\n",
        b"*11\r\n$4\r\nMGET\r\n",
        b"*1048577\r\n",
        b"*1\r\n$536870912\r\nx",
        b"GET 'unbalanced\r\n",
    ];
    let settings = [0, 1, 2, 5].into_iter();
    settings.flat_map(|setting| inputs.map(|input| [&[setting], input].concat())).collect()
}
