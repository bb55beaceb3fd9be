//! What a `postgres://` address says: libpq's syntax, read strictly, the parameters of TLS taken out
//! of it. The client knows only some of them, and neither its errors nor ours may tell a password.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use percent_encoding::{
    AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode,
};
use postgres::Config;
use postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};

use super::tls::{Mode, Roots, Tls};

/// Parameters that the client understands.
const CLIENT: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// Parameters that are read here.
const OURS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/// In a value of the query, these stand for something else.
const RESERVED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'&').add(b'#').add(b'+');

/// An address that has been read. `Debug` hides the password, as the client's does.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub config: Config,
    pub tls: Tls,
    /// Names of the parameters that were given.
    given: Vec<String>,
}

/// The text in its parts. Nothing of it is shown in an error except a parameter's name.
struct Parts<'a> {
    /// Everything before the question mark.
    front: &'a str,
    query: Vec<(Cow<'a, str>, &'a str)>,
}

fn split(url: &str) -> Result<Parts<'_>, String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    // The client would take everything before the first @ for the login, wherever it stands.
    if tail.contains('@') || authority.matches('@').count() > 1 {
        let text = "a database address has one @, between login and host: write an @ elsewhere as \
                    %40, and / as %2F, ? as %3F in a password";
        return Err(text.to_owned());
    }
    let front = url.split_once('?').map_or(url, |(front, _)| front);
    let query = tail.split_once('?').map_or("", |(_, query)| query);
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            "a parameter of the database address has no value: write name=value&name=value"
                .to_owned()
        })?;
        let name = decode(name)?;
        if !CLIENT.contains(&&*name) && !OURS.contains(&&*name) {
            return Err(format!(
                "the database address has the parameter {}, which is not supported; known are {}, {}",
                name.escape_debug().take(40).collect::<String>(),
                OURS.join(", "),
                CLIENT.join(", ")
            ));
        }
        pairs.push((name, value));
    }
    Ok(Parts {
        front,
        query: pairs,
    })
}

fn decode(text: &str) -> Result<Cow<'_, str>, String> {
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| "the database address is not UTF-8 once %xx is decoded".to_owned())
}

/// The same address with the names of files relative to `base` made absolute.
///
/// # Errors
/// A text that says what is wrong and what to write.
pub(crate) fn absolute(url: &str, base: &Path) -> Result<String, String> {
    let parts = split(url)?;
    let mut text = parts.front.to_owned();
    for (i, (name, value)) in parts.query.iter().enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        let is_file = match &**name {
            "sslrootcert" => *value != "system",
            "sslcert" | "sslkey" => true,
            _ => false,
        };
        if is_file && !value.is_empty() {
            let path = base.join(&*decode(value)?);
            let path = path
                .to_str()
                .ok_or_else(|| format!("the path of {name} is not UTF-8"))?;
            text.extend(utf8_percent_encode(path, RESERVED));
        } else {
            text.push_str(value);
        }
    }
    Address::parse(&text)?;
    Ok(text)
}

/// The address for another role; the old one's password is left out.
pub(crate) fn with_login(url: &str, user: &str, password: Option<&str>) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let (front, query) = place.split_once('?').unwrap_or((place, ""));
    let mut login = utf8_percent_encode(user, NON_ALPHANUMERIC).to_string();
    if let Some(password) = password {
        login.push(':');
        login.extend(utf8_percent_encode(password, NON_ALPHANUMERIC));
    }
    let others = query.split('&').filter(|pair| {
        let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
        !pair.is_empty() && name != "user" && name != "password"
    });
    let others: Vec<_> = others.collect();
    let mark = if others.is_empty() { "" } else { "?" };
    format!("{scheme}://{login}@{front}{mark}{}", others.join("&"))
}

impl Address {
    /// Reads an address whose files have absolute names.
    ///
    /// # Errors
    /// A text that says what is wrong and what to write, without a password.
    pub fn parse(url: &str) -> Result<Self, String> {
        let parts = split(url)?;
        let mut text = parts.front.to_owned();
        let mut given = Vec::new();
        let (mut mode, mut roots, mut certificate, mut key) = (None, None, None, None);
        for (name, value) in &parts.query {
            match &**name {
                "sslmode" => mode = Some(Mode::parse(&decode(value)?)?),
                "sslrootcert" => roots = Some(Roots::parse(&decode(value)?)),
                "sslcert" => certificate = Some(decode(value)?.into_owned().into()),
                "sslkey" => key = Some(decode(value)?.into_owned().into()),
                _ => {
                    text.push(if given.is_empty() { '?' } else { '&' });
                    text.push_str(name);
                    text.push('=');
                    text.push_str(value);
                    given.push(name.clone().into_owned());
                }
            }
        }
        let mut config: Config = text.parse().map_err(|e: postgres::Error| {
            let why =
                std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            format!("the database address cannot be read: {why}")
        })?;
        let hosts = config.get_hosts();
        let is_unix = |host: &Host| !matches!(host, Host::Tcp(_));
        // The client goes to hostaddr where there is one, and takes host for a name only.
        let has_addresses = !config.get_hostaddrs().is_empty();
        let local = !has_addresses && !hosts.is_empty() && hosts.iter().all(is_unix);
        let tls = Tls::new(mode, roots, certificate, key, local)?;
        if !local && tls.mode.is_required() && hosts.iter().any(is_unix) {
            let why = if has_addresses {
                "the database address has a hostaddr and, as its host, a socket of this machine, which no certificate names: write the server's name as host"
            } else {
                "the database address mixes sockets of this machine, which have no TLS, with hosts for which sslmode demands it: write two addresses, or only one kind"
            };
            return Err(why.to_owned());
        }
        let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
        if direct && !tls.mode.is_required() {
            return Err("sslnegotiation=direct needs sslmode=require or stricter".to_owned());
        }
        if config.get_channel_binding() == ChannelBinding::Require && tls.mode == Mode::Disable {
            return Err(
                "channel_binding=require needs TLS: write sslmode=verify-full as well".to_owned(),
            );
        }
        // What the attempts set; never what an address without TLS could fall back to.
        config.ssl_mode(SslMode::Disable);
        Ok(Self { config, tls, given })
    }

