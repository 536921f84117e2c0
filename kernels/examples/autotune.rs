//! Measures every tile of the bf16 linear layer, and cuBLASLt beside ours in bf16, fp16 and e4m3, and writes the tuning table of the GPU it runs on.
//!
//!     cargo run --release -p tinykernels --features cuda --example autotune               # prints the table
//!     cargo run --release -p tinykernels --features cuda --example autotune -- --write    # over kernels/cuda/tuning/GPU.txt; a path may follow
//!
//! Caches are flushed by reading before every call, and each candidate runs once before that: thirteen kernels in turn may not fit the caches of
//! instructions, and an engine runs the same few. Candidates take turns in an order drawn anew each round, medians of 31. A tile gets a line where it takes at most 0.97 of the time of
//! the tile that the rule picks, cuBLASLt where it takes at most 0.97 of ours. A new GPU's table is named in `src/cuda/tuning.rs`; a table
//! that is not built in is read from `tuning.txt` of the folder that `Device::open_with` is given.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use half::{bf16, f16};
use tinykernels::cuda::{
    Backend, Buffer, CublasLt, CudaError, Device, E4m3, Operand, Reduction, Scales, Scratch, Stream, Tile,
    linear_bf16_by, linear_bf16_tiled, linear_by, reduce, tile_by_waves,
};

