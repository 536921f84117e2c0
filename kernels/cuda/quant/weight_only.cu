// y[M, N] = x[M, K] · dequant(W)[N, K]ᵀ for few rows (M <= 64): weights of 4 or 8 bits in groups of 128 along K, bf16 activations, f32 sums.
//
// Memory-bound: half a byte a weight, or one, read once. The weights are the A operand (16 output features a tile) and the activations the B operand,
// so that eight rows of x cost one mma and the tensor cores are busy with features, of which there are many.
//
// Packed weights, [N / 16, K / 128] tiles, so that a warp's reads are contiguous:
//   words   word w of lane l at (w / 4) * 512 + l * 16 + (w % 4) * 4. Of 4 bits, word w is the A fragment of k-step w (16 of the tile's 128 columns):
//           nibble i and nibble 4 + i are the low and high element of fragment register i. Of 8 bits, words 2w and 2w + 1 are: bytes 2i and 2i + 1
//           of the two are register i.
//   scales  behind them, 16 pairs (scale, offset) in bf16: weight = scale * (number + offset), offset an integer in -16 … 0, or -255 … 0
// lop3 puts a nibble under the exponent of 128, which is 128 + nibble in bf16; 128 - offset taken from that leaves nibble + offset: both exact. A byte
// goes under the exponent of 2^23 in f32 likewise, and the difference, of at most 8 bits, to bf16: exact too.
//
// One block a multiprocessor. Its feature tiles are shared out so that every warp owns one slice of K of one of them and streams it through a
// private cp.async ring: every thread reads back what it copied. x comes by tensor copies, one ring a slice, which the warps of the slice share:
// a producer warp orders them, so that products start with the first columns and all of x need never fit. Slices are summed once,
// in order. How K is sliced depends on N and K alone: a row's bits do not depend on M.
// From 17 rows on wgmma does the same, to the same bits: four warps of one slice are a warpgroup, whose A fragments are those of mma and whose B is x as it
// lies, read once for all four. Where a block has two tiles of eight slices, a cluster of two has four: each block takes four of the slices, and reads
// the other's sums out of its shared memory.
#include "../ptx/cluster.cuh"
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"
#include "../ptx/wgmma.cuh"

namespace {

constexpr int kWarps = 16;
constexpr int kGroup = 128;
// Stages of x of all slices together.
constexpr int kMostStages = 256;
// Bytes from the barrier that says a stage is full to the one that says it is empty.
constexpr int kToEmpty = 8 * kMostStages;
// What a pair of blocks shares out, and the numbers between two features where it sums.
constexpr int kPairTiles = 4, kPairSlices = 8, kPairLocal = kPairSlices / 2, kPairRow = 68;

struct Problem {
  __nv_bfloat16* y;
  const unsigned char* w;
  int m, n, k;
  int slices, tiles;  // of K, and warps (feature tiles at a time) of a slice; a pair of blocks has kPairSlices and kPairTiles
  int stages;         // of x, a slice
};

// Of a packed tile.
template <int BITS>
struct Packed {
  static constexpr int kVectors = BITS / 2;  // of 16 bytes, of a lane
  static constexpr int kScaleOffset = kVectors * 512, kTileBytes = kScaleOffset + 64;
};

// 128 + nibble, two of them.
__device__ __forceinline__ uint32_t widen(uint32_t word, int i) {
  uint32_t r;
  asm("lop3.b32 %0, %1, 0x000f000f, 0x43004300, 0xea;" : "=r"(r) : "r"(word >> (4 * i)));
  return r;
}
__device__ __forceinline__ uint32_t subtract(uint32_t a, uint32_t b) {
  uint32_t r;
  asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
__device__ __forceinline__ uint4 load_matrices(uint32_t address) {
  uint4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
__device__ __forceinline__ uint32_t load_shared4(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

// The same value, which the compiler may not compute anew at each use: it else reads thread and cluster registers in every step of the main loop.
__device__ __forceinline__ uint32_t keep(uint32_t v) {
  asm volatile("" : "+r"(v));
  return v;
}

// Two neighbouring bytes of a word, less a zero that 2^23 was added to.
__device__ __forceinline__ uint32_t widen_bytes(uint32_t word, int first, float zero) {
  const float low = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 + first)), high = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7441 + first));
  return tk::pack_bf16(low - zero, high - zero);
}

