//! The engine against what etcd does, as tables and stories.
use super::*;
