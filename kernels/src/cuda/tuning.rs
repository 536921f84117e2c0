//! What was fastest on one H200, by shape: rows out of `kernels/benches/gpu/tune.py`, which measures every tile of every shape anew.

use super::gemm::Tile;

/// A linear layer and the tile for at most so many rows.
struct Row {
    features: usize,
    columns: usize,
    most_rows: usize,
    tile: Tile,
}

const fn few(features: usize, columns: usize, most_rows: usize, tile: usize) -> Row {
    Row { features, columns, most_rows, tile: Tile::Few { features: tile } }
}

const fn many(features: usize, columns: usize, most_rows: usize, tile: usize) -> Row {
    Row { features, columns, most_rows, tile: Tile::Many { features: tile } }
}

/// Sorted by shape, then by rows. Shapes of an 8 B model: query, key and value; output; gate and up; down. More rows: the rule of waves.
const LINEAR: &[Row] = &[
    few(4096, 4096, 64, 64),
    few(4096, 14336, 32, 64),
    many(4096, 4096, 128, 32),
    many(4096, 14336, 128, 32),
    few(6144, 4096, 64, 48),
    few(28672, 4096, 64, 56),
];

/// The tuned tile, where the table has one.
pub(super) fn linear(rows: usize, features: usize, columns: usize) -> Option<Tile> {
    LINEAR
        .iter()
        .find(|row| row.features == features && row.columns == columns && rows <= row.most_rows)
        .map(|row| row.tile)
}

/// Shapes `[most rows, features, columns]`, and the least rows, at which cuBLASLt was faster by 3% or more: it splits K, which would make a row's
/// bits depend on the batch.
const CUBLAS: &[(usize, [usize; 3])] =
    &[(1, [128, 4096, 14336]), (33, [64, 4096, 4096]), (33, [128, 6144, 4096])];

/// Whether cuBLASLt was clearly faster.
pub(super) fn cublas_is_faster([rows, features, columns]: [usize; 3]) -> bool {
    CUBLAS
        .iter()
        .any(|&(least, [most, f, c])| (least..=most).contains(&rows) && features == f && columns == c)
}
