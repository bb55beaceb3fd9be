//! TLS to real servers, and against people in the middle.
#![cfg(unix)]

mod pg;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pg::tls::*;
use pg::*;
use prism_db::throwaway::Cluster;
use prism_db::{DatabaseUrl, DbError};

/// TLS only, over TCP; passwords by SCRAM, certificates for the role `prism` in database `certs`.
const RULES: &str = "
hostssl certs  prism    127.0.0.1/32 cert
host    all    postgres 127.0.0.1/32 password
hostssl all    all      127.0.0.1/32 scram-sha-256
";

struct Secure {
    cluster: Cluster,
    ours: Authority,
    server: Issued,
    dir: tempfile::TempDir,
    url: String,
}

/// A server named localhost, with a region's database.
fn secure() -> &'static Secure {
    static SECURE: OnceLock<Secure> = OnceLock::new();
    SECURE.get_or_init(|| {
        let cluster = Cluster::start().expect("starts");
        let na = Region::new(&cluster, "na", "NA");
        cluster.create_database("certs").expect("a database");
        prism_db::migrate(&parse(&cluster.url("certs")), &topology("NA"), &catalogue())
            .expect("migrates");
        let (ours, other) = (Authority::new("ours"), Authority::new("theirs"));
        let server = ours.issue(&["localhost"], false);
        switch_on(&cluster, &server, &ours, RULES);
        let dir = tempfile::tempdir().expect("a directory");
        file(dir.path(), "ours.pem", &ours.pem());
        file(dir.path(), "other.pem", &other.pem());
        let client = ours.issue(&["prism"], false);
        file(dir.path(), "client.pem", &client.certificate);
        file(dir.path(), "client.key", &client.key);
        Secure {
            cluster,
            ours,
            server,
            dir,
            url: na.url,
        }
    })
}

/// The address of the server at another host, port and with another query.
fn at(url: &str, host: &str, port: u16, query: &str) -> DatabaseUrl {
    let (login, rest) = url.split_once('@').expect("a login");
    let database = rest.split_once('/').expect("a database").1;
    let database = database.split_once('?').expect("a query").0;
    let url = format!("{login}@{host}:{port}/{database}?{query}");
    DatabaseUrl::parse(&url, secure().dir.path()).expect("an address")
}

fn reach(url: &DatabaseUrl) -> Result<(), String> {
    let mut db = prism_db::open(url, options("NA")).map_err(|e| e.to_string())?;
    match db.region() {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let DatabaseUrl::Postgres(url) = url else {
                unreachable!()
            };
            let password = url.split_once('@').unwrap().0.rsplit_once(':').unwrap().1;
            assert!(!text.contains(password), "{text}");
            Err(text)
        }
    }
}

fn with(host: &str, query: &str) -> Result<(), String> {
    let secure = secure();
    reach(&at(&secure.url, host, secure.cluster.port(), query))
}

#[track_caller]
fn refused(result: Result<(), String>, word: &str) {
    let error = result.expect_err("must be refused");
    assert!(error.contains(word), "{error}");
}

#[test]
fn the_right_server_is_reached_under_every_mode_that_has_tls() {
    let queries = [
        "sslmode=prefer",
        "sslmode=allow",
        "sslmode=require",
        "sslmode=verify-ca&sslrootcert=ours.pem",
        "sslmode=verify-full&sslrootcert=ours.pem",
        "sslmode=verify-full&sslrootcert=ours.pem&channel_binding=require",
        "sslmode=require&channel_binding=require",
    ];
    for (i, query) in queries.into_iter().enumerate() {
        let name = format!("mode_{i}");
        let url = at(
            &secure().url,
            "localhost",
            secure().cluster.port(),
            &format!("{query}&application_name={name}"),
        );
        let mut db = prism_db::open(&url, options("NA")).expect("opens");
        db.region().unwrap_or_else(|e| panic!("{query}: {e}"));
        let encrypted: bool = secure()
            .cluster
            .admin("postgres")
            .unwrap()
            .query_one(
                "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity USING (pid)
                 WHERE application_name = $1",
                &[&name],
            )
            .unwrap()
            .get(0);
        assert!(encrypted, "{query}");
    }
    // The server takes TLS only, and says so.
    refused(with("localhost", "sslmode=disable"), "no encryption");
}

