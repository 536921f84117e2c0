//! Sizes in bytes, parsed once.

/// A size that a manifest gave as a Kubernetes quantity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    text: String,
    bytes: u64,
}

impl Size {
    /// Reads `100Gi`, `500M`, `1.5Ti`. `None` when the text is no quantity or the size does not fit 64 bits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale: u64 = match unit {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "P" => 1_000_000_000_000_000,
            "E" => 1_000_000_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            "Pi" => 1 << 50,
            "Ei" => 1 << 60,
            _ => return None,
        };
        let bytes = match number.split_once('.') {
            None => number.parse::<u64>().ok()?.checked_mul(scale)?,
            Some((whole, part)) => {
                let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
                let tenths = u32::try_from(part.len()).ok().and_then(|places| 10_u64.checked_pow(places))?;
                let part = u128::from(part.parse::<u64>().ok()?) * u128::from(scale) / u128::from(tenths);
                whole.checked_add(u64::try_from(part).ok()?)?
            }
        };
        Some(Self { text: text.to_owned(), bytes })
    }

    /// The size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The size as the manifest wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let table = [
            ("8Gi", Some(8 << 30)),
            ("500M", Some(500_000_000)),
            ("1.5Gi", Some(3 << 29)),
            ("1024", Some(1024)),
            ("0.5Ki", Some(512)),
            ("16Ei", None),
            ("15Ei", Some(15 << 60)),
            ("1.2.3Gi", None),
            ("Gi", None),
            ("8gb", None),
            ("", None),
        ];
        for (text, bytes) in table {
            assert_eq!(Size::parse(text).map(|size| size.bytes()), bytes, "{text}");
        }
    }
}
