//! Where tokens come from (distribution's token and oauth2 specifications).

use serde::Deserialize;

use super::challenge::Challenge;
use super::credentials::Credentials;
use crate::net::{self, Authorization, Client, Method, Payload, Persistence, Question};

/// The most that an answer may have.
const LIMIT_BYTES: u64 = 1 << 20;

/// What a token is for: `repository:NAME:pull,push`.
pub(super) type Scope = String;

/// Why there is no token.
pub(super) enum NoToken {
    /// Whoever makes them says no.
    Denied(String),
    /// What the registry says of it must not be followed, or makes no sense.
    Refused(String),
    /// It cannot be asked.
    Net(net::Error),
}

/// Gets a token of those that a challenge names. `registry` is the address of who asks for it.
pub(super) fn get(
    client: &Client<'_>,
    registry: &str,
    challenge: &Challenge,
    scopes: &[Scope],
    credentials: Option<&Credentials>,
) -> Result<Authorization, NoToken> {
    let Challenge::Bearer { realm, service } = challenge else {
        return Err(NoToken::Refused("it wants no token".to_owned()));
    };
    allowed(registry, realm)?;
    let mut fields: Vec<(&str, &str)> = Vec::new();
    fields.extend(service.as_deref().map(|service| ("service", service)));
    let joined = scopes.join(" ");
    let headers = [("accept", "application/json".to_owned())];
    let mut question = Question {
        method: Method::Get,
        url: realm,
        headers: &headers,
        authorization: None,
        body: Payload::Nothing,
        limit_bytes: LIMIT_BYTES,
        patience: Persistence::AsSet,
    };
    let (url, form, basic);
    match credentials {
        Some(Credentials::Identity(token)) => {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "shmocker"),
                ("refresh_token", token.expose()),
                ("scope", &joined),
            ]);
            form = encoded(&fields);
            question.method = Method::Post;
            question.body = Payload::Bytes("application/x-www-form-urlencoded", form.as_bytes());
        }
        known => {
            if let Some(Credentials::Password { user, password }) = known {
                fields.push(("account", user));
                basic = Authorization::basic(user, password.expose());
                question.authorization = Some(&basic);
            }
            fields.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
            let joint = if realm.contains('?') { '&' } else { '?' };
            url = format!("{realm}{joint}{}", encoded(&fields));
            question.url = &url;
        }
    }
    let answer = client.ask(&question).map_err(NoToken::Net)?;
    match answer.status {
        200 => {}
        401 | 403 => return Err(NoToken::Denied(super::error::reasons(&answer.body))),
        _ => return Err(NoToken::Net(answer.into_error())),
    }
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let is_token =
        |token: &String| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    serde_json::from_slice::<Answer>(&answer.body)
        .ok()
        .and_then(|answer| {
            answer
                .token
                .filter(is_token)
                .or(answer.access_token.filter(is_token))
        })
        .map(|token| Authorization::bearer(&token))
        .ok_or_else(|| {
            let realm = net::redacted(realm);
            NoToken::Refused(format!("{realm} answers without a token"))
        })
}

/// A registry must not send a password where it could not have asked for it itself.
fn allowed(registry: &str, realm: &str) -> Result<(), NoToken> {
    let refused = |why: &str| {
        let realm = net::redacted(realm);
        Err(NoToken::Refused(format!(
            "its tokens are made at {realm}, and {why}"
        )))
    };
    if !realm.starts_with("https://") && !realm.starts_with("http://") {
        return refused("only http and https are spoken");
    }
    if registry.starts_with("https://") && !realm.starts_with("https://") {
        return refused("that leaves https for http");
    }
    if net::is_own_address(realm) && !net::is_own_address(registry) {
        return refused("that is this machine or its own network link");
    }
    if realm.starts_with("http://")
        && !net::is_own_address(realm)
        && net::host(realm) != net::host(registry)
    {
        return refused("that is another host, over plain http");
    }
    Ok(())
}

/// `a=b&c=d`, with everything escaped that could mean something.
fn encoded(fields: &[(&str, &str)]) -> String {
    let escaped = |text: &str| {
        let mut out = String::new();
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z'
                | b'A'..=b'Z'
                | b'0'..=b'9'
                | b'-'
                | b'.'
                | b'_'
                | b'~'
                | b':'
                | b'/' => {
                    out.push(char::from(byte));
                }
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    let pairs = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_is_not_followed_to_where_a_password_must_not_go() {
        let is_allowed = |registry: &str, realm: &str| allowed(registry, realm).is_ok();
        assert!(is_allowed("https://a.org", "https://auth.b.org/token"));
        assert!(is_allowed(
            "http://127.0.0.1:5000",
            "http://127.0.0.1:5001/token"
        ));
        assert!(is_allowed("http://a.lan", "http://a.lan:81/token"));
        assert!(!is_allowed("https://a.org", "http://a.org/token"));
        assert!(!is_allowed("https://a.org", "https://127.0.0.1/token"));
        assert!(!is_allowed(
            "https://a.org",
            "https://169.254.169.254/token"
        ));
        assert!(!is_allowed("http://a.lan", "http://b.lan/token"));
        assert!(!is_allowed("https://a.org", "file:///etc/passwd"));
    }

    #[test]
    fn what_is_sent_is_escaped() {
        assert_eq!(
            encoded(&[("a", "x y&z"), ("b", "repository:x/y:pull")]),
            "a=x%20y%26z&b=repository:x/y:pull"
        );
    }
}
