//! What was fastest on a GPU, by shape: the tables in `cuda/tuning`, one a GPU, which `examples/autotune.rs` measures and writes.

use super::gemm::Tile;
use super::linear::OperandKind;

/// A GPU as its driver names it, and its table.
const TABLES: &[(&str, &str)] = &[("NVIDIA H200", include_str!("../../cuda/tuning/nvidia-h200.txt"))];

/// The table of one GPU; of one that nobody measured it is empty.
#[derive(Debug, Default)]
pub(super) struct Tuning(Vec<Row>);

/// What a linear layer of one shape does for these numbers of rows.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    kind: OperandKind,
    features: usize,
    columns: usize,
    least: usize,
    most: usize,
    choice: Choice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Tile(Tile),
    /// Faster than ours by 3% or more; with another order of sums for other numbers of rows.
    CublasLt,
}

impl Tuning {
    /// Of a GPU of this name.
    pub fn of(gpu: &str) -> Self {
        let table = TABLES.iter().find(|(name, _)| *name == gpu).map_or("", |(_, table)| table);
        Self(rows_of(table).filter_map(Row::parse).collect())
    }

    fn find(&self, kind: OperandKind, [rows, features, columns]: [usize; 3]) -> impl Iterator<Item = Choice> {
        self.0
            .iter()
            .filter(move |row| {
                row.kind == kind
                    && (row.features, row.columns) == (features, columns)
                    && (row.least..=row.most).contains(&rows)
            })
            .map(|row| row.choice)
    }

    /// The tile of `[rows, features, columns]`, where the table has one.
    pub fn tile(&self, kind: OperandKind, shape: [usize; 3]) -> Option<Tile> {
        self.find(kind, shape).find_map(|choice| match choice {
            Choice::Tile(tile) => Some(tile),
            Choice::CublasLt => None,
        })
    }

    /// Whether cuBLASLt was clearly faster.
    pub fn cublas_is_faster(&self, kind: OperandKind, shape: [usize; 3]) -> bool {
        self.find(kind, shape).any(|choice| choice == Choice::CublasLt)
    }
}

/// What stands before a `#` of every line that is not empty.
fn rows_of(table: &str) -> impl Iterator<Item = &str> {
    table.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty())
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let kind = match words.next()? {
            "bf16" => OperandKind::Bf16,
            "f16" => OperandKind::F16,
            "e4m3" => OperandKind::E4m3,
            _ => return None,
        };
        let features = words.next()?.parse().ok()?;
        let columns = words.next()?.parse().ok()?;
        let (least, most) = words.next()?.split_once("..")?;
        let (least, most) = (least.parse().ok()?, most.parse().ok()?);
        let choice = match (words.next()?, words.next()) {
            ("few", Some(n)) => Choice::Tile(Tile::Few { features: n.parse().ok()? }),
            ("many", Some(n)) => Choice::Tile(Tile::Many { features: n.parse().ok()? }),
            ("cublaslt", None) => Choice::CublasLt,
            _ => return None,
        };
        words.next().is_none().then_some(Self { kind, features, columns, least, most, choice })
    }
}

#[cfg(test)]
mod tests {
    use super::{Choice, OperandKind, Row, TABLES, Tile, Tuning, rows_of};

    #[test]
    fn every_line_of_the_committed_tables_is_read_and_none_contradicts_another() {
        for (gpu, table) in TABLES {
            let rows: Vec<_> = rows_of(table)
                .map(|line| Row::parse(line).unwrap_or_else(|| panic!("{gpu}: {line}")))
                .collect();
            assert!(!rows.is_empty(), "{gpu}");
            for (i, a) in rows.iter().enumerate() {
                assert!(a.least >= 1 && a.least <= a.most, "{a:?}");
                if let Choice::Tile(Tile::Few { .. }) = a.choice {
                    assert!(a.most <= 64, "{a:?}");
                }
                let same = |b: &&Row| {
                    (b.kind, b.features, b.columns) == (a.kind, a.features, a.columns)
                        && (b.choice == Choice::CublasLt) == (a.choice == Choice::CublasLt)
                        && b.least <= a.most
                        && a.least <= b.most
                };
                assert_eq!(rows[..i].iter().find(same), None, "{a:?}");
            }
        }
    }

    #[test]
    fn a_gpu_that_nobody_measured_has_an_empty_table() {
        assert!(Tuning::of("NVIDIA H100").0.is_empty());
        let h200 = Tuning::of("NVIDIA H200");
        assert_eq!(h200.tile(OperandKind::Bf16, [1, 28672, 4096]), Some(Tile::Few { features: 56 }));
        assert_eq!(h200.tile(OperandKind::Bf16, [1, 28672, 4104]), None);
        assert_eq!(h200.tile(OperandKind::F16, [1, 28672, 4096]), None);
    }

    #[test]
    fn a_line_that_is_none_is_not_half_read() {
        for line in [
            "bf16 8 8 1..2",
            "bf16 8 8 1 few 8",
            "int4 8 8 1..2 few 8",
            "bf16 8 8 1..2 few 8 8",
            "bf16 8 8 1..2 cublaslt 3",
        ] {
            assert_eq!(Row::parse(line), None, "{line}");
        }
    }
}
