//! Hosts and ports as operators write them. An IPv6 address must stand in brackets before a port, and may stand in
//! brackets anywhere.

/// Returns a host name or address without the brackets of an IPv6 address.
#[must_use]
pub fn bare_host(text: &str) -> &str {
    text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text)
}

/// Joins a host and a port in their usual text form: `[::1]:6380`, `10.0.0.1:6380`, `primary:6380`.
#[must_use]
pub fn with_port(host: &str, port: u16) -> String {
    let host = bare_host(host);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Splits `HOST:PORT` into the host, without brackets, and the port. Returns `None` if the text has another form. An
/// IPv6 address without brackets is refused, because the end of the address cannot be told from the port.
#[must_use]
pub fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = bare_host(host);
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let is_host = !bare.is_empty() && (bare != host || !host.contains(':')) && !bare.contains(['[', ']']);
    is_host.then_some((bare, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        for (text, host) in [("[::1]:6380", "::1"), ("10.0.0.1:6380", "10.0.0.1"), ("primary:6380", "primary")] {
            assert_eq!(host_and_port(text), Some((host, 6380)));
            assert_eq!(with_port(host, 6380), text);
        }
        for text in
            ["", "primary", ":6380", "[]:6380", "::1:6380", "[::1]", "primary:0", "primary:65536", "[::1:6380", "a:b"]
        {
            assert_eq!(host_and_port(text), None, "{text}");
        }
        assert_eq!((bare_host("[::1]"), bare_host("::1"), bare_host("host")), ("::1", "::1", "host"));
    }
}
