//! The steps, in the order that the module's text gives the reasons for.

mod deliver;

use std::sync::Arc;
use std::time::{Duration, Instant};

use prism_proto::{Epoch, Position, Seq, Verdict};

use super::{AdoptError, Adoption, Change, Look, Side, Site, before, copy, pg_copy, sealed, side};
use crate::{Database, DatabaseUrl, DbError, OpenOptions, chain, migrate, open};
pub use deliver::Loss;

/// For what is on its way already, and for locks.
const PATIENCE: Duration = Duration::from_secs(30);
/// A region whose position has not moved for so long has nothing more on its way.
const QUIET: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(100);
/// One call of the direct writer.
const BUDGET: Duration = Duration::from_secs(2);

/// What a rebuilt region has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Its numbering.
    pub epoch: Epoch,
    /// Number of its first update.
    pub first: Seq,
    /// What an operator must know, and what to do about it.
    pub warnings: Vec<String>,
    /// Regions that were left out and have to be told: `finish`.
    pub missing: Vec<String>,
}

/// A database that has been found.
struct Found<'a> {
    site: &'a Site,
    url: &'a DatabaseUrl,
    look: Look,
}

impl Found<'_> {
    fn has_ledger_of(&self, region: &str) -> bool {
        self.look.ledger.as_deref() == Some(region)
    }
}

struct Work<'a> {
    adoption: &'a Adoption,
    tell: &'a mut dyn FnMut(&str),
    warnings: Vec<String>,
}

/// Rebuilds the target, or makes it.
///
/// `tell` gets a line about each step.
///
/// # Errors
/// [`AdoptError`]; the same call again goes on from wherever it stopped.
pub fn adopt(adoption: &Adoption, tell: &mut dyn FnMut(&str)) -> Result<Adopted, AdoptError> {
    Work {
        adoption,
        tell,
        warnings: Vec::new(),
    }
    .run()
}

/// Tells regions that were left out of the rebuilt region's numbering. Idempotent.
///
/// # Errors
/// [`AdoptError`].
pub fn finish(adoption: &Adoption, tell: &mut dyn FnMut(&str)) -> Result<Adopted, AdoptError> {
    Work {
        adoption,
        tell,
        warnings: Vec::new(),
    }
    .finish()
}

