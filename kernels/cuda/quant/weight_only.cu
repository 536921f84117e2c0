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
// lies, read once for all four.
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

struct Problem {
  __nv_bfloat16* y;
  const unsigned char* w;
  int m, n, k;
  int slices, tiles;  // of K, and warps (feature tiles at a time) of a slice
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
#pragma unroll
    for (int i = 0; i < Packed<BITS>::kVectors; i++) words[i] = tk::load_shared16(lane_words + i * 512);
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

// The same for the 64 features of a warpgroup, of which this warp's tile is a quarter; zeros where it has none.
template <int BITS, int BATCHES>
__device__ __forceinline__ void tile_product_wide(float (&out)[BATCHES][4], const Tile<BITS>& t, uint32_t x, bool mine) {
  const float s0 = tk::unpack_bf16(t.low).x, s1 = tk::unpack_bf16(t.high).x;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float acc[BATCHES * 4];
    uint32_t a[4][4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      t.fragment(a[k], half * 4 + k);
#pragma unroll
      for (int i = 0; i < 4; i++) a[k][i] = mine ? a[k][i] : 0;
    }
    const uint64_t b = tk::matrix_descriptor(x + half * BATCHES * 1024);
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

// Dynamic shared memory: x [slices][stages][BATCHES * 8 * 128], rings of weights [kWarps][kStages][kTileBytes], the board.
template <int BITS, int BATCHES, bool WIDE>
__device__ __forceinline__ void weight_only(const tk::TensorMap& map_x, const Problem& p) {
  constexpr int kStages = (BITS == 4 ? 3 : 2) + (BATCHES == 1);
  constexpr int kTileBytes = Packed<BITS>::kTileBytes, kScaleOffset = Packed<BITS>::kScaleOffset;
  constexpr int kXBytes = 2 * BATCHES * 1024;
  extern __shared__ unsigned char unaligned[];
  __shared__ __align__(8) uint64_t barriers[2][kMostStages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int groups = p.k / kGroup;
  const uint32_t base = tk::smem_address(unaligned), x0 = (base + 1023) & ~1023u;
  const uint32_t rings = x0 + p.slices * p.stages * kXBytes;
  float* board = reinterpret_cast<float*>(unaligned + (rings - base) + kWarps * kStages * kTileBytes);
  const uint32_t full0 = tk::smem_address(barriers), empty0 = full0 + kToEmpty;
  const int blocks = p.n / 16;
  const int begin = static_cast<int>(static_cast<long long>(blockIdx.x) * blocks / gridDim.x);
  const int end = static_cast<int>(static_cast<long long>(blockIdx.x + 1) * blocks / gridDim.x);

  // Four warps of a warpgroup have one slice.
  const int tile = WIDE ? warp / 4 / p.slices * 4 + warp % 4 : warp / p.slices, slice = WIDE ? warp / 4 % p.slices : warp % p.slices;
  const int from = slice * groups / p.slices, to = (slice + 1) * groups / p.slices;
  const bool works = warp < kWarps && (WIDE ? tile / 4 * 4 : tile) < p.tiles;
  // A slice's tiles lie one after the other; a further round skips to the next of this warp's feature tiles.
  int feeding = works && tile < p.tiles ? begin + tile : end, left = to - from;
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
      if (--left == 0) left = length, feeding += p.tiles, source += (p.tiles * groups - left) * kTileBytes;
    }
    tk::copy_async_commit();
  };
  if (warp < kWarps) {
    for (int i = 0; i < kStages; i++) feed(ring + lane * 16 + i * kTileBytes);
  } else if (warp == kWarps) {
    for (int i = lane; i < p.slices * p.stages; i += 32) {
      tk::barrier_init(full0 + 8 * i, 1);
      tk::barrier_init(empty0 + 8 * i, WIDE ? (p.tiles + 3) / 4 * 4 : p.tiles);
    }
    tk::barrier_init_fence();
    __syncwarp();
  }
  // A lane orders the stages of its slice; every round of tiles takes them all again.
  int ordered = 0, at_group = 0, slot = 0;
  uint32_t free_parity = 1;
  const int first_group = lane * groups / p.slices, mine = (lane + 1) * groups / p.slices - first_group;
  const auto order = [&]() {
    const uint32_t at = lane * p.stages + slot;
    tk::barrier_expect(full0 + 8 * at, kXBytes);
    copy_group(x0 + at * kXBytes, map_x, first_group + at_group, full0 + 8 * at);
    ordered++;
    if (++at_group == mine) at_group = 0;
    if (++slot == p.stages) slot = 0, free_parity ^= 1;
  };
  const int all = lane < p.slices ? mine * ((end - begin + p.tiles - 1) / p.tiles) : 0;
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
  for (int first_tile = begin; first_tile < end; first_tile += p.tiles) {
    float out[BATCHES][4] = {};
    if (works) {
      const bool mine = tile < p.tiles && first_tile + tile < end;
#pragma unroll 1
      for (int group = length; group > 0; group--) {
        Tile<BITS> t = {};
        if (mine) {
          tk::copy_async_wait<kStages - 1>();
          __syncwarp();
          t.load(words, words + to_scale);
          __syncwarp();
          feed(words);  // where it lay: what is in registers is free
          words += kTileBytes;
          if (words >= ring_end) words -= kStages * kTileBytes;
        }
        const uint32_t full = full_first + 8 * at, x = x_first + at * kXBytes;
        tk::barrier_wait(full, parity);
        if constexpr (WIDE)
          tile_product_wide<BITS, BATCHES>(out, t, x, mine);
        else if (mine)
          tile_product<BITS, BATCHES>(out, t, x);
        __syncwarp();
        if (leads) tk::barrier_arrive(full + kToEmpty);
        if (++at == p.stages) at = 0, parity ^= 1;
      }
    }
    reduce_and_store<BATCHES>(p, out, board, WIDE && tile >= p.tiles ? -1 : WIDE ? tile * p.slices + slice : warp, first_tile, end);
  }
}

}  // namespace

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
