//! XADD.

use super::super::args::Args;
use super::super::definition::{Ctx, Done};
use super::super::errors;
use super::super::reply::Out;
use super::id::{self, NewId};
use super::trim::Options;
use super::{entry, expect_stream};
use crate::engine::key::StreamId;
use crate::engine::meta::{Collection, DiskType};

/// XADD key [NOMKSTREAM] [MAXLEN|MINID [=|~] threshold [LIMIT count]] *|id field value [field value ...]
pub(crate) fn xadd(ctx: &mut Ctx<'_>, args: Args<'_>, out: &mut Out) -> Done {
    let key = args.get(1);
    let (options, id_at) = Options::parse(args, true)?;
    let new_id = args.try_get(id_at).map(NewId::parse).transpose()?;
    let trim = options.trim()?;
    let fields = args.from(id_at + 1).iter();
    let new_id = match new_id {
        Some(id) if fields.len() > 0 && fields.len().is_multiple_of(2) => id,
        _ => return Err(errors::wrong_arity("xadd").into()),
    };
    if new_id == NewId::Exactly(StreamId::MIN) {
        return Err(errors::STREAM_ID_ZERO.into());
    }

    // All arguments are checked before this line, because an expired stream is deleted here. For an absent or expired
    // stream no later step fails.
    let found = expect_stream(&ctx.keys.find_to_change(key)?)?;
    let mut stream = match found {
        Some(stream) => stream,
        None if options.makes_stream => Collection::new(DiskType::Stream, ctx.keys.new_generation()),
        None => {
            out.null();
            return Ok(());
        }
    };
    let id = new_id.after(stream.last_id, ctx.keys.now_ms)?;
    ctx.keys.put_entry(key, stream.generation, id, &entry::encode(fields));
    if stream.count == 0 {
        stream.first_id = id;
    }
    stream.count += 1;
    stream.last_id = id;
    if let Some(trim) = trim {
        trim.apply(&mut ctx.keys, key, &mut stream)?;
    }
    ctx.keys.put_collection(key, &stream)?;
    id::write(out, id);
    Ok(())
}