impl<'a> Work<'a> {
    fn run(mut self) -> Result<Adopted, AdoptError> {
        let adoption = self.adoption;
        let (name, donor_name) = (adoption.target.as_str(), adoption.donor.as_str());
        if name == donor_name {
            return Err(AdoptError::SameRegion);
        }
        let donor = self.find(donor_name, "donor")?;
        let target = self.find(name, "target")?;
        let others = self.others()?;
        if !donor.has_ledger_of(donor_name) {
            return Err(match &donor.look.ledger {
                Some(found) => foreign(donor_name, found),
                None => unfit(
                    donor_name,
                    "it has no ledger (run prism migrate)".to_owned(),
                ),
            });
        }
        if let Some(found) = &target.look.ledger
            && *found != name
            && *found != sealed(name)
        {
            return Err(foreign(name, found));
        }
        match (donor.url, target.url) {
            (DatabaseUrl::Postgres(donor), DatabaseUrl::Postgres(_)) => pg_copy::prepare(donor)?,
            (DatabaseUrl::Sqlite(_), DatabaseUrl::Sqlite(_)) => {}
            _ => return Err(AdoptError::Kinds),
        }
        if !adoption.force {
            self.check_silent(&target)?;
        }
        // A new region is not known yet. (Before the checks that read its rows.)
        for found in others.iter().chain([&donor]) {
            self.make_known(found)?;
        }
        self.check_donor(&donor, &others)?;
        let deliver = self.judge(&target, &donor, &others)?;
        self.deliver(&target, &deliver, &donor, &others)?;
        self.let_settle(&donor, &others)?;

        let mut database = self.open(&donor)?;
        let fail = |error| database_error("donor", donor_name, error);
        // Read before the snapshot: the target will have at least this.
        let own = database.region().map_err(fail)?;
        let applied = database.positions().map_err(fail)?;
        let at = |region: &str| {
            if region == donor_name {
                return Some(Position {
                    epoch: own.epoch,
                    seq: before(own.next_seq),
                    tag: own.last_tag,
                });
            }
            let found = applied.iter().find(|(stream, _)| stream == region);
            found.map(|(_, position)| *position)
        };
        if target.look.ledger.as_deref() == Some(name) {
            let seal = self.side(&target).and_then(|mut side| side.seal(name));
            seal.map_err(|error| database_error("target", name, error))?;
            self.say(&format!(
                "{name}: the old database takes part in nothing any more"
            ));
        }
        let epoch = Epoch(chain::random_u64().map_err(AdoptError::Copy)?);
        let mut ends = Vec::new();
        for found in others.iter().chain([&donor]) {
            let region = &found.site.region;
            let lane = at(region);
            let end = self
                .side(found)
                .and_then(|mut side| side.fence(name, epoch, lane))
                .map_err(|error| AdoptError::Other {
                    region: region.clone(),
                    error,
                })?;
            ends.push((region.clone(), end));
            let (end, from) = (end.seq.0, lane.map_or(0, |lane| lane.seq.0));
            self.say(&format!(
                "{region}: has {name} up to {end}, takes only its new numbering from now on, and \
                 keeps its own updates from {} on for it",
                from + 1
            ));
        }
        let first = self.compare(&ends)?;
        let key = adoption
            .key(donor_name)
            .ok_or_else(|| AdoptError::UnknownRegion(donor_name.to_owned()))?;
        let change = Change {
            target: name,
            donor: donor_name,
            donor_key: key,
            epoch,
        };
        self.say(&format!("{donor_name}: copying to {name}"));
        let mut settle = || {
            // Awaited writes of a node that has crashed: somebody has to publish their undo.
            let _ = database.settle_held();
        };
        copy(donor.url, target.url, &change, &mut settle, self.tell)?;
        self.complete(&target, epoch)?;
        self.say(&format!("{name}: the copy is in place"));
        self.still_kept(&others, &donor)?;
        Ok(Adopted {
            epoch,
            first,
            warnings: self.warnings,
            missing: adoption.without.clone(),
        })
    }

    fn finish(mut self) -> Result<Adopted, AdoptError> {
        let name = self.adoption.target.as_str();
        let target = self.find(name, "target")?;
        if !target.has_ledger_of(name) {
            return Err(AdoptError::NotRebuilt(name.to_owned()));
        }
        let mut database = self.open(&target)?;
        let fail = |error| database_error("target", name, error);
        let own = database.region().map_err(fail)?;
        let applied = database.positions().map_err(fail)?;
        for site in &self.adoption.sites {
            if site.region == name || self.adoption.without.contains(&site.region) {
                continue;
            }
            let found = self.reach(site).map_err(|error| AdoptError::Other {
                region: site.region.clone(),
                error,
            })?;
            if !found.has_ledger_of(&site.region) {
                self.warn_no_ledger(&site.region);
                continue;
            }
            self.make_known(&found)?;
            let lane = applied.iter().find(|(stream, _)| *stream == site.region);
            let end = self
                .side(&found)
                .and_then(|mut side| side.fence(name, own.epoch, lane.map(|(_, at)| *at)))
                .map_err(|error| AdoptError::Other {
                    region: site.region.clone(),
                    error,
                })?;
            self.say(&format!(
                "{}: has {name} up to {} and takes its new numbering",
                site.region, end.seq.0
            ));
        }
        Ok(Adopted {
            epoch: own.epoch,
            first: own.next_seq,
            warnings: self.warnings,
            missing: self.adoption.without.clone(),
        })
    }

    fn say(&mut self, line: &str) {
        (self.tell)(line);
    }

    fn warn(&mut self, line: String) {
        self.warnings.push(line);
    }

    fn warn_no_ledger(&mut self, region: &str) {
        self.warn(format!(
            "the database of {region} has no ledger, so it has nothing to be told: rebuild it as well"
        ));
    }

