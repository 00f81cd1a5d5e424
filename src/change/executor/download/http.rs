//! One try over HTTP.

use std::net::{IpAddr, SocketAddr};

use ureq::Agent;
use ureq::Proxy;
use ureq::config::Config;
use ureq::http::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use ureq::http::{HeaderMap, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::{Known, Part, Patience, Trouble};
use crate::change::executor::command;
use crate::host::{Error, Result};

/// A client for this URL: certificates of the system, its proxy variables, no way from https to http.
pub fn agent(url: &str, patience: &Patience) -> Result<Agent> {
    let config = Config::builder()
        .http_status_as_error(false)
        .https_only(url.starts_with("https://"))
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .proxy(proxy(url)?)
        .user_agent(concat!("vfio-provision/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(patience.connect))
        .timeout_connect(Some(patience.connect))
        .timeout_per_read(Some(patience.stalled))
        .timeout_per_write(Some(patience.stalled))
        .timeout_recv_response(Some(patience.stalled))
        .build();
    Ok(Agent::with_parts(config, DefaultConnector::default(), Getent))
}

/// The proxy that the environment names for this URL's scheme, unless `NO_PROXY` excepts its host.
fn proxy(url: &str) -> Result<Option<Proxy>> {
    let uri: Uri = url.parse().map_err(|e| Error::parameters(format!("`{}` is not a URL: {e}", shown(url))))?;
    // curl(1): `http_proxy` is only read in lower case by many; here both count, the lower-case one first.
    let names: &[&str] = if url.starts_with("https://") {
        &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    } else {
        &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
    };
    let Some((name, value)) = names
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| (name, value)))
    else {
        return Ok(None);
    };
    if Proxy::try_from_env().is_some_and(|all| all.is_no_proxy(&uri)) {
        return Ok(None);
    }
    let proxy = Proxy::new(&value)
        .map_err(|e| Error::failed(format!("the variable {name} does not hold a proxy's URL: {e}")))?;
    Ok(Some(proxy))
}

/// One request, resumed where the part file ends.
pub fn once(part: &mut Part<'_>, agent: &Agent, progress: &mut dyn FnMut(&str)) -> std::result::Result<(), Trouble> {
    let known = part.known();
    let have = match known.validator() {
        Some(_) => part.length()?,
        None => 0,
    };
    if have == 0 {
        part.discard()?;
    }
    let mut request = agent.get(part.url).header(ACCEPT_ENCODING, "identity");
    if let (1.., Some(validator)) = (have, known.validator()) {
        request = request.header(RANGE, format!("bytes={have}-")).header(IF_RANGE, validator);
    }
    let response = request.call().map_err(|error| trouble(part.url, error))?;
    let headers = response.headers();
    let total = match response.status().as_u16() {
        206 if have > 0 && range_start(headers) == Some(have) => range_total(headers),
        // All that there is was here already; a server says so with 416 and the whole length.
        416 if have > 0 && range_total(headers) == Some(have) => return Ok(()),
        206 | 416 => {
            part.discard()?;
            let url = shown(part.url);
            return Err(Trouble::Passing(Error::failed(format!(
                "{url} sent another part than the one that was asked for"
            ))));
        }
        200 => {
            part.discard()?;
            part.remember(&Known {
                url: part.url.to_string(),
                etag: text(headers, &ETAG),
                last_modified: text(headers, &LAST_MODIFIED),
            })?;
            text(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok())
        }
        code => return Err(refusal(part.url, code, text(headers, &LOCATION))),
    };
    let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
    part.take(&mut body, total, progress)
}

fn text(headers: &HeaderMap, name: &ureq::http::HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_string)
}

/// RFC 9110, 14.4: `bytes 100-199/200`, or `bytes */200`.
fn range(headers: &HeaderMap) -> Option<(String, String)> {
    let value = text(headers, &CONTENT_RANGE)?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.trim().to_string(), total.trim().to_string()))
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    range(headers)?.0.split_once('-')?.0.parse().ok()
}

fn range_total(headers: &HeaderMap) -> Option<u64> {
    range(headers)?.1.parse().ok()
}

fn refusal(url: &str, code: u16, location: Option<String>) -> Trouble {
    let error = Error::failed(format!("{} answered with HTTP status {code}", shown(url)));
    match code {
        408 | 425 | 429 | 500..=599 => Trouble::Passing(error),
        401 | 403 | 407 => Trouble::Lasting(error.hint("the server wants a login, or this machine may not fetch it")),
        404 | 410 => Trouble::Lasting(error.hint("there is nothing at this address (any more)")),
        300..=399 => Trouble::Lasting(error.hint(format!("it points to {}", location.unwrap_or_default()))),
        _ => Trouble::Lasting(error),
    }
}

fn trouble(url: &str, error: ureq::Error) -> Trouble {
    use ureq::Error as U;
    let said = Error::failed(format!("can't fetch {}: {error}", shown(url)));
    match error {
        U::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => Trouble::Lasting(certificate(said)),
        U::HostNotFound => {
            Trouble::Passing(said.hint("is the name right, and does this machine's name resolution work?"))
        }
        U::Io(_) | U::Timeout(_) | U::ConnectionFailed | U::BodyStalled | U::Protocol(_) | U::ConnectProxyFailed(_) => {
            Trouble::Passing(said)
        }
        U::RequireHttpsOnly(_) => {
            Trouble::Lasting(said.hint("it redirects from https to plain http, which is not followed"))
        }
        U::Tls(_) | U::Rustls(_) => Trouble::Lasting(certificate(said)),
        _ => Trouble::Lasting(said),
    }
}

fn certificate(error: Error) -> Error {
    error.hint("the server's certificate is judged by this machine's ca-certificates and its clock")
}

/// Names are looked up as everything else on the machine does it.
#[derive(Debug)]
struct Getent;

impl Resolver for Getent {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().or(match uri.scheme_str() {
            Some("https") => Some(443),
            Some("http") => Some(80),
            _ => None,
        });
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if let (false, Some(port)) = (literal, port) {
            let mut found = self.empty();
            for address in command::addresses(host) {
                if found.try_push(SocketAddr::new(address, port)).is_err() {
                    break;
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        DefaultResolver::default().resolve(uri, config, timeout)
    }
}

/// The URL as it may be shown: without a password.
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_string() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest.get(..end).and_then(|authority| authority.rfind('@')) {
        Some(at) => format!("{scheme}://…{}", rest.get(at..).unwrap_or_default()),
        None => url.to_string(),
    }
}

/// `%20` and the like of a `file://` URL.
pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|code| code.iter().all(u8::is_ascii_hexdigit));
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown_and_escapes_are_read() {
        assert_eq!(shown("https://me:secret@x.org/a@b"), "https://…@x.org/a@b");
        assert_eq!(shown("https://x.org/a@b"), "https://x.org/a@b");
        assert_eq!(percent_decoded("/a%20b%"), "/a b%");
    }
}
