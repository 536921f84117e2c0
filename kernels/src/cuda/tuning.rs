//! What was fastest on a GPU, by shape: the tables in `cuda/tuning`, one a GPU, which `examples/autotune.rs` measures and writes.

use std::path::Path;

use super::error::{CudaError, DriverFault};
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
    /// Of a GPU of this name, or what `tuning.txt` of the folder says instead.
    pub fn of(gpu: &str, folder: Option<&Path>) -> Result<Self, CudaError> {
        const FILE: &str = "tuning.txt";
        let refuse = |name: &str, meaning: String| CudaError::Module {
            module: FILE,
            source: DriverFault { name: name.into(), meaning },
        };
        let own = match folder.map(|f| std::fs::read_to_string(f.join(FILE))) {
            Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(refuse("not read", e.to_string()));
            }
            read => read.and_then(Result::ok),
        };
        let committed = TABLES.iter().find(|(name, _)| *name == gpu).map_or("", |(_, table)| table);
        let parsed = |line| Row::parse(line).ok_or_else(|| refuse("not a line of a table", line.to_owned()));
        rows_of(own.as_deref().unwrap_or(committed)).map(parsed).collect::<Result<_, _>>().map(Self)
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
        assert!(Tuning::of("NVIDIA H100", None).expect("empty").0.is_empty());
        let h200 = Tuning::of("NVIDIA H200", None).expect("the committed table");
        assert_eq!(h200.tile(OperandKind::Bf16, [1, 28672, 4096]), Some(Tile::Few { features: 56 }));
        assert_eq!(h200.tile(OperandKind::Bf16, [1, 28672, 4104]), None);
        assert_eq!(h200.tile(OperandKind::F16, [1, 28672, 4096]), None);
    }

    #[test]
    fn a_table_of_a_folder_takes_the_committed_ones_place_and_a_line_of_it_that_is_none_is_named() {
        let folder = std::env::temp_dir().join(format!("tinykernels-tuning-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder of the temporary ones");
        let of = |text: Option<&str>| {
            let path = folder.join("tuning.txt");
            text.map_or_else(|| std::fs::remove_file(&path), |t| std::fs::write(&path, t)).expect("written");
            Tuning::of("NVIDIA H200", Some(&folder))
        };
        let own = of(Some("# measured here\nbf16 8 16 1..9 many 64 # 3 us\n")).expect("a table");
        assert_eq!(own.tile(OperandKind::Bf16, [9, 8, 16]), Some(Tile::Many { features: 64 }));
        assert_eq!(own.tile(OperandKind::Bf16, [1, 28672, 4096]), None);
        let refused = of(Some("bf16 8 16 1..9 wide 64\n")).expect_err("no such choice").to_string();
        assert!(refused.contains("tuning.txt") && refused.contains("wide 64"), "{refused}");
        let committed = of(None).expect("a folder without a table");
        assert!(committed.tile(OperandKind::Bf16, [1, 28672, 4096]).is_some());
        std::fs::remove_dir_all(&folder).expect("removed");
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
