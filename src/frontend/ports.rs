//! EXPOSE: `80`, `80/udp`, `3000-3005`, and what older files say of the host's side, which has no effect.

/// A port range that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ports {
    /// `80/tcp`, one for each port.
    pub(super) ports: Vec<String>,
    /// It names an address or a port of the host.
    pub(super) names_host: bool,
    /// The protocol is not in lower case.
    pub(super) odd_protocol: bool,
}

/// Reads `[[address:]host:]port[-port][/protocol]`.
pub(super) fn parse(text: &str) -> Result<Ports, String> {
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, protocol)) => (rest, protocol),
        None => (text, ""),
    };
    let lower = protocol.to_lowercase();
    if !matches!(lower.as_str(), "" | "tcp" | "udp" | "sctp") {
        return Err(format!(
            "`{protocol}` is no protocol; there are tcp, udp and sctp"
        ));
    }
    let parts: Vec<&str> = rest.split(':').collect();
    let (container, host) = match parts.as_slice() {
        [container] => (*container, None),
        [host, container] => (*container, Some(("", *host))),
        [.., host, container] => {
            let address = &rest[..rest.len() - container.len() - host.len() - 2];
            (*container, Some((address, *host)))
        }
        [] => ("", None),
    };
    let (first, last) = range(container).ok_or_else(|| format!("`{container}` is no port"))?;
    if let Some((address, host)) = host {
        let address = address
            .strip_prefix('[')
            .and_then(|address| address.strip_suffix(']'))
            .unwrap_or(address);
        if !address.is_empty() && address.parse::<core::net::IpAddr>().is_err() {
            return Err(format!("`{address}` is no address"));
        }
        if !host.is_empty() {
            let (from, to) = range(host).ok_or_else(|| format!("`{host}` is no port"))?;
            if to - from != last - first && first != last {
                return Err(format!(
                    "the ranges `{host}` and `{container}` have different lengths"
                ));
            }
        }
    }
    let name = if lower.is_empty() { "tcp" } else { &lower };
    Ok(Ports {
        ports: (first..=last)
            .map(|port| format!("{port}/{name}"))
            .collect(),
        names_host: host.is_some(),
        odd_protocol: protocol != lower,
    })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let text = text.strip_prefix('+').unwrap_or(text);
        text.chars()
            .all(|c| c.is_ascii_digit())
            .then(|| text.parse().ok())
            .flatten()
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((first, last)) => port(first)
            .zip(port(last))
            .filter(|(first, last)| first <= last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_one_by_one() {
        for (text, ports) in [
            ("80", Some(vec!["80/tcp"])),
            ("80/UDP", Some(vec!["80/udp"])),
            ("3000-3002", Some(vec!["3000/tcp", "3001/tcp", "3002/tcp"])),
            ("8080:80", Some(vec!["80/tcp"])),
            ("127.0.0.1:8080:80/tcp", Some(vec!["80/tcp"])),
            ("[::1]:8080:80", Some(vec!["80/tcp"])),
            ("70000", None),
            ("80/icmp", None),
            ("3-1", None),
            ("", None),
        ] {
            let found = parse(text).ok().map(|found| found.ports);
            assert_eq!(
                found,
                ports.map(|ports| ports.into_iter().map(str::to_owned).collect()),
                "{text}"
            );
        }
    }
}