// A tile's words and scales, in registers: the stage they came from is free again.
template <int BITS>
struct Tile {
  uint4 words[Packed<BITS>::kVectors];
  uint32_t low, high;
  // Where this lane's words and its first row's scale lie.
  __device__ __forceinline__ void load(uint32_t lane_words, uint32_t lane_scale) {
    load_words<Packed<BITS>::kVectors>(lane_words);
    load_scales(lane_scale);
  }
  template <int VECTORS>
  __device__ __forceinline__ void load_words(uint32_t lane_words) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) words[i] = tk::load_shared16(lane_words + i * 512);
  }
  __device__ __forceinline__ void load_scales(uint32_t lane_scale) {
    low = load_shared4(lane_scale);
    high = load_shared4(lane_scale + 32);
  }
  // The A fragment of a k-step.
  __device__ __forceinline__ void fragment(uint32_t (&a)[4], int step) const {
    const float zero0 = -tk::unpack_bf16(low).y, zero1 = -tk::unpack_bf16(high).y;
    if constexpr (BITS == 4) {
      const uint32_t w = (&words[step / 4].x)[step % 4];
      const uint32_t z0 = tk::pack_bf16(128.f + zero0, 128.f + zero0), z1 = tk::pack_bf16(128.f + zero1, 128.f + zero1);
      a[0] = subtract(widen(w, 0), z0), a[1] = subtract(widen(w, 1), z1), a[2] = subtract(widen(w, 2), z0), a[3] = subtract(widen(w, 3), z1);
    } else {
      const uint4& v = words[step / 2];
      const uint32_t w0 = (&v.x)[step % 2 * 2], w1 = (&v.x)[step % 2 * 2 + 1];
      const float z0 = 8388608.f + zero0, z1 = 8388608.f + zero1;
      a[0] = widen_bytes(w0, 0, z0), a[1] = widen_bytes(w0, 2, z1), a[2] = widen_bytes(w1, 0, z0), a[3] = widen_bytes(w1, 2, z1);
    }
  }
};

// A group of x, of a tensor of three dimensions: 64 columns, rows, halves of groups.
__device__ __forceinline__ void copy_group(uint32_t shared, const tk::TensorMap& map, int group, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %2, %3}], [%4];" ::"r"(shared),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(0), "r"(2 * group), "r"(barrier)
      : "memory");
}

// out += a tile with a stage of x: two halves of [BATCHES * 8] rows of 128 bytes under the 128-byte swizzle; `x` is this lane's row and chunk.
// The halves are two chains of dependent products, so that one's latency hides under the other; of many rows, one chain after the other.
template <int BITS, int BATCHES>
__device__ __forceinline__ void tile_product(float (&out)[BATCHES][4], const Tile<BITS>& t, uint32_t x) {
  constexpr int kTogether = BATCHES < 4 ? 2 : 1;
  const float s0 = tk::unpack_bf16(t.low).x, s1 = tk::unpack_bf16(t.high).x;
#pragma unroll
  for (int first = 0; first < 2; first += kTogether) {
    float acc[kTogether][BATCHES][4] = {};
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      uint4 f[kTogether][BATCHES];
#pragma unroll
      for (int h = 0; h < kTogether; h++)
#pragma unroll
        for (int b = 0; b < BATCHES; b++) f[h][b] = load_matrices((pair ? x ^ 64 : x) + ((first + h) * BATCHES + b) * 1024);
#pragma unroll
      for (int odd = 0; odd < 2; odd++)
#pragma unroll
        for (int h = 0; h < kTogether; h++) {
          uint32_t a[4];
          t.fragment(a, (first + h) * 4 + pair * 2 + odd);
#pragma unroll
          for (int b = 0; b < BATCHES; b++)
            tk::mma_bf16(acc[h][b], a[0], a[1], a[2], a[3], odd ? f[h][b].z : f[h][b].x, odd ? f[h][b].w : f[h][b].y);
        }
    }
#pragma unroll
    for (int h = 0; h < kTogether; h++)
#pragma unroll
      for (int b = 0; b < BATCHES; b++) {
        out[b][0] = fmaf(s0, acc[h][b][0], out[b][0]);
        out[b][1] = fmaf(s0, acc[h][b][1], out[b][1]);
        out[b][2] = fmaf(s1, acc[h][b][2], out[b][2]);
        out[b][3] = fmaf(s1, acc[h][b][3], out[b][3]);
      }
  }
}