    fn site(&self, region: &str) -> Result<&'a Site, AdoptError> {
        let adoption: &'a Adoption = self.adoption;
        let mut sites = adoption.sites.iter();
        sites
            .find(|site| site.region == region)
            .ok_or_else(|| AdoptError::UnknownRegion(region.to_owned()))
    }

    /// The first address that answers.
    fn reach(&self, site: &'a Site) -> Result<Found<'a>, DbError> {
        let mut last = DbError::Unreachable("it has no address".to_owned());
        for url in &site.addresses {
            match side(url).and_then(|mut side| side.look()) {
                Ok(look) => return Ok(Found { site, url, look }),
                Err(DbError::Unreachable(text)) => {
                    last = DbError::Unreachable(format!("{url}: {text}"));
                }
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn find(&self, region: &str, role: &'static str) -> Result<Found<'a>, AdoptError> {
        self.reach(self.site(region)?)
            .map_err(|error| database_error(role, region, error))
    }

    /// All regions but donor and target that have a ledger.
    fn others(&mut self) -> Result<Vec<Found<'a>>, AdoptError> {
        let adoption: &'a Adoption = self.adoption;
        for region in &adoption.without {
            self.site(region)?;
        }
        let mut others = Vec::new();
        for site in &adoption.sites {
            let region = &site.region;
            if *region == adoption.target
                || *region == adoption.donor
                || adoption.without.contains(region)
            {
                continue;
            }
            let found = self.reach(site).map_err(|error| AdoptError::Other {
                region: region.clone(),
                error,
            })?;
            match &found.look.ledger {
                Some(ledger) if ledger == region => others.push(found),
                Some(ledger) if *ledger != sealed(region) => return Err(foreign(region, ledger)),
                _ => self.warn_no_ledger(region),
            }
        }
        Ok(others)
    }

    fn side(&self, found: &Found<'_>) -> Result<Box<dyn Side>, DbError> {
        side(found.url)
    }

    fn options(&self, region: &str) -> OpenOptions {
        let catalogue = Arc::clone(&self.adoption.catalogue);
        OpenOptions::new(self.adoption.topology(region), catalogue)
    }

    fn open(&self, found: &Found<'_>) -> Result<Box<dyn Database>, AdoptError> {
        let region = &found.site.region;
        open(found.url, self.options(region)).map_err(|error| database_error("", region, error))
    }

    /// Adds the rows of a new region.
    fn make_known(&mut self, found: &Found<'_>) -> Result<(), AdoptError> {
        let region = &found.site.region;
        let fail = |error| database_error("other", region, error);
        let known = self.open(found)?.positions().map_err(fail)?;
        let mut known = known.iter().map(|(stream, _)| stream);
        if known.any(|stream| *stream == self.adoption.target) {
            return Ok(());
        }
        let topology = self.adoption.topology(region);
        let migrated = migrate(found.url, &topology, &self.adoption.catalogue).map_err(fail)?;
        let added = migrated.added_regions.join(", ");
        self.say(&format!("{region}: {added} is known here now"));
        Ok(())
    }

    /// A node of the target that beats in its database runs, wherever it is.
    fn check_silent(&self, target: &Found<'_>) -> Result<(), AdoptError> {
        let start = Instant::now();
        while !target.look.nodes.is_empty() && start.elapsed() < QUIET {
            let look = self.side(target).and_then(|mut side| side.look());
            let name = &target.site.region;
            let now = look.map_err(|error| database_error("target", name, error))?;
            let mut beating = now.nodes;
            beating.retain(|node| !target.look.nodes.contains(node));
            if !beating.is_empty() {
                let names = beating.into_iter().map(|(name, _)| name).collect();
                return Err(AdoptError::NodesRun(names));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Neither given up by another region, nor at odds with one.
    fn check_donor(&self, donor: &Found<'_>, others: &[Found<'_>]) -> Result<(), AdoptError> {
        let name = &donor.site.region;
        let mut database = self.open(donor)?;
        let fail = |region: &str, error| database_error("other", region, error);
        for found in others {
            let region = &found.site.region;
            let mut other = self.open(found)?;
            let lanes = other.lanes().map_err(|e| fail(region, e))?;
            if lanes.iter().any(|lane| lane.peer == *name && lane.stale) {
                let why = format!("{region} has given it up, it is stale itself");
                return Err(unfit(name, why));
            }
            let there = database.position(region).map_err(|e| fail(name, e))?;
            let verdict = other.outbox_verify(there).map_err(|e| fail(region, e))?;
            if matches!(verdict, Verdict::Forked | Verdict::TooOld) {
                let why = format!(
                    "it has {} updates of {region}, which is not on that region's stream ({verdict:?})",
                    there.seq.0
                );
                return Err(unfit(name, why));
            }
            let here = other.position(name).map_err(|e| fail(region, e))?;
            let verdict = database.outbox_verify(here).map_err(|e| fail(name, e))?;
            if verdict == Verdict::Forked {
                let why = format!(
                    "{region} has {} updates of it that are not on its own stream",
                    here.seq.0
                );
                return Err(unfit(name, why));
            }
        }
        Ok(())
    }

    /// How far everybody has the old numbering: the new one continues behind what the donor has.
    fn compare(&mut self, ends: &[(String, Position)]) -> Result<Seq, AdoptError> {
        let (name, donor) = (&self.adoption.target, &self.adoption.donor);
        let of_donor = ends.iter().find(|(region, _)| region == donor);
        let base = of_donor.map_or(Seq::ZERO, |(_, at)| at.seq);
        for (region, at) in ends {
            if at.seq > base {
                let why = ahead_of(region, name, at.seq, base);
                if !self.adoption.force {
                    return Err(unfit(donor, why));
                }
                self.warn(format!("{why}, or rebuild {region} from {donor} as well"));
            } else if at.seq < base {
                self.warn(format!(
                    "{region} lacks updates {} to {} of {name}, which {donor} has and nobody can \
                     deliver any more: rebuild {region} from {donor} as well",
                    at.seq.next().0,
                    base.0
                ));
            }
        }
        Ok(base.next())
    }

    /// Functions, and versions of statements that the donor did not know.
    fn complete(&self, target: &Found<'_>, epoch: Epoch) -> Result<(), AdoptError> {
        let name = self.adoption.target.as_str();
        let fail = |error| database_error("target", name, error);
        let topology = self.adoption.topology(name);
        let done = migrate(target.url, &topology, &self.adoption.catalogue).map_err(fail)?;
        if done.region.epoch != epoch {
            let text = "another process is rebuilding it at the same time; run this again";
            return Err(fail(DbError::Schema(text.to_owned())));
        }
        Ok(())
    }

    fn still_kept(&self, others: &[Found<'_>], donor: &Found<'_>) -> Result<(), AdoptError> {
        for found in others.iter().chain([donor]) {
            let region = &found.site.region;
            let lanes = self.open(found)?.lanes();
            let lanes = lanes.map_err(|error| database_error("other", region, error))?;
            let name = &self.adoption.target;
            if lanes.iter().any(|lane| lane.peer == *name && lane.stale) {
                return Err(AdoptError::GivenUp(region.clone()));
            }
        }
        Ok(())
    }
}

fn database_error(role: &'static str, region: &str, error: DbError) -> AdoptError {
    let role = if role.is_empty() { "region" } else { role };
    AdoptError::Database {
        role,
        region: region.to_owned(),
        error,
    }
}

fn foreign(region: &str, found: &str) -> AdoptError {
    AdoptError::Foreign {
        region: region.to_owned(),
        found: found.to_owned(),
    }
}

fn ahead_of(region: &str, target: &str, theirs: Seq, donors: Seq) -> String {
    format!(
        "{region} has {target} up to {}, it has it up to {} only: copy from {region}",
        theirs.0, donors.0
    )
}

fn unfit(donor: &str, why: String) -> AdoptError {
    AdoptError::Donor {
        donor: donor.to_owned(),
        why,
    }
}