    /// Sets what keeps a dead connection from lasting, unless the address says otherwise.
    pub fn deadlines(&mut self, connect: Duration, unacknowledged: Option<Duration>) {
        let given = |name: &str| self.given.iter().any(|given| given == name);
        let wanted = self.config.get_connect_timeout().copied();
        self.config
            .connect_timeout(wanted.map_or(connect, |wanted| wanted.min(connect)));
        if let Some(unacknowledged) = unacknowledged
            && !given("tcp_user_timeout")
        {
            self.config.tcp_user_timeout(unacknowledged);
        }
        if !given("keepalives_idle") {
            self.config.keepalives_idle(Duration::from_secs(15));
        }
        if !given("keepalives_interval") {
            self.config.keepalives_interval(Duration::from_secs(5));
        }
        if !given("keepalives_retries") {
            self.config.keepalives_retries(3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Address, String> {
        Address::parse(&format!("postgres://u:s3cret@db.example/na{query}"))
    }

    #[test]
    fn modes_mean_what_libpq_says() {
        let mode = |query| read(query).map(|a| a.tls.mode).expect(query);
        assert_eq!(mode(""), Mode::Prefer);
        assert_eq!(mode("?sslmode=disable"), Mode::Disable);
        assert_eq!(mode("?sslmode=allow"), Mode::Allow);
        assert_eq!(mode("?sslmode=require"), Mode::Require);
        assert_eq!(mode("?sslmode=require&sslrootcert=/ca"), Mode::VerifyCa);
        assert_eq!(
            mode("?sslmode=verify-full&sslrootcert=/ca"),
            Mode::VerifyFull
        );
        assert_eq!(mode("?sslrootcert=system"), Mode::VerifyFull);
        let local = Address::parse("postgres:///na?host=/run/pg&sslmode=verify-full&user=a");
        assert_eq!(local.expect("valid").tls.mode, Mode::Disable);
        // The client goes to hostaddr, which is no socket of this machine.
        let remote = "postgres:///na?host=/run/pg&hostaddr=192.0.2.1&user=a&sslmode=";
        let remote = |mode| Address::parse(&format!("{remote}{mode}"));
        assert_eq!(remote("prefer").expect("valid").tls.mode, Mode::Prefer);
        assert!(remote("verify-full").is_err_and(|e| e.contains("hostaddr")));
    }

    #[test]
    fn what_is_wrong_or_weak_is_refused_without_telling_the_password() {
        for (query, word) in [
            ("?colour=blue", "colour"),
            ("?sslmode=verify_full", "verify-full"),
            ("?sslcrl=/x", "sslcrl"),
            ("?sslmode", "name=value"),
            ("?sslcert=/x", "sslkey"),
            ("?sslkey=/x", "sslcert"),
            ("?sslmode=require&sslrootcert=system", "verify-full"),
            ("?sslmode=disable&channel_binding=require", "TLS"),
            ("?sslmode=prefer&sslnegotiation=direct", "direct"),
            ("?port=x", "port"),
            ("?password=s3cret@x", "%40"),
            ("?host=/run/pg&sslmode=require", "mixes"),
        ] {
            let error = read(query).expect_err(query);
            assert!(error.contains(word), "{query}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        for url in [
            "postgres://u:s3@cret@h/d",
            "postgres://u:s3/cret@h/d",
            "postgres://u:s3?cret@h/d",
        ] {
            let error = Address::parse(url).expect_err(url);
            assert!(error.contains("%40") && !error.contains("cret"), "{error}");
        }
        let shown = format!("{:?}", read("?sslmode=require").expect("valid"));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn files_are_relative_to_the_configuration() {
        let text = absolute(
            "postgres://u@h/d?sslmode=verify-ca&sslrootcert=a%26b/ca%201.pem&sslcert=/c&sslkey=k",
            Path::new("/etc/prism"),
        )
        .expect("valid");
        let tls = Address::parse(&text).expect("valid").tls;
        assert_eq!(
            tls.roots,
            Some(Roots::File("/etc/prism/a&b/ca 1.pem".into()))
        );
        assert_eq!(
            tls.identity,
            Some(("/c".into(), "/etc/prism/k".into())),
            "{text}"
        );
        assert!(absolute("postgres://u@h/d?sslrootcert=system", Path::new("/x")).is_ok());
    }
}