// The same for the 64 features of a warpgroup, of which this warp's tile is a quarter, half of the columns at a time; FIRST is the step in `t` that
// they begin with. What a warp without a tile adds is never stored.
template <int BITS, int BATCHES, int FIRST>
__device__ __forceinline__ void half_product_wide(float (&out)[BATCHES][4], const Tile<BITS>& t, uint32_t x) {
  const float s0 = tk::unpack_bf16(t.low).x, s1 = tk::unpack_bf16(t.high).x;
  float acc[BATCHES * 4];
  uint32_t a[4][4];
#pragma unroll
  for (int k = 0; k < 4; k++) t.fragment(a[k], FIRST + k);
  const uint64_t b = tk::matrix_descriptor(x);
  tk::wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; k++) tk::wgmma_k16_fragment(acc, a[k], b + 2 * k, k > 0);
  tk::wgmma_commit();
  tk::wgmma_wait<0>();
  tk::wgmma_hold(acc);
#pragma unroll
  for (int b8 = 0; b8 < BATCHES; b8++) {
    out[b8][0] = fmaf(s0, acc[4 * b8], out[b8][0]);
    out[b8][1] = fmaf(s0, acc[4 * b8 + 1], out[b8][1]);
    out[b8][2] = fmaf(s1, acc[4 * b8 + 2], out[b8][2]);
    out[b8][3] = fmaf(s1, acc[4 * b8 + 3], out[b8][3]);
  }
}

__device__ __forceinline__ void workers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(kWarps * 32) : "memory"); }

// Sums the slices of this round's feature tiles, in order, 16 rows at a time.
template <int BATCHES>
__device__ __forceinline__ void reduce_and_store(const Problem& p, const float (&out)[BATCHES][4], float* board, int place, int first_tile, int end) {
  constexpr int kChunk = BATCHES < 2 ? 1 : 2, kRow = kChunk * 8 + 1;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  float* mine = board + place * 16 * kRow;  // of a warp that has a tile
#pragma unroll
  for (int chunk = 0; chunk < BATCHES / kChunk; chunk++) {
    if (chunk * 16 >= p.m) return;
#pragma unroll
    for (int c = 0; place >= 0 && c < kChunk; c++) {
      const float(&sums)[4] = out[chunk * kChunk + c];
      mine[g * kRow + c * 8 + 2 * t] = sums[0];
      mine[g * kRow + c * 8 + 2 * t + 1] = sums[1];
      mine[(g + 8) * kRow + c * 8 + 2 * t] = sums[2];
      mine[(g + 8) * kRow + c * 8 + 2 * t + 1] = sums[3];
    }
    workers_sync();
    const int rows = min(kChunk * 8, p.m - chunk * 16), tiles = min(p.tiles, end - first_tile);
    for (int i = threadIdx.x; i < tiles * 16 * rows; i += kWarps * 32) {
      const int feature = i % 16, tile = i / 16 % tiles, row = i / 16 / tiles;
      float sum = 0.f;
#pragma unroll 4
      for (int s = 0; s < p.slices; s++) sum += board[((tile * p.slices + s) * 16 + feature) * kRow + row];
      p.y[static_cast<size_t>(chunk * 16 + row) * p.n + (first_tile + tile) * 16 + feature] = __float2bfloat16_rn(sum);
    }
    workers_sync();
  }
}

__device__ __forceinline__ float4 load_pair16(uint32_t address, uint32_t rank) {
  float4 v;
  asm volatile("{\n\t.reg .b32 r;\n\tmapa.shared::cluster.u32 r, %4, %5;\n\tld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [r];\n\t}"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address), "r"(rank)
               : "memory");
  return v;
}

