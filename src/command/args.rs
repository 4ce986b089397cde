//! The arguments of one request, including the command's name. [`Args`] is a view of bytes that lie elsewhere, usually
//! in the read buffer. [`OwnedArgs`] keeps a request beyond its buffer; MULTI queues those.
//!
//! Guarantees: a view is `Copy` and never allocates; the arguments of an owned request lie in one allocation. Parsing,
//! arity checks and the meaning of arguments are not done here.

use std::fmt;
use std::ops::Index;

/// Place of one argument in the bytes that hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

/// View of a request's arguments. Argument 0 is the command's name as the client wrote it.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// Makes the view of `spans` in `bytes`. A span outside `bytes` panics when it is read, not here.
    #[must_use]
    pub fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Self { bytes, spans }
    }

    /// Returns the number of arguments, including the name.
    #[must_use]
    pub fn len(self) -> usize {
        self.spans.len()
    }

    /// Reports whether there is no argument.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.spans.is_empty()
    }

    /// Returns argument `index`, which lives as long as the bytes (`args[index]` lives only as long as the view).
    /// Panics beyond the last argument; the caller has checked the arity.
    #[must_use]
    pub fn get(self, index: usize) -> &'a [u8] {
        let span = self.spans[index];
        &self.bytes[span.start..span.end]
    }

    /// Returns argument `index`, or `None` beyond the last.
    #[must_use]
    pub fn try_get(self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| &self.bytes[span.start..span.end])
    }

    /// Returns the arguments from `first` on; none if there are fewer than `first`.
    #[must_use]
    pub fn from(self, first: usize) -> Self {
        Self { bytes: self.bytes, spans: self.spans.get(first..).unwrap_or_default() }
    }

    /// Returns the arguments in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone + use<'a> {
        let Self { bytes, spans } = self;
        spans.iter().map(move |span| &bytes[span.start..span.end])
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    fn index(&self, index: usize) -> &[u8] {
        self.get(index)
    }
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|arg| arg.escape_ascii().to_string())).finish()
    }
}

/// A request's arguments together with their bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OwnedArgs {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl OwnedArgs {
    /// Returns the view that commands take.
    #[must_use]
    pub fn as_args(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.spans)
    }

    /// Returns the bytes of all arguments, including the name, for limits on queued requests.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

impl From<Args<'_>> for OwnedArgs {
    fn from(args: Args<'_>) -> Self {
        let total = args.iter().map(<[u8]>::len).sum();
        let mut owned = Self { bytes: Vec::with_capacity(total), spans: Vec::with_capacity(args.len()) };
        owned.extend(args.iter());
        owned
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for OwnedArgs {
    fn from_iter<I: IntoIterator<Item = T>>(args: I) -> Self {
        let mut owned = Self::default();
        owned.extend(args);
        owned
    }
}

impl<T: AsRef<[u8]>> Extend<T> for OwnedArgs {
    fn extend<I: IntoIterator<Item = T>>(&mut self, args: I) {
        for arg in args {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(arg.as_ref());
            self.spans.push(Span { start, end: self.bytes.len() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_and_owned_requests_show_the_same_arguments() {
        let owned: OwnedArgs = ["SET", "", "value"].into_iter().collect();
        let args = owned.as_args();
        assert_eq!((args.len(), &args[0], &args[1], args.get(2)), (3, &b"SET"[..], &b""[..], &b"value"[..]));
        assert_eq!((args.try_get(2), args.try_get(3)), (Some(&b"value"[..]), None));
        assert_eq!(args.from(1).iter().collect::<Vec<_>>(), [&b""[..], b"value"]);
        assert!(args.from(3).is_empty() && args.from(9).is_empty());
        assert_eq!(OwnedArgs::from(args), owned);
        let tail = OwnedArgs::from(args.from(2));
        assert_eq!((tail.as_args().len(), tail.byte_len(), &tail.as_args()[0]), (1, 5, &b"value"[..]));
        assert_eq!(format!("{args:?}"), r#"["SET", "", "value"]"#);
    }
}
