//! What a manifest may ask for and this version cannot do yet.
//!
//! A gap is no mistake of the manifest: it is valid, it renders, and a later version will carry it out. `aistack render`
//! prints gaps as warnings; `aistack up` refuses to start with one, because the stack would not be what was asked for.

use std::fmt;

/// Where a manifest is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// Kubernetes.
    Cluster,
    /// Processes of this machine.
    Local,
}

/// One thing that this version cannot do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Object, such as `KVCluster tinykv`.
    pub object: String,
    /// Path of the field that asks for it.
    pub path: String,
    /// What cannot be done.
    pub what: String,
    /// What to do instead.
    pub instead: String,
    /// Whether it may yet be all right: a running cluster shows that, and a manifest does not.
    pub is_doubt: bool,
    /// The outlets that cannot do it.
    outlets: &'static [Outlet],
}

impl Gap {
    /// Cannot be done anywhere yet.
    pub fn everywhere(path: &str, what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::on(&[Outlet::Cluster, Outlet::Local], path, what, instead)
    }

    /// Cannot be done by `aistack up`.
    pub fn local(path: &str, what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::on(&[Outlet::Local], path, what, instead)
    }

    /// Cannot be done on a cluster yet.
    pub fn cluster(path: &str, what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::on(&[Outlet::Cluster], path, what, instead)
    }

    /// May fail on a cluster, for what the manifest says.
    pub fn doubt(path: &str, what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { is_doubt: true, ..Self::cluster(path, what, instead) }
    }

    fn on(
        outlets: &'static [Outlet],
        path: &str,
        what: impl Into<String>,
        instead: impl Into<String>,
    ) -> Self {
        Self {
            object: String::new(),
            path: path.to_owned(),
            what: what.into(),
            instead: instead.into(),
            is_doubt: false,
            outlets,
        }
    }

    /// Names the object.
    #[must_use]
    pub fn of(mut self, object: &str) -> Self {
        object.clone_into(&mut self.object);
        self
    }

    /// Moves the path to where the parent's manifest says it.
    #[must_use]
    pub fn under(mut self, object: &str, child: &str, parent: &str) -> Self {
        object.clone_into(&mut self.object);
        if let Some(rest) = self.path.strip_prefix(child) {
            self.path = format!("{parent}{rest}");
        }
        self
    }

    /// Whether the gap matters there.
    pub fn concerns(&self, outlet: Outlet) -> bool {
        self.outlets.contains(&outlet)
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  {}", self.path, self.what, self.instead)
    }
}