// Sums the slices of a pair's four feature tiles, in order: the sums of all rows lie where x and the rings lay, 16 features of kPairRow numbers a
// warp, and a block stores two of the tiles.
__device__ __forceinline__ void reduce_pair(const Problem& p, const float (&out)[8][4], float* board) {
  const int thread = keep(threadIdx.x), pair = keep(blockIdx.x) / 2, pairs = gridDim.x / 2, blocks = p.n / 16;
  const int begin = static_cast<int>(static_cast<long long>(pair) * blocks / pairs);
  const int end = static_cast<int>(static_cast<long long>(pair + 1) * blocks / pairs);
  const int warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  float* mine = board + (warp % 4 * kPairLocal + warp / 4) * 16 * kPairRow;
  workers_sync();  // nobody reads either any more
#pragma unroll
  for (int b = 0; b < 8; b++) {
    *reinterpret_cast<float2*>(mine + g * kPairRow + 8 * b + 2 * t) = make_float2(out[b][0], out[b][1]);
    *reinterpret_cast<float2*>(mine + (g + 8) * kPairRow + 8 * b + 2 * t) = make_float2(out[b][2], out[b][3]);
  }
  tk::cluster_sync();
  const int feature = thread % 16, tile = 2 * tk::cluster_rank() + thread / 16 % 2, row = warp * 4;
  if (begin + tile < end && row < p.m) {
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    const uint32_t from = tk::smem_address(board + (tile * kPairLocal * 16 + feature) * kPairRow + row);
#pragma unroll 4
    for (int s = 0; s < kPairSlices; s++) {
      const float4 v = load_pair16(from + s % kPairLocal * (16 * kPairRow * 4), s / kPairLocal);
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    __nv_bfloat16* y = p.y + static_cast<size_t>(row) * p.n + (begin + tile) * 16 + feature;
    y[0] = __float2bfloat16_rn(sum.x);
    if (row + 1 < p.m) y[p.n] = __float2bfloat16_rn(sum.y);
    if (row + 2 < p.m) y[2 * p.n] = __float2bfloat16_rn(sum.z);
    if (row + 3 < p.m) y[3 * p.n] = __float2bfloat16_rn(sum.w);
  }
  tk::cluster_sync();  // the other block may still read
}

// Dynamic shared memory: x [slices of this block][stages][BATCHES * 8 * 128], rings of weights [kWarps][kStages][kTileBytes], the board.
template <int BITS, int BATCHES, bool WIDE, int BLOCKS = 1>
__device__ __forceinline__ void weight_only(const tk::TensorMap& map_x, const Problem& p) {
  constexpr int kStages = (BITS == 4 ? 3 : 2) + (BATCHES == 1);
  constexpr int kTileBytes = Packed<BITS>::kTileBytes, kScaleOffset = Packed<BITS>::kScaleOffset;
  constexpr int kXBytes = 2 * BATCHES * 1024;
  // Beside the sums of 64 rows there are registers for half a tile of eight bits.
  constexpr bool kHalves = WIDE && BATCHES == 8 && BITS == 8;
  extern __shared__ unsigned char unaligned[];
  __shared__ __align__(8) uint64_t barriers[2][kMostStages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int groups = p.k / kGroup;
  const uint32_t base = tk::smem_address(unaligned), x0 = (base + 1023) & ~1023u;
  const int slices = BLOCKS > 1 ? kPairSlices : p.slices, tiles = BLOCKS > 1 ? kPairTiles : p.tiles;
  const int local = slices / BLOCKS, first_slice = BLOCKS > 1 ? tk::cluster_rank() * local : 0;
  const uint32_t rings = x0 + local * p.stages * kXBytes;
  const uint32_t full0 = tk::smem_address(barriers), empty0 = full0 + kToEmpty;
  const int blocks = p.n / 16;
  const int pair = blockIdx.x / BLOCKS, pairs = gridDim.x / BLOCKS;
  const int begin = static_cast<int>(static_cast<long long>(pair) * blocks / pairs);
  const int end = static_cast<int>(static_cast<long long>(pair + 1) * blocks / pairs);

  // Four warps of a warpgroup have one slice.
  const int tile = WIDE ? warp / 4 / local * 4 + warp % 4 : warp / local, slice = WIDE ? warp / 4 % local : warp % local;
  const int from = (first_slice + slice) * groups / slices, to = (first_slice + slice + 1) * groups / slices;
  const bool works = warp < kWarps && (WIDE ? tile / 4 * 4 : tile) < tiles;
  // A slice's tiles lie one after the other; a further round skips to the next of this warp's feature tiles.
  int feeding = works && tile < tiles ? begin + tile : end, left = to - from;
  uint32_t source = (static_cast<uint32_t>(begin + tile) * groups + from) * kTileBytes + lane * 16;
  const uint32_t ring = keep(rings + warp * kStages * kTileBytes), ring_end = keep(ring + kStages * kTileBytes);
  const bool copies_scales = keep(lane) < 4;
  const int length = to - from;
  const auto feed = [&](uint32_t target) {
    if (feeding < end) {
      const unsigned char* w = p.w + source;
#pragma unroll
      for (int i = 0; i < Packed<BITS>::kVectors; i++) tk::copy_async16(target + i * 512, w + i * 512);
      if (copies_scales) tk::copy_async16(target + kScaleOffset, w + kScaleOffset);
      source += kTileBytes;
      if (--left == 0) {
        if constexpr (BLOCKS > 1)
          feeding = end;  // a pair takes its tiles at once
        else
          left = length, feeding += tiles, source += (tiles * groups - left) * kTileBytes;
      }
    }
    tk::copy_async_commit();
  };
  if (warp < kWarps) {
    for (int i = 0; i < kStages; i++) feed(ring + lane * 16 + i * kTileBytes);
  } else if (warp == kWarps) {
    for (int i = lane; i < local * p.stages; i += 32) {
      tk::barrier_init(full0 + 8 * i, 1);
      tk::barrier_init(empty0 + 8 * i, WIDE ? (tiles + 3) / 4 * 4 : tiles);
    }
    tk::barrier_init_fence();
    __syncwarp();
  }
  // A lane orders the stages of its slice; every round of tiles takes them all again.
  int ordered = 0, at_group = 0, slot = 0;
  uint32_t free_parity = 1;
  const int first_group = (first_slice + lane) * groups / slices, mine = (first_slice + lane + 1) * groups / slices - first_group;
  const auto order = [&]() {
    const uint32_t at = lane * p.stages + slot;
    tk::barrier_expect(full0 + 8 * at, kXBytes);
    copy_group(x0 + at * kXBytes, map_x, first_group + at_group, full0 + 8 * at);
    ordered++;
    if (++at_group == mine) at_group = 0;
    if (++slot == p.stages) slot = 0, free_parity ^= 1;
  };
  const int all = lane < local ? mine * ((end - begin + tiles - 1) / tiles) : 0;
  // The first stage before the others know of the barriers.
  if (warp == kWarps && all > 0) order();
  __syncthreads();
  if (warp >= kWarps) {
    tk::registers_lower<BATCHES < 8 ? 40 : 24>();
    if (warp > kWarps) return;
#pragma unroll 1
    while (ordered < all) {
      tk::barrier_wait(empty0 + 8 * (lane * p.stages + slot), free_parity);
      order();
    }
    return;
  }
  tk::registers_raise<BATCHES < 8 ? 104 : 112>();
  const uint32_t x_first = keep(x0 + slice * p.stages * kXBytes + (WIDE ? 0 : lane % 8 * 128 + ((lane / 8 ^ lane % 8) << 4)));
  const uint32_t full_first = keep(full0 + 8 * slice * p.stages);
  const uint32_t to_scale = keep(kScaleOffset + lane / 4 * 4 - lane * 16);
  const bool leads = keep(lane) == 0;
  uint32_t words = keep(ring + lane * 16), parity = 0;
  int at = 0;
  for (int first_tile = begin; first_tile < end; first_tile += tiles) {
    float out[BATCHES][4] = {};
    if (works) {
      const bool mine = tile < tiles && first_tile + tile < end;
#pragma unroll 1
      for (int group = length; group > 0; group--) {
        Tile<BITS> t = {};
        const auto refill = [&]() {
          __syncwarp();
          feed(words);  // where it lay: what is in registers is free
          words += kTileBytes;
          if (words >= ring_end) words -= kStages * kTileBytes;
        };
        if (mine) {
          tk::copy_async_wait<kStages - 1>();
          __syncwarp();
          if constexpr (kHalves) {
            const uint32_t self = keep(threadIdx.x) % 32;  // again: one register more does not fit
            t.load_scales(words + kScaleOffset + self / 4 * 4 - self * 16);
          } else {
            t.load(words, words + to_scale);
            refill();
          }
        }
        const uint32_t full = full_first + 8 * at, x = x_first + at * kXBytes;
        tk::barrier_wait(full, parity);
        if constexpr (kHalves) {
#pragma unroll 1
          for (int half = 0; half < 2; half++) {
            if (mine) {
              t.template load_words<Packed<BITS>::kVectors / 2>(words + half * (Packed<BITS>::kScaleOffset / 2));
              if (half == 1) refill();
            }
            half_product_wide<BITS, BATCHES, 0>(out, t, x + half * BATCHES * 1024);
          }
        } else if constexpr (WIDE) {
          half_product_wide<BITS, BATCHES, 0>(out, t, x);
          half_product_wide<BITS, BATCHES, 4>(out, t, x + BATCHES * 1024);
        } else if (mine) {
          tile_product<BITS, BATCHES>(out, t, x);
        }
        __syncwarp();
        if (leads) tk::barrier_arrive(full + kToEmpty);
        if (++at == p.stages) at = 0, parity ^= 1;
      }
    }
    // Read anew: nothing of it stays in registers through the main loop.
    const uint32_t start = tk::smem_address(unaligned), skipped = ((start + 1023) & ~1023u) - start;
    if constexpr (BLOCKS > 1) {
      reduce_pair(p, out, reinterpret_cast<float*>(unaligned + skipped));
    } else {
      const int self = keep(threadIdx.x) / 32, ours = WIDE ? self / 4 / slices * 4 + self % 4 : 0;
      const int place = !WIDE ? self : ours < tiles ? ours * slices + self / 4 % slices : -1;
      float* board = reinterpret_cast<float*>(unaligned + skipped + slices * p.stages * kXBytes + kWarps * kStages * kTileBytes);
      reduce_and_store<BATCHES>(p, out, board, place, first_tile, end);
    }
  }
}

}  // namespace

// Two blocks have four feature tiles, and half of the slices each.
#define WEIGHT_ONLY_PAIR(NAME, BITS)                                                                                                  \
  extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kWarps * 32 + 128, 1)                                         \
      NAME(const __grid_constant__ tk::TensorMap x, const __grid_constant__ Problem p) {                                               \
    weight_only<BITS, 8, true, 2>(x, p);                                                                                              \
  }
