//! What each command does. Revisions are given here and nowhere else.

use super::auth::{AuthError, Origin};
use super::keyspace::{Change, Keyspace, Values};
use super::types::{
    Alarm, Answer, Command, Compare, Delete, KeyValue, Op, Outcome, Put, Query, Refusal, Relation, Target,
    Txn, TxnAnswer,
};
use bytes::Bytes;
use std::cmp::Ordering;
use std::io;

impl Keyspace {
    /// Applies one command; adds what it changed to `changes`. A refused command changes
    /// nothing. An error comes from `values` alone and leaves the state unusable.
    pub fn apply(
        &mut self,
        origin: &Origin,
        command: &Command,
        values: &dyn Values,
        changes: &mut Vec<Change>,
    ) -> io::Result<Outcome> {
        let full = self.alarms.iter().any(|(_, alarm)| *alarm == Alarm::NoSpace);
        if self.auth.enabled()
            && let Err(denied) = self.check_origin(origin, command)
        {
            return Ok(Err(denied.into()));
        }
        Ok(match command {
            Command::Put(_) | Command::LeaseGrant { .. } if full => Err(Refusal::NoSpace),
            Command::Txn(txn) if full && txn.puts() => Err(Refusal::NoSpace),
            Command::Put(put) => {
                if let Err(refusal) = self.check_put(put) {
                    return Ok(Err(refusal));
                }
                let revision = self.revision + 1;
                let answer = self.put(put, revision, values, changes)?;
                self.revision = revision;
                Ok(answer)
            }
            Command::Delete(delete) => {
                let revision = self.revision + 1;
                let before = changes.len();
                let answer = self.delete(delete, revision, false, values, changes)?;
                if changes.len() > before {
                    self.revision = revision;
                }
                Ok(answer)
            }
            Command::Txn(txn) => self.txn(txn, values, changes)?,
            Command::Compact(revision) => self.compact(*revision),
            Command::LeaseGrant { id, ttl } => {
                self.grant(*id, *ttl).map(|ttl| Answer::Granted { revision: self.revision, id: *id, ttl })
            }
            Command::LeaseRevoke(id) => {
                self.revoke(*id, changes).map(|()| Answer::Done { revision: self.revision })
            }
            Command::AlarmRaise(member, alarm) => {
                self.alarms.insert((*member, *alarm));
                Ok(Answer::Done { revision: self.revision })
            }
            Command::AlarmClear(member, alarm) => {
                self.alarms.remove(&(*member, *alarm));
                Ok(Answer::Done { revision: self.revision })
            }
            Command::Downgrade(Some(_)) if self.downgrade.is_some() => Err(Refusal::Downgrading),
            Command::Downgrade(target) => {
                self.downgrade = *target;
                Ok(Answer::Done { revision: self.revision })
            }
            Command::Auth(command) => {
                self.auth.apply(origin, command).map(Answer::Auth).map_err(Refusal::from)
            }
        })
    }

    /// Whether users and roles let this through. Changes of them are checked where they are made.
    fn check_origin(&self, origin: &Origin, command: &Command) -> Result<(), AuthError> {
        match command {
            Command::Put(put) => self.auth.check_put(origin, put, &|lease| self.leased(lease)),
            Command::Delete(delete) => {
                self.auth.check_write(origin, &delete.span)?;
                if delete.prev_kv { self.auth.check_read(origin, &delete.span) } else { Ok(()) }
            }
            Command::Txn(txn) => self.auth.check_txn(origin, txn, &|lease| self.leased(lease)),
            Command::LeaseRevoke(id) => self.auth.check_lease(origin, &self.leased(*id)),
            Command::Compact(_)
            | Command::LeaseGrant { .. }
            | Command::AlarmRaise(..)
            | Command::AlarmClear(..)
            | Command::Downgrade(_)
            | Command::Auth(_) => Ok(()),
        }
    }

    /// The keys that live by a lease.
    fn leased(&self, id: i64) -> Vec<&Bytes> {
        self.leases.get(&id).map(|lease| lease.keys.iter().collect()).unwrap_or_default()
    }

