//! Which nodes a walk has seen: a byte a node, cleared once in 255 walks.

use parking_lot::Mutex;

/// Marks of one walk.
#[derive(Default)]
pub struct Visited {
    marks: Vec<u8>,
    epoch: u8,
}

impl Visited {
    /// Starts a walk over `nodes` nodes, none of them seen.
    pub fn start(&mut self, nodes: usize) {
        if self.marks.len() < nodes {
            self.marks = vec![0; nodes];
            self.epoch = 0;
        }
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.marks.fill(0);
            self.epoch = 1;
        }
    }

    /// Marks a node; true when it was not seen before.
    #[inline]
    pub fn insert(&mut self, node: u32) -> bool {
        let mark = &mut self.marks[node as usize];
        let fresh = *mark != self.epoch;
        *mark = self.epoch;
        fresh
    }

    /// Whether a node was seen.
    #[inline]
    pub fn contains(&self, node: u32) -> bool {
        self.marks[node as usize] == self.epoch
    }
}

/// Marks that are not in use, so that a search allocates none.
#[derive(Default)]
pub struct VisitedPool {
    free: Mutex<Vec<Visited>>,
}

impl VisitedPool {
    /// Runs `walk` with marks from the pool.
    pub fn with<R>(&self, nodes: usize, walk: impl FnOnce(&mut Visited) -> R) -> R {
        let mut visited = self.free.lock().pop().unwrap_or_default();
        visited.start(nodes);
        let result = walk(&mut visited);
        let mut free = self.free.lock();
        if free.len() < 64 {
            free.push(visited);
        }
        result
    }
}
