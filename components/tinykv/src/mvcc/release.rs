//! Minor releases of etcd, by which a cluster says what all of its members can do.

use std::fmt;

/// A minor release, such as 3.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// The first number.
    pub major: i64,
    /// The second one.
    pub minor: i64,
}

impl Release {
    /// Whose API the members speak.
    pub const OWN: Self = Self { major: 3, minor: 7 };

    /// Reads `3.6` or a whole version, of which the rest does not count.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, metadata) = text.split_once('+').unwrap_or((text, ""));
        let (numbers, pre_release) = text.split_once('-').unwrap_or((text, ""));
        let is_identifier =
            |text: &str| text.bytes().all(|it| it.is_ascii_alphanumeric() || b"-.".contains(&it));
        if !is_identifier(metadata) || !is_identifier(pre_release) {
            return None;
        }
        let parts: Result<Vec<i64>, _> = numbers.split('.').map(str::parse).collect();
        match parts.ok()?[..] {
            [major, minor] | [major, minor, _] => Some(Self { major, minor }),
            _ => None,
        }
    }

    /// The one to which a cluster of this one may go back.
    #[must_use]
    pub fn before(self) -> Self {
        Self { minor: self.minor - 1, ..self }
    }

    /// It as a version of three numbers.
    pub fn whole(self) -> String {
        format!("{self}.0")
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_as_etcd_reads_them() {
        let release = |major, minor| Some(Release { major, minor });
        for (text, expected) in [
            ("3.6", release(3, 6)),
            ("3.6.0", release(3, 6)),
            ("3.6.13", release(3, 6)),
            ("3.6.0-rc.1+build", release(3, 6)),
            ("3.6.0-rc!", None),
            ("3", None),
            ("3.6.1.2", None),
            ("3.x", None),
            ("", None),
        ] {
            assert_eq!(Release::parse(text), expected, "{text}");
        }
        assert_eq!(Release::OWN.before().whole(), "3.6.0");
    }
}