    fn compact(&mut self, revision: i64) -> Outcome {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.compacted = revision;
        self.pages.compacted(revision);
        Ok(Answer::Done { revision: self.revision })
    }

    fn check_put(&self, put: &Put) -> Result<(), Refusal> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        if (put.keep_value || put.keep_lease) && self.live(&put.key).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    fn put(
        &mut self,
        put: &Put,
        revision: i64,
        values: &dyn Values,
        changes: &mut Vec<Change>,
    ) -> io::Result<Answer> {
        let before = self.live(&put.key);
        let (create_revision, version, lease) =
            before.map_or((revision, 0, 0), |before| (before.create_revision, before.version, before.lease));
        let prev = match before {
            Some(before) if put.prev_kv || put.keep_value => Some(Self::load(&put.key, before, values)?),
            _ => None,
        };
        let value = match &prev {
            Some(prev) if put.keep_value => prev.value.clone(),
            _ => put.value.clone(),
        };
        let kv = KeyValue {
            key: put.key.clone(),
            value,
            create_revision,
            mod_revision: revision,
            version: version + 1,
            lease: if put.keep_lease { lease } else { put.lease },
        };
        changes.push(self.write(&kv));
        Ok(Answer::Put { revision, prev: prev.filter(|_| put.prev_kv) })
    }

    fn delete(
        &mut self,
        delete: &Delete,
        revision: i64,
        changed_before: bool,
        values: &dyn Values,
        changes: &mut Vec<Change>,
    ) -> io::Result<Answer> {
        let mut keys: Vec<Bytes> = Vec::new();
        let mut prev = Vec::new();
        for key in self.index.existing(&delete.span) {
            if delete.prev_kv
                && let Some(version) = self.live(key)
            {
                prev.push(Self::load(key, version, values)?);
            }
            keys.push(key.copied());
        }
        for key in &keys {
            changes.push(self.remove(key, revision));
        }
        let revision = if changed_before || !keys.is_empty() { revision } else { revision - 1 };
        Ok(Answer::Delete { revision, deleted: keys.len() as i64, prev })
    }

    fn txn(&mut self, txn: &Txn, values: &dyn Values, changes: &mut Vec<Change>) -> io::Result<Outcome> {
        // All decisions are made on the state before the transaction, nested ones too.
        let path = self.decide(txn, values)?;
        if let Err(refusal) = self.check(&path) {
            return Ok(Err(refusal));
        }
        let revision = self.revision + 1;
        let before = changes.len();
        let mut answer = self.execute(&path, revision, before, values, changes)?;
        if changes.len() > before {
            self.revision = revision;
        }
        answer.revision = self.revision;
        Ok(Ok(Answer::Txn(answer)))
    }

    /// Answers a transaction that cannot write, without changing anything.
    pub fn read_txn(
        &self,
        origin: &Origin,
        txn: &Txn,
        values: &dyn Values,
    ) -> io::Result<Result<TxnAnswer, Refusal>> {
        if let Err(denied) = self.auth.check_txn(origin, txn, &|lease| self.leased(lease)) {
            return Ok(Err(denied.into()));
        }
        let path = self.decide(txn, values)?;
        if let Err(refusal) = self.check(&path) {
            return Ok(Err(refusal));
        }
        let mut answer = self.read_path(&path, values)?;
        answer.revision = self.revision;
        Ok(Ok(answer))
    }

    fn read_path(&self, path: &Path<'_>, values: &dyn Values) -> io::Result<TxnAnswer> {
        let mut answers = Vec::with_capacity(path.steps.len());
        for step in &path.steps {
            answers.push(match step {
                Step::Query(query) => Answer::Query(self.answer(query, self.revision, values)?),
                Step::Txn(path) => Answer::Txn(self.read_path(path, values)?),
                Step::Put(_) | Step::Delete(_) => {
                    return Err(io::Error::other("a reading transaction holds a write"));
                }
            });
        }
        Ok(TxnAnswer { succeeded: path.succeeded, revision: 0, answers })
    }