#define WEIGHT_ONLY(NAME, BITS, ROWS, WIDE)                                                                                           \
  extern "C" __global__ void __launch_bounds__(kWarps * 32 + 128, 1) NAME##ROWS(const __grid_constant__ tk::TensorMap x,                \
                                                                               const __grid_constant__ Problem p) {                    \
    weight_only<BITS, ROWS / 8, WIDE>(x, p);                                                                                          \
  }
WEIGHT_ONLY(w4a16_m, 4, 8, false)
WEIGHT_ONLY(w4a16_m, 4, 16, false)
WEIGHT_ONLY(w4a16_m, 4, 32, false)
WEIGHT_ONLY(w4a16_wide_m, 4, 32, true)
WEIGHT_ONLY(w4a16_wide_m, 4, 64, true)
WEIGHT_ONLY(w8a16_m, 8, 8, false)
WEIGHT_ONLY(w8a16_m, 8, 16, false)
WEIGHT_ONLY(w8a16_m, 8, 32, false)
WEIGHT_ONLY(w8a16_wide_m, 8, 32, true)
WEIGHT_ONLY(w8a16_wide_m, 8, 64, true)
WEIGHT_ONLY_PAIR(w4a16_pair_m64, 4)
WEIGHT_ONLY_PAIR(w8a16_pair_m64, 8)