/// `[features, columns]` of an 8B model: query, key and value; output; gate and up; down.
const SHAPES: [[usize; 2]; 4] = [[6144, 4096], [4096, 4096], [28672, 4096], [4096, 14336]];
/// Each stands for the numbers of rows above the one before it.
const ROWS: [usize; 12] = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];
const FEW: [usize; 5] = [32, 40, 48, 56, 64];
const MANY: [usize; 8] = [32, 64, 96, 128, 160, 192, 224, 256];
const ROUNDS: usize = 31;
/// What a line has to gain.
const WORTH: f64 = 0.97;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let write = arguments.next().is_some_and(|a| a == "--write");
    match run(write, arguments.next().map(PathBuf::from)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(write: bool, path: Option<PathBuf>) -> Result<(), Failure> {
    let device = Device::open(0)?;
    let bench = Bench::new(device.stream()?)?;
    let mut library = CublasLt::open(&bench.stream)?;
    let host = Numbers::of(
        SHAPES.iter().map(|[features, columns]| columns * features.max(&8192)).max().unwrap_or(0),
    );
    let mut table = String::from(
        "# kind, features, columns, rows: the tile, or that cuBLASLt is faster. kernels/examples/autotune.rs writes this.\n",
    );
    for shape in SHAPES {
        for (i, &rows) in ROWS.iter().enumerate() {
            let least = if i == 0 { 1 } else { ROWS[i - 1] + 1 };
            let mut say = |kind: &str, choice: String| {
                println!("{kind} {shape:?} {least}..{rows} {choice}");
                let [features, columns] = shape;
                table
                    .push_str(&[kind, &format!("{features} {columns} {least}..{rows} {choice}\n")].join(" "));
            };
            let (tile, judged) = bench.bf16(&mut library, rows, shape, &host.bf16)?;
            for line in tile.into_iter().chain(judged) {
                say("bf16", line);
            }
            if let Some(line) = bench.judged(&mut library, rows, shape, &host.f16, None)? {
                say("f16", line);
            }
            let one = Buffer::from_host(&bench.stream, &[1.0_f32])?;
            let scales = Some(Scales { x: one.view([1])?, weight: one.view([1])? });
            if let Some(line) = bench.judged(&mut library, rows, shape, &host.e4m3, scales)? {
                say("e4m3", line);
            }
        }
    }
    if write {
        let slug = device.name.to_lowercase().replace(' ', "-");
        let own =
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cuda/tuning").join(format!("{slug}.txt"));
        let path = path.unwrap_or_else(own);
        std::fs::write(&path, &table)?;
        println!("written: {}", path.display());
    }
    Ok(())
}

/// Numbers about one, the same in every run, in every kind.
struct Numbers {
    bf16: Vec<bf16>,
    f16: Vec<f16>,
    e4m3: Vec<E4m3>,
}

impl Numbers {
    fn of(count: usize) -> Self {
        let mut state = 0x2545_f491_u32;
        let mut all = Self { bf16: Vec::new(), f16: Vec::new(), e4m3: Vec::new() };
        for _ in 0..count {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * 3.0;
            all.bf16.push(bf16::from_f32(x));
            all.f16.push(f16::from_f32(x));
            // Bytes whose exponent is not the greatest: no NaN among them.
            all.e4m3.push(E4m3((state >> 24) as u8 & 0xbf));
        }
        all
    }
}

/// A stream, and 256 MB to read between calls.
struct Bench {
    stream: Stream,
    wide: Buffer<f32>,
}

impl Bench {
    fn new(stream: Stream) -> Result<Self, CudaError> {
        let wide = Buffer::from_host(&stream, &vec![1.0; 64 << 20])?;
        Ok(Self { stream, wide })
    }

    /// Medians, in microseconds, of calls that take turns.
    fn medians(
        &self,
        calls: usize,
        mut call: impl FnMut(usize, &Stream) -> Result<(), CudaError>,
    ) -> Result<Vec<f64>, CudaError> {
        let stream = &self.stream;
        let (mut sum, mut scratch) = (Buffer::zeros(stream, 1)?, Scratch::new(stream, self.wide.len())?);
        let mut moments: Vec<Vec<_>> = (0..calls).map(|_| Vec::new()).collect();
        let (mut order, mut state) = ((0..calls).collect::<Vec<_>>(), 1_u32);
        for round in 0..ROUNDS + 2 {
            for i in (1..calls).rev() {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                order.swap(i, (state >> 16) as usize % (i + 1));
            }
            for &at in &order {
                call(at, stream)?;
                for _ in 0..2 {
                    let wide = self.wide.view([self.wide.len()])?;
                    reduce(stream, &mut sum.view_mut([1])?, wide, Reduction::Sum, &mut scratch)?;
                }
                let before = stream.moment()?;
                call(at, stream)?;
                if round > 1 {
                    moments[at].push((before, stream.moment()?));
                }
            }
        }
        moments
            .iter()
            .map(|own| {
                let mut times =
                    own.iter().map(|(a, b)| b.since(a)).collect::<Result<Vec<Duration>, CudaError>>()?;
                times.sort_unstable();
                Ok(times[ROUNDS / 2].as_secs_f64() * 1e6)
            })
            .collect()
    }

    /// The lines for bf16: a tile, and that cuBLASLt is faster, where they are worth one.
    fn bf16(
        &self,
        library: &mut CublasLt,
        rows: usize,
        [features, columns]: [usize; 2],
        host: &[bf16],
    ) -> Result<(Option<String>, Option<String>), CudaError> {
        let x = Buffer::from_host(&self.stream, &host[..rows * columns])?;
        let weight = Buffer::from_host(&self.stream, &host[..features * columns])?;
        let multiprocessors = self.stream.device().multiprocessors as usize;
        let mut y = Buffer::<bf16>::zeros(&self.stream, rows * features)?;
        let mut tiles = Vec::new();
        tiles.extend(FEW.iter().filter(|_| rows <= 64).map(|&features| Tile::Few { features }));
        tiles.extend(MANY.iter().filter(|_| rows > 32).map(|&features| Tile::Many { features }));
        let times = self.medians(tiles.len() + 1, |at, stream| {
            let mut y = y.view_mut([rows, features])?;
            let (x, weight) = (x.view([rows, columns])?, weight.view([features, columns])?);
            match tiles.get(at) {
                Some(&tile) => linear_bf16_tiled(stream, &mut y, x, weight, tile),
                None => linear_bf16_by(&mut Backend::CublasLt(library), stream, &mut y, x, weight),
            }
        })?;
        let rule = tile_by_waves([rows, features, columns], multiprocessors);
        let at = tiles.iter().position(|&tile| tile == rule).expect("the rule picks one of these");
        let (by_rule, theirs) = (times[at], times[tiles.len()]);
        let (best, us) = (0..tiles.len())
            .map(|at| (tiles[at], times[at]))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .expect("there are tiles for every number of rows");
        let worth = us < WORTH * by_rule;
        let line = match best {
            Tile::Few { features } => format!("few {features} # {us:.1} us, {by_rule:.1} by the rule"),
            Tile::Many { features } => format!("many {features} # {us:.1} us, {by_rule:.1} by the rule"),
        };
        let ours = if worth { us } else { by_rule };
        Ok((worth.then_some(line), faster(theirs, ours)))
    }

    /// The line that cuBLASLt is faster, where it is worth one.
    fn judged<T: Operand>(
        &self,
        library: &mut CublasLt,
        rows: usize,
        [features, columns]: [usize; 2],
        host: &[T],
        scales: Option<Scales<'_>>,
    ) -> Result<Option<String>, CudaError> {
        let x = Buffer::from_host(&self.stream, &host[..rows * columns])?;
        let weight = Buffer::from_host(&self.stream, &host[..features * columns])?;
        let mut y = Buffer::<T::Output>::zeros(&self.stream, rows * features)?;
        let times = self.medians(2, |at, stream| {
            let mut backend = if at == 0 { Backend::Tiny } else { Backend::CublasLt(library) };
            let (x, weight) = (x.view([rows, columns])?, weight.view([features, columns])?);
            linear_by(&mut backend, stream, &mut y.view_mut([rows, features])?, x, weight, scales)
        })?;
        Ok(faster(times[1], times[0]))
    }
}

fn faster(theirs: f64, ours: f64) -> Option<String> {
    (theirs < WORTH * ours).then(|| format!("cublaslt # {theirs:.1} us, ours {ours:.1}"))
}
