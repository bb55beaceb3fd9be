//! Creating and upgrading the schema; telling what is wrong with a database.

use std::sync::Arc;

use prism_db::catalogue::Catalogue;
use prism_db::{DbError, Topology, migrate, open};
use prism_proto::{RegionKey, Seq};

use crate::world::{Backend, World};

pub fn migrating_twice_changes_nothing<B: Backend>(world: &World<B>) {
    world.submit(&world.na, &[world.kills(1)]);
    let before = world.na.open().region().expect("region");
    let again = world.migrate(&world.na);
    assert_eq!(again.region, before);
    assert_eq!(
        (again.region.name.as_str(), again.region.next_seq),
        ("NA", Seq(2))
    );
    assert_eq!(again.from_version, again.to_version);
    assert!(again.added_regions.is_empty() && again.added_statements.is_empty());
    assert_ne!(
        world.epoch(&world.eu),
        before.epoch,
        "each has its own numbering"
    );
    assert_eq!(world.kills_at(&world.na), 1);
}

pub fn new_regions_and_statements_are_added<B: Backend>(world: &World<B>) {
    let url = world.backend.fresh("late");
    let topology = |names: &[&str]| Topology {
        region: "NA".into(),
        regions: names
            .iter()
            .map(|n| ((*n).to_owned(), RegionKey::of(n)))
            .collect(),
    };
    let first = migrate(&url, &topology(&["NA", "EU"]), &Catalogue::default()).expect("migrate");
    assert_eq!(
        (first.from_version, first.added_regions),
        (0, vec!["EU".to_owned()])
    );
    let second = migrate(&url, &topology(&["NA", "EU", "AS"]), &world.catalogue).expect("migrate");
    assert_eq!(second.added_regions, ["AS"]);
    assert_eq!(
        second.added_statements.len(),
        world.catalogue.iter().count()
    );
    assert_eq!(second.region, first.region);

    let mut db = open(&url, world.na.options.clone()).expect("address");
    let peers: Vec<_> = db
        .lanes()
        .expect("lanes")
        .into_iter()
        .map(|l| l.peer)
        .collect();
    assert_eq!(peers, ["AS", "EU"]);
    let streams: Vec<_> = db
        .positions()
        .expect("positions")
        .into_iter()
        .map(|p| p.0)
        .collect();
    assert_eq!(streams, ["AS", "EU"]);
}

pub fn another_regions_database_is_refused<B: Backend>(world: &World<B>) {
    let eu = &world.eu.options.topology;
    let error = migrate(&world.na.url, eu, &world.catalogue).expect_err("refused");
    assert!(
        matches!(&error, DbError::Schema(why) if why.contains("NA") && why.contains("EU")),
        "{error}"
    );
    let mut db = open(&world.na.url, world.eu.options.clone()).expect("address");
    let error = db.region().expect_err("refused");
    assert!(matches!(error, DbError::Schema(_)), "{error}");
    let answers = prism_db::submit::submit(&mut *db, &[world.kills(1)]);
    assert!(answers[0].is_err());
    assert_eq!(world.kills_at(&world.na), 0);
}

pub fn a_missing_schema_is_named_with_its_remedy<B: Backend>(world: &World<B>) {
    let url = world.backend.fresh("bare");
    let mut db = open(&url, world.na.options.clone()).expect("address");
    let error = db.region().expect_err("no schema");
    assert!(
        matches!(&error, DbError::Schema(why) if why.contains("prism migrate")),
        "{error}"
    );
    migrate(&url, &world.na.options.topology, &world.catalogue).expect("migrate");
    assert_eq!(
        db.region().expect("the same connection goes on").next_seq,
        Seq(1)
    );
}

pub fn a_schema_of_a_newer_version_is_refused<B: Backend>(world: &World<B>) {
    let table = if matches!(world.na.url, prism_db::DatabaseUrl::Sqlite(_)) {
        "prism_region"
    } else {
        "prism.region"
    };
    world
        .sql(&world.na)
        .run(&format!("UPDATE {table} SET schema_version = 999"));
    let error = world.na.open().region().expect_err("too new");
    assert!(
        matches!(&error, DbError::Schema(why) if why.contains("999") && why.contains("upgrade")),
        "{error}"
    );
    let topology = &world.na.options.topology;
    let error =
        migrate(&world.na.url, topology, &Arc::clone(&world.catalogue)).expect_err("too new");
    assert!(matches!(&error, DbError::Schema(_)), "{error}");
    world
        .sql(&world.na)
        .run(&format!("UPDATE {table} SET schema_version = 0"));
    let error = world.na.open().region().expect_err("too old");
    assert!(
        matches!(&error, DbError::Schema(why) if why.contains("prism migrate")),
        "{error}"
    );
}
