//! Who may begin a turn. A turn is at a worker, or outside: it waits for servers that a tenant runs and names, and holds no worker
//! meanwhile. So that nobody has all of either, a namespace has some of the workers at most, and some turns in all.
//!
//! A turn that comes back from outside goes on at once, whoever is at the workers: it has begun and is to end. Nobody else begins
//! before there are fewer than there are workers again. So no more turns run than [`Limits::of_all`] and one of each namespace beside,
//! none waits for another, and a worker is never held by who waits outside.

use std::collections::HashMap;

/// Whom a worker serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Desk {
    /// Whoever is next.
    All,
    /// Users' edits alone.
    Edits,
}

/// How much there is; what is `None` has no bounds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// Turns that begin at the workers that serve all.
    pub workers: Option<usize>,
    /// And at those that are kept for edits.
    pub editors: Option<usize>,
    /// Turns of one namespace that are at workers. One more is at a worker for edits.
    pub at_work_of_one: Option<usize>,
    /// Turns of one namespace, wherever they are. One more is an edit's.
    pub of_one: Option<usize>,
    /// Turns of all namespaces, wherever they are. One of a namespace that has no other begins all the same.
    pub of_all: Option<usize>,
}

impl Limits {
    /// For so many workers; `is_shared`: between namespaces.
    pub(super) fn of(workers: usize, editors: usize, is_shared: bool) -> Self {
        let workers = workers.max(1);
        Self {
            workers: Some(workers),
            editors: Some(editors),
            // Where one namespace is all there is, it has them all.
            at_work_of_one: is_shared.then(|| workers.div_ceil(2)),
            of_one: Some(if is_shared { workers } else { 4 * workers }),
            of_all: Some(32 * workers),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    at_work: usize,
    outside: usize,
}

impl Turns {
    fn all(self) -> usize {
        self.at_work + self.outside
    }
}

/// Turns that run.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub limits: Limits,
    by_namespace: HashMap<String, Turns>,
    serving_all: usize,
    serving_edits: usize,
    outside: usize,
}

impl Shares {
    /// Whether a worker is free.
    pub(super) fn has_worker(&self, desk: Desk) -> bool {
        match desk {
            Desk::All => is_below(self.serving_all, self.limits.workers),
            Desk::Edits => is_below(self.serving_edits, self.limits.editors),
        }
    }

    /// Whether another turn of the namespace may begin.
    pub(super) fn have_room(&self, namespace: &str, desk: Desk) -> bool {
        let turns = self.by_namespace.get(namespace).copied().unwrap_or_default();
        let beyond = usize::from(desk == Desk::Edits);
        let all = self.serving_all + self.serving_edits + self.outside;
        is_below(turns.at_work, self.limits.at_work_of_one.map(|most| most + beyond))
            && is_below(turns.all(), self.limits.of_one.map(|most| most + beyond))
            && (turns.all() == 0 || is_below(all, self.limits.of_all))
    }

    /// Turns that wait outside.
    pub(super) fn outside(&self) -> usize {
        self.outside
    }

    /// A turn began.
    pub(super) fn began(&mut self, namespace: &str, desk: Desk) {
        self.by_namespace.entry(namespace.to_owned()).or_default().at_work += 1;
        *self.serving(desk) += 1;
    }

    /// A turn that was at a worker went outside.
    pub(super) fn left(&mut self, namespace: &str, desk: Desk) {
        let turns = self.by_namespace.entry(namespace.to_owned()).or_default();
        turns.at_work -= 1;
        turns.outside += 1;
        self.outside += 1;
        *self.serving(desk) -= 1;
    }

    /// It is back.
    pub(super) fn came_back(&mut self, namespace: &str, desk: Desk) {
        let turns = self.by_namespace.entry(namespace.to_owned()).or_default();
        turns.outside -= 1;
        turns.at_work += 1;
        self.outside -= 1;
        *self.serving(desk) += 1;
    }

    /// A turn that was at a worker ended.
    pub(super) fn ended(&mut self, namespace: &str, desk: Desk) {
        if let Some(turns) = self.by_namespace.get_mut(namespace) {
            turns.at_work -= 1;
            if turns.all() == 0 {
                self.by_namespace.remove(namespace);
            }
        }
        *self.serving(desk) -= 1;
    }

    fn serving(&mut self, desk: Desk) -> &mut usize {
        match desk {
            Desk::All => &mut self.serving_all,
            Desk::Edits => &mut self.serving_edits,
        }
    }
}

fn is_below(count: usize, most: Option<usize>) -> bool {
    most.is_none_or(|most| count < most)
}