    fn answer(&self, query: &Query, latest: i64, values: &dyn Values) -> io::Result<super::QueryAnswer> {
        match self.select_at(query, latest) {
            Ok(selection) => selection.load(query, values),
            Err(refusal) => Err(io::Error::other(format!("a checked read was refused: {refusal}"))),
        }
    }

    fn decide<'a>(&self, txn: &'a Txn, values: &dyn Values) -> io::Result<Path<'a>> {
        let mut succeeded = true;
        for compare in &txn.compares {
            if !self.holds(compare, values)? {
                succeeded = false;
                break;
            }
        }
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut steps = Vec::with_capacity(ops.len());
        for op in ops {
            steps.push(match op {
                Op::Query(query) => Step::Query(query),
                Op::Put(put) => Step::Put(put),
                Op::Delete(delete) => Step::Delete(delete),
                Op::Txn(txn) => Step::Txn(self.decide(txn, values)?),
            });
        }
        Ok(Path { succeeded, steps })
    }

    fn check(&self, path: &Path<'_>) -> Result<(), Refusal> {
        path.steps.iter().try_for_each(|step| match step {
            Step::Query(query) if query.revision > self.revision => Err(Refusal::FutureRevision),
            Step::Query(query) if query.revision != 0 && query.revision < self.compacted => {
                Err(Refusal::Compacted)
            }
            Step::Query(_) | Step::Delete(_) => Ok(()),
            Step::Put(put) => self.check_put(put),
            Step::Txn(path) => self.check(path),
        })
    }

    fn execute(
        &mut self,
        path: &Path<'_>,
        revision: i64,
        before: usize,
        values: &dyn Values,
        changes: &mut Vec<Change>,
    ) -> io::Result<TxnAnswer> {
        let mut answers = Vec::with_capacity(path.steps.len());
        for step in &path.steps {
            let changed = changes.len() > before;
            answers.push(match step {
                Step::Query(query) => {
                    let latest = if changed { revision } else { revision - 1 };
                    Answer::Query(self.answer(query, latest, values)?)
                }
                Step::Put(put) => self.put(put, revision, values, changes)?,
                Step::Delete(delete) => self.delete(delete, revision, changed, values, changes)?,
                Step::Txn(path) => Answer::Txn(self.execute(path, revision, before, values, changes)?),
            });
        }
        Ok(TxnAnswer { succeeded: path.succeeded, revision: 0, answers })
    }

    fn holds(&self, compare: &Compare, values: &dyn Values) -> io::Result<bool> {
        let mut any = false;
        for (key, history) in self.index.histories(&compare.span) {
            let version = &history.latest;
            if version.is_deletion() {
                continue;
            }
            any = true;
            let order = match &compare.target {
                Target::Version(number) => version.version.cmp(number),
                Target::Create(number) => version.create_revision.cmp(number),
                Target::Mod(number) => version.mod_revision.cmp(number),
                Target::Lease(number) => version.lease.cmp(number),
                Target::Value(value) => Self::load(key, version, values)?.value.cmp(value),
            };
            if !stands(order, compare.relation) {
                return Ok(false);
            }
        }
        if any {
            return Ok(true);
        }
        Ok(match &compare.target {
            // No value stands in no relation to any value.
            Target::Value(_) => false,
            Target::Version(number)
            | Target::Create(number)
            | Target::Mod(number)
            | Target::Lease(number) => stands(0.cmp(number), compare.relation),
        })
    }
}

/// The way a transaction goes, once its conditions are decided.
struct Path<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Query(&'a Query),
    Put(&'a Put),
    Delete(&'a Delete),
    Txn(Path<'a>),
}

fn stands(order: Ordering, relation: Relation) -> bool {
    match relation {
        Relation::Equal => order == Ordering::Equal,
        Relation::NotEqual => order != Ordering::Equal,
        Relation::Greater => order == Ordering::Greater,
        Relation::Less => order == Ordering::Less,
    }
}