#[test]
fn a_server_that_is_somebody_else_is_refused() {
    for query in [
        "sslmode=verify-full&sslrootcert=other.pem",
        "sslmode=verify-ca&sslrootcert=other.pem",
        // As libpq: with roots, require verifies.
        "sslmode=require&sslrootcert=other.pem",
        "sslmode=prefer&sslrootcert=other.pem",
        "sslrootcert=system",
    ] {
        refused(with("localhost", query), "not signed by an authority");
    }
    let full = "sslmode=verify-full&sslrootcert=ours.pem";
    refused(with("127.0.0.1", full), "subjectAltName");
    with("127.0.0.1", "sslmode=verify-ca&sslrootcert=ours.pem").unwrap();
    refused(with("localhost", "sslmode=verify-full"), "sslrootcert=FILE");
    let missing = "sslmode=verify-full&sslrootcert=missing.pem";
    refused(with("localhost", missing), "missing.pem");
    refused(
        with("localhost", "sslmode=verify-full&sslrootcert=client.key"),
        "no certificate in it",
    );
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    // Everybody may see the certificate that a server shows.
    let (seen, own) = (&secure().server, secure().ours.issue(&["localhost"], false));
    let shown = Issued {
        certificate: seen.certificate.clone(),
        key: own.key,
    };
    let middle = Middle::terminates(&shown, secure().cluster.port());
    for query in [
        "sslmode=require",
        "sslmode=verify-ca&sslrootcert=ours.pem",
        "sslmode=verify-full&sslrootcert=ours.pem",
    ] {
        let result = reach(&at(&secure().url, "localhost", middle.port, query));
        refused(result, "signature");
    }
}

#[test]
fn an_expired_certificate_is_refused() {
    let cluster = Cluster::start().unwrap();
    let na = Region::new(&cluster, "na", "NA");
    let ours = &secure().ours;
    switch_on(&cluster, &ours.issue(&["localhost"], true), ours, RULES);
    for mode in ["verify-ca", "verify-full"] {
        let query = format!("sslmode={mode}&sslrootcert=ours.pem");
        refused(
            reach(&at(&na.url, "localhost", cluster.port(), &query)),
            "renew the server's certificate",
        );
    }
    // Nothing is verified, as libpq does.
    reach(&at(&na.url, "localhost", cluster.port(), "sslmode=require")).unwrap();
}

#[test]
fn a_server_without_tls_is_taken_only_by_modes_that_say_so() {
    let plain = Region::new(shared(), "without_tls", "NA");
    let port = shared().port();
    for query in ["sslmode=prefer", "sslmode=allow", "application_name=x"] {
        reach(&at(&plain.url, "127.0.0.1", port, query)).unwrap();
    }
    for query in [
        "sslmode=require",
        "sslmode=verify-ca&sslrootcert=ours.pem",
        "sslmode=verify-full&sslrootcert=ours.pem",
    ] {
        refused(
            reach(&at(&plain.url, "localhost", port, query)),
            "the server has no TLS",
        );
    }
    refused(
        reach(&at(
            &plain.url,
            "127.0.0.1",
            port,
            "channel_binding=require",
        )),
        "channel binding",
    );
}

#[test]
fn whoever_denies_tls_on_the_way_hears_nothing() {
    let (middle, heard) = Middle::downgrades();
    for query in [
        "sslmode=require",
        "sslmode=verify-full&sslrootcert=ours.pem",
    ] {
        refused(
            reach(&at(&secure().url, "localhost", middle.port, query)),
            "the server has no TLS",
        );
    }
    assert_eq!(*heard.lock().unwrap(), b"", "not even who we are");
}

#[test]
fn channel_binding_finds_whoever_ends_tls_on_the_way() {
    // A certificate of the same authority, for the same name: only its key is another.
    let own = secure().ours.issue(&["localhost"], false);
    let middle = Middle::terminates(&own, secure().cluster.port());
    let full = "sslmode=verify-full&sslrootcert=ours.pem";
    let result = reach(&at(
        &secure().url,
        "localhost",
        middle.port,
        &format!("{full}&channel_binding=require"),
    ));
    refused(result, "channel binding");
    // It is what finds it: without, the login goes through (and our queries do not alternate).
    let url = at(
        &secure().url,
        "localhost",
        middle.port,
        &format!("{full}&channel_binding=disable&application_name=in_the_middle"),
    );
    let waiting = std::thread::spawn(move || reach(&url));
    let mut admin = secure().cluster.admin("postgres").unwrap();
    until("the login goes through", || {
        admin
            .query_one(
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'in_the_middle'",
                &[],
            )
            .unwrap()
            .get(0)
            || waiting.is_finished()
    });
    drop(middle);
    if let Err(error) = waiting.join().unwrap() {
        assert!(!error.contains("channel binding"), "{error}");
    }
}

#[test]
fn a_client_certificate_logs_in_and_its_key_is_nobody_elses() {
    let port = secure().cluster.port();
    let url = secure().cluster.url("certs");
    let query = |key: &str| {
        format!("sslmode=verify-full&sslrootcert=ours.pem&sslcert=client.pem&sslkey={key}")
    };
    reach(&at(&url, "localhost", port, &query("client.key"))).unwrap();
    refused(
        reach(&at(
            &url,
            "localhost",
            port,
            "sslmode=verify-full&sslrootcert=ours.pem",
        )),
        "certificate",
    );
    let open = secure().dir.path().join("open.key");
    fs::copy(secure().dir.path().join("client.key"), &open).unwrap();
    for mode in [0o644, 0o640, 0o604] {
        fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        refused(
            reach(&at(&url, "localhost", port, &query("open.key"))),
            "chmod 600",
        );
    }
    refused(
        reach(&at(&url, "localhost", port, &query("ours.pem"))),
        "no private key",
    );
}

#[test]
fn a_cancelled_call_is_cancelled_over_tls() {
    let deaf = Arc::new(AtomicBool::new(false));
    let (middle, first) = Middle::listens(secure().cluster.port(), Arc::clone(&deaf));
    let url = at(
        &secure().url,
        "localhost",
        middle.port,
        "sslmode=verify-full&sslrootcert=ours.pem",
    );
    let mut options = options("NA");
    options.statement_timeout = Duration::from_millis(200);
    let mut db = prism_db::open(&url, options).unwrap();
    db.region().unwrap();
    deaf.store(true, Ordering::SeqCst);
    assert!(matches!(db.region(), Err(DbError::Unreachable(_))));
    until("the request to cancel", || first.lock().unwrap().len() >= 2);
    assert!(
        first
            .lock()
            .unwrap()
            .iter()
            .all(|bytes| *bytes == SSL_REQUEST),
        "in the clear: {first:?}"
    );
}

#[test]
fn sockets_of_this_machine_have_no_tls() {
    let dir = secure().cluster.directory().display().to_string();
    let database = "na?sslmode=verify-full&port=";
    let url = format!(
        "postgres://prism:x@/{database}{}&host={dir}",
        secure().cluster.port()
    );
    let rules = format!("local all all trust\n{RULES}");
    fs::write(Path::new(&dir).join("data/pg_hba.conf"), rules).unwrap();
    let mut admin = secure().cluster.admin("postgres").unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    until("the rule holds", || reach(&parse(&url)).is_ok());
}
