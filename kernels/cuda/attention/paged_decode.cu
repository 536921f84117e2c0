// Paged decode attention: one query token a sequence, grouped heads, head dimension 64 or 128, bf16 or e4m3 cache; f32 softmax, with a
// sliding window and a soft cap of scores where the model has them.
//
//   q      [sequences, kv_heads * group, d]
//   k, v   [pages, kv_heads, 16 * n, d]         so that a page of one head is one contiguous block of 2 KiB or more
//   out    [sequences, kv_heads * group, d]
//
// Memory-bound: every byte of K and V is read once. The unit of work is (sequence, kv head, chunk of its tokens), and a block's warps share it,
// every fourth tile each. Each warp fills a private ring of kStages tiles in shared memory by asynchronous copies that only it waits for, and runs
// on into the block's next unit while this one is summed over the warps: two blocks a multiprocessor, so that one
// streams while the other sums.
// A fifth warp, the clerk, draws units and announces chunks, since a fence waits for all its thread's copies in flight.
// Units are drawn from a counter, well ahead: multiprocessors do not get equal shares of the memory's bandwidth, and a fixed split waits for
// the slowest (measured: a third of the time).
//   tile = 16 tokens: K 4 KiB and V 4 KiB (d 64 or e4m3: 2 and 2, both: 1 and 1)
//   scores  S[head, token] = Q·Kᵀ   mma 16x8x16: A = Q (GROUP of 16 rows used), B = K rows as they lie in memory
//   output  O[head, d]    += P·V    mma 16x8x16: A = P, which is S's own register layout; B = two V rows interleaved by byte permutes
// The copies swizzle 16-byte chunks (K: bit 2 by the row's parity; V: bits 1 and 2 by the row's pair), so that no read meets a bank conflict;
// rows of 64 bytes: K as it lies, V bit 2 of a pair of rows by the pair's parity;
// bulk copies, which cannot, cost a quarter of the rate (four-way conflicts on V, two-way on K).
// e4m3 becomes fp16 in registers, two numbers an instruction, exactly; queries and weights are fp16 then.
// Both products sum over a permuted index (d in the first, the columns of V in the second), so that every shared-memory read is 16 bytes.
//
// The chunk length depends on a sequence's own length and the window only, and the chunks of a sequence are merged in order by whichever block finishes last:
// the bits of a sequence's output do not depend on the batch around it.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;  // and one more warp, the clerk
constexpr int kBoardHeads = 4;
constexpr int kTile = 16;
constexpr float kMinusInfinity = -INFINITY;

// What a cache holds: its rows, and how many tiles fly at once (the same bytes for every kind).
template <int DIM, bool E4M3>
struct Cache {
  static constexpr int kDim = DIM;
  static constexpr bool kE4m3 = E4M3;
  static constexpr int kRowBytes = DIM * (E4M3 ? 1 : 2);
  static constexpr int kChunks = kRowBytes / 64;   // of 16 bytes, that a lane of four reads of a key
  static constexpr bool kNarrow = kRowBytes == 64;  // a lane of eight reads 8 bytes of a value
  static constexpr int kHalves = kNarrow ? 1 : kRowBytes / 128;  // of 16 bytes, that a lane of eight reads of a value
  static constexpr int kTileBytes = kTile * kRowBytes;
  static constexpr int kStageBytes = 2 * kTileBytes;
  static constexpr int kStages = 24576 / kStageBytes;
};

struct Problem {
  __nv_bfloat16* out;
  const __nv_bfloat16* q;
  const __nv_bfloat16* k;
  const __nv_bfloat16* v;
  const int* lengths;      // [sequences] tokens in the cache, 0 gives zeros
  const int* block_table;  // [sequences, table_width] page numbers
  const float* k_scale;    // [kv_heads] each, of an e4m3 cache
  const float* v_scale;
  float* partial;          // [sequences, kv_heads * group, max_chunks, d + 2]
  unsigned int* arrived;   // [2 + sequences * kv_heads]: units drawn, blocks done, chunks arrived; zero before the first call, left zero
  int sequences, kv_heads, page_tokens, table_width, max_chunks;
  int group;               // query heads a key head
  int window;              // tokens seen, the last ones
  float scale_log2;        // softmax scale * log2(e), above zero; with a cap, the cap * log2(e)
  float inner;             // softmax scale / cap; 0 without a cap
};

// Half the sequence, but 256 to 1,024 tokens, and at most 32 chunks: a multiple of the tile, by the length alone.
__device__ __forceinline__ int chunk_tokens(int length) {
  const int by_count = (length + 31) / 32, by_share = min(max((length + 1) / 2, 256), 1024);
  return (max(by_count, by_share) + kTile - 1) / kTile * kTile;
}

__device__ __forceinline__ void workers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory"); }

struct Unit {
  int pair;    // sequence * kv_heads + head
  int chunk;   // of the pair
  int chunks;  // of the pair
  int first;   // token
  int tokens;  // 0 or fewer: nothing to read
  int skip;    // of its first tile, tokens before the window
};

// The tile that the window begins in.
__device__ __forceinline__ int first_token(const Problem& p, int length) { return max(0, length - p.window) / kTile * kTile; }

// Units are numbered pair-fastest: blocks work side by side on the heads of one page.
__device__ __forceinline__ Unit unit_of(const Problem& p, int id) {
  const int pairs = p.sequences * p.kv_heads;
  Unit u;
  u.chunk = id / pairs;
  u.pair = id % pairs;
  const int length = __ldg(p.lengths + u.pair / p.kv_heads);
  const int start = first_token(p, length), seen = length - start, size = chunk_tokens(seen);
  u.first = start + u.chunk * size;
  u.tokens = min(size, length - u.first);
  u.chunks = max(1, (seen + size - 1) / size);
  u.skip = u.chunk == 0 ? max(0, length - p.window) - start : 0;
  return u;
}

// The most chunks any sequence has: the capacity of the table may be far more.
__device__ __forceinline__ int chunks_in_use(const Problem& p) {
  __shared__ int most;
  if (threadIdx.x == 0) most = 1;
  __syncthreads();
  int mine = 1;
  for (int i = threadIdx.x; i < p.sequences; i += kThreads) {
    const int length = __ldg(p.lengths + i), seen = length - first_token(p, length), size = chunk_tokens(seen);
    mine = max(mine, (seen + size - 1) / size);
  }
  atomicMax(&most, mine);
  __syncthreads();
  return most;
}

// A warp's producer: its next tile of unit number `unit` of the block. All lanes hold the same values but for `places`, a lane each of the
// warp's next 32 tiles.
struct Feed {
  int unit, tile, stage, flying;
  int tokens;
  int places;
};

// This lane's of the warp's 32 tiles from `tile` on: its place in the cache, in tiles.
__device__ __forceinline__ int tile_place(const Problem& p, const Unit& u, int tile) {
  const int at = (tile + threadIdx.x % 32 * kWarps) * kTile;
  if (at >= u.tokens) return 0;
  const int token = u.first + at, sequence = u.pair / p.kv_heads, head = u.pair % p.kv_heads;
  const int page = __ldg(p.block_table + static_cast<size_t>(sequence) * p.table_width + token / p.page_tokens);
  return (page * p.kv_heads + head) * (p.page_tokens / kTile) + token % p.page_tokens / kTile;
}

// A head's running softmax and its share of the output: thread (g, t) of a quad row holds head g, columns
// (half*8 + 2t)*8 + i in o[half][i][0] and (half*8 + 2t + 1)*8 + i in o[half][i][1]; of an e4m3 cache (2t)*(d/8) + half*8 + i and d/8 on.
template <class C>
struct State {
  static constexpr int kHalves = C::kDim / 64;
  float o[kHalves][8][4];
  float peak, sum;
};
template <class C>
__device__ __forceinline__ int column_of(int half, int c, int i) {
  const int n = 2 * (threadIdx.x % 4) + c;
  return C::kE4m3 ? n * (C::kDim / 8) + half * 8 + i : (half * 8 + n) * 8 + i;
}

// Scores: the raw product in, tanh of its capped share out; 1 - 2 / (1 + e^2x) to f32's own precision where it matters.
__device__ __forceinline__ float capped(float x, float inner) {
  return 1.f - __fdividef(2.f, 1.f + tk::exp2_fast(2.f * tk::kLog2e * inner * x));
}

__device__ __forceinline__ uint32_t pack_f16(float lo, float hi) {
  uint32_t w;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(hi), "f"(lo));
  return w;
}
// Four e4m3 as two words of two fp16.
__device__ __forceinline__ uint2 widen(uint32_t w) {
  uint2 r;
  asm volatile("{\n\t.reg .b16 lo, hi;\n\tmov.b32 {lo, hi}, %2;\n\tcvt.rn.f16x2.e4m3x2 %0, lo;\n\tcvt.rn.f16x2.e4m3x2 %1, hi;\n\t}" : "=r"(r.x), "=r"(r.y) : "r"(w));
  return r;
}
__device__ __forceinline__ void mma_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// In the lower half of sixteen bytes.
__device__ __forceinline__ uint4 load_shared8(uint32_t address) {
  uint4 v = make_uint4(0, 0, 0, 0);
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}

// Where a lane reads in its warp's tiles, as byte offsets in a stage; every other read is at a constant distance.
struct Lanes {
  uint32_t even, odd;  // K: row g, chunk t of the even and of the odd groups of four chunks
  uint32_t values;     // V: row 2t, chunk g; of narrow rows the next row lies where bit 6 is the other
};
template <class C>
__device__ __forceinline__ Lanes lanes_of() {
  const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t key = g * C::kRowBytes + t * 16, parity = g & 1;
  if (C::kNarrow) return {key, key, C::kTileBytes + t * 128 + ((g / 2) ^ (t & 1) * 4) * 16 + g % 2 * 8};
  return {key + parity * 64, key + (1 - parity) * 64, C::kTileBytes + 2 * t * C::kRowBytes + (g ^ 2 * t) * 16};
}

// A bf16 query head stays in registers, in the order in which keys are read. An e4m3 cache's is read from shared memory for every tile: there
// are no registers left.
template <class C>
struct Query {
  uint32_t held[C::kE4m3 ? 1 : C::kDim / 32][4];
  uint32_t shared;  // this lane's, of fp16
};

// Rows 8 to 15 of A are not used, so whatever is at hand fills their registers.
template <class C, bool MASK>
__device__ __forceinline__ void consume_tile(State<C>& s, const Query<C>& query, uint32_t stage, const Lanes& at, int skip, int valid,
                                             float scale, float inner) {
  const int t = threadIdx.x % 4;
  const auto key = [&](int half, int j) { return tk::load_shared16(stage + (j % 2 ? at.odd : at.even) + half * 8 * C::kRowBytes + j / 2 * 128); };
  // Four chains of dependent products: a product's result is some thirty cycles away.
  float score[2][2][4] = {};
  if constexpr (C::kE4m3) {
#pragma unroll
    for (int j = 0; j < C::kChunks; j++) {
      const uint4 k[2] = {key(0, j), key(1, j)};
      const uint4 q[2] = {tk::load_shared16(query.shared + j * 128), tk::load_shared16(query.shared + j * 128 + 16)};
#pragma unroll
      for (int w = 0; w < 4; w++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const uint2 b = widen((&k[half].x)[w]);
          const uint32_t low = (&q[w / 2].x)[w % 2 * 2], high = (&q[w / 2].x)[w % 2 * 2 + 1];
          mma_f16(score[half][w % 2], low, low, high, high, b.x, b.y);
        }
    }
  } else {
    uint4 k[2][C::kChunks];
    const auto& q = query.held;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < C::kChunks; j++) k[half][j] = key(half, j);
#pragma unroll
    for (int j = 0; j < C::kChunks; j++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        tk::mma_bf16(score[half][0], q[j][0], q[j][2], q[j][1], q[j][3], k[half][j].x, k[half][j].y);
        tk::mma_bf16(score[half][1], q[j][2], q[j][0], q[j][3], q[j][1], k[half][j].z, k[half][j].w);
      }
  }
  uint4 v[C::kHalves][4];
#pragma unroll
  for (int half = 0; half < C::kHalves; half++)
#pragma unroll
    for (int r = 0; r < 4; r++) {
      if constexpr (C::kNarrow)
        v[half][r] = load_shared8((stage + at.values + r / 2 * 512) ^ r % 2 * 64);
      else
        v[half][r] = tk::load_shared16(stage + at.values + (r / 2 * 8 + r % 2) * C::kRowBytes + half * 128);
    }
  float x[4] = {score[0][0][0] + score[0][1][0], score[0][0][1] + score[0][1][1], score[1][0][0] + score[1][1][0],
                score[1][0][1] + score[1][1][1]};
  if (inner != 0.f) {
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = capped(x[i], inner);
  }
  if (MASK) {
    const int token[4] = {2 * t, 2 * t + 1, 8 + 2 * t, 9 + 2 * t};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (token[i] >= skip && token[i] < valid) continue;
      x[i] = kMinusInfinity;
      // What lies past the end of a sequence may be a NaN, and 0 * NaN is one.
#pragma unroll
      for (int half = 0; half < C::kHalves; half++) v[half][i] = make_uint4(0, 0, 0, 0);
    }
  }
  float peak = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
  peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 1));
  peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, 2)) * scale;
  if (__any_sync(0xffffffffu, peak > s.peak)) {
    const float fresh = fmaxf(peak, s.peak);
    const float fade = tk::exp2_fast(s.peak - fresh);
    s.peak = fresh;
    s.sum *= fade;
#pragma unroll
    for (int half = 0; half < State<C>::kHalves; half++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        s.o[half][i][0] *= fade;
        s.o[half][i][1] *= fade;
      }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = tk::exp2_fast(fmaf(x[i], scale, -s.peak));
  s.sum += (x[0] + x[1]) + (x[2] + x[3]);
  if constexpr (C::kE4m3) {
    const uint32_t a0 = pack_f16(x[0], x[1]), a2 = pack_f16(x[2], x[3]);
#pragma unroll
    for (int w = 0; w < C::kDim / 32; w++) {
      const uint32_t r0 = (&v[0][0].x)[w], r1 = (&v[0][1].x)[w], r2 = (&v[0][2].x)[w], r3 = (&v[0][3].x)[w];
#pragma unroll
      for (int pair = 0; pair < 2; pair++) {
        const uint32_t order = pair ? 0x7362 : 0x5140;
        const uint2 low = widen(__byte_perm(r0, r1, order)), high = widen(__byte_perm(r2, r3, order));
        const int i = w * 4 + pair * 2;
        mma_f16(s.o[i / 8][i % 8], a0, a0, a2, a2, low.x, high.x);
        mma_f16(s.o[i / 8][i % 8 + 1], a0, a0, a2, a2, low.y, high.y);
      }
    }
  } else {
    const uint32_t a0 = tk::pack_bf16(x[0], x[1]), a2 = tk::pack_bf16(x[2], x[3]);
#pragma unroll
    for (int half = 0; half < C::kHalves; half++)
#pragma unroll
      for (int w = 0; w < 4; w++) {
        const uint32_t r0 = (&v[half][0].x)[w], r1 = (&v[half][1].x)[w], r2 = (&v[half][2].x)[w], r3 = (&v[half][3].x)[w];
        tk::mma_bf16(s.o[half][2 * w], a0, a0, a2, a2, __byte_perm(r0, r1, 0x5410), __byte_perm(r2, r3, 0x5410));
        tk::mma_bf16(s.o[half][2 * w + 1], a0, a0, a2, a2, __byte_perm(r0, r1, 0x7632), __byte_perm(r2, r3, 0x7632));
      }
  }
}

// A warp's share of kBoardHeads heads, and what each of a unit's warps had.
template <class C>
struct Board {
  float o[kWarps][kBoardHeads][C::kDim];
  float2 stats[kWarps][kBoardHeads];  // (peak, sum)
};

template <class C, int HEADS>
__device__ __forceinline__ void post(Board<C>& board, const State<C>& s, float sum, int first_head) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4 - first_head, t = lane % 4;
  if (g < 0 || g >= HEADS) return;
#pragma unroll
  for (int half = 0; half < State<C>::kHalves; half++)
#pragma unroll
    for (int c = 0; c < 2; c++)
#pragma unroll
      for (int i = 0; i < 8; i += 4)
        *reinterpret_cast<float4*>(&board.o[warp][g][column_of<C>(half, c, i)]) =
            make_float4(s.o[half][i][c], s.o[half][i + 1][c], s.o[half][i + 2][c], s.o[half][i + 3][c]);
  if (t == 0) board.stats[warp][g] = make_float2(s.peak, sum);
}

template <class C>
__device__ __forceinline__ float value_scale(const Problem& p, const Unit& u) {
  return C::kE4m3 ? __ldg(p.v_scale + u.pair % p.kv_heads) : 1.f;
}

// Two columns of a head: sum the warps, in order; hand on to the output, or to the partials of this chunk.
template <class C>
__device__ __forceinline__ void settle_pair(const Problem& p, const Unit& u, const Board<C>& board, int first_head, int head, int column) {
  float top = kMinusInfinity;
#pragma unroll
  for (int w = 0; w < kWarps; w++) top = fmaxf(top, board.stats[w][head].x);
  float x = 0.f, y = 0.f, sum = 0.f;
#pragma unroll
  for (int w = 0; w < kWarps; w++) {
    const float2 stats = board.stats[w][head];
    const float weight = stats.y > 0.f ? tk::exp2_fast(stats.x - top) : stats.y;
    const float2 o = *reinterpret_cast<const float2*>(&board.o[w][head][column]);
    x += weight * o.x;
    y += weight * o.y;
    sum += weight * stats.y;
  }
  const size_t row = static_cast<size_t>(u.pair) * p.group + first_head + head;
  if (u.chunks == 1) {
    const float inverse = u.tokens > 0 ? value_scale<C>(p, u) / sum : 0.f;
    *reinterpret_cast<uint32_t*>(p.out + row * C::kDim + column) = tk::pack_bf16(x * inverse, y * inverse);
    return;
  }
  float* slot = p.partial + (row * p.max_chunks + u.chunk) * (C::kDim + 2);
  __stcg(reinterpret_cast<float2*>(slot + column), make_float2(x, y));
  if (column == 0) __stcg(reinterpret_cast<float2*>(slot + C::kDim), make_float2(top, sum));
}

template <class C, int HEADS>
__device__ __forceinline__ void settle(const Problem& p, const Unit& u, const Board<C>& board, int first_head) {
  constexpr int kPairs = C::kDim / 2;
  const int heads = min(HEADS, p.group - first_head);
  for (int i = threadIdx.x; i < heads * kPairs; i += kThreads) settle_pair<C>(p, u, board, first_head, i / kPairs, i % kPairs * 2);
}

// Merge the chunks of one (sequence, kv head), in order.
template <class C>
__device__ __forceinline__ void merge(const Problem& p, const Unit& u) {
  constexpr int kPairs = C::kDim / 2;
  for (int i = threadIdx.x; i < p.group * kPairs; i += kThreads) {
    const int head = i / kPairs, column = i % kPairs * 2;
    const size_t row = static_cast<size_t>(u.pair) * p.group + head;
    const float* slots = p.partial + row * p.max_chunks * (C::kDim + 2);
    float top = kMinusInfinity, sum = 0.f, x = 0.f, y = 0.f;
    for (int c = 0; c < u.chunks; c++) top = fmaxf(top, __ldcg(slots + c * (C::kDim + 2) + C::kDim));
#pragma unroll 4
    for (int c = 0; c < u.chunks; c++) {
      const float2 stats = __ldcg(reinterpret_cast<const float2*>(slots + c * (C::kDim + 2) + C::kDim));
      const float2 o = __ldcg(reinterpret_cast<const float2*>(slots + c * (C::kDim + 2) + column));
      const float weight = tk::exp2_fast(stats.x - top);
      x += weight * o.x;
      y += weight * o.y;
      sum += weight * stats.y;
    }
    const float inverse = value_scale<C>(p, u) / sum;
    *reinterpret_cast<uint32_t*>(p.out + row * C::kDim + column) = tk::pack_bf16(x * inverse, y * inverse);
  }
}

template <class C, int GROUP>
__device__ __forceinline__ void paged_decode(const Problem& p) {
  constexpr int kStages = C::kStages, kStageBytes = C::kStageBytes, kTileBytes = C::kTileBytes, kRowBytes = C::kRowBytes;
  constexpr int kQueryParts = C::kDim / 8;  // of 16 bytes, of a head
  extern __shared__ __align__(128) unsigned char ring_bytes[];
  __shared__ __align__(16) Board<C> board;
  __shared__ int ids[4];  // of the block's units number n … n + 3, at n % 4
  __shared__ uint4 queries[2][GROUP * kQueryParts];
  __shared__ bool last[2];  // whether the chunk announced before unit number n was its sequence's last, at n % 2
  constexpr int kHeads = GROUP < kBoardHeads ? GROUP : kBoardHeads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t ring = tk::smem_address(ring_bytes) + warp * kStages * kStageBytes;
  const bool worker = warp < kWarps, clerk = threadIdx.x == kThreads;
  if (clerk) {
    ids[0] = blockIdx.x;
    ids[1] = gridDim.x + atomicAdd(p.arrived, 1u);
    ids[2] = gridDim.x + atomicAdd(p.arrived, 1u);
    ids[3] = 0x7fffffff;
  }
  int units = p.max_chunks * p.sequences * p.kv_heads;

  Feed feed = {-1, 0, 0, 0, 0, 0};
  Unit next = {};
  int next_places = 0;  // of unit number feed.unit + 1, asked for one unit ahead
  const auto look_ahead = [&](int id) {
    next.tokens = 0;
    if (id >= units) return;
    next = unit_of(p, id);
    next_places = tile_place(p, next, warp);
  };
  // Orders copies of this warp's tiles up to the end of unit number `horizon`, as far as stages are free.
  Unit fed = {};
  const auto fill = [&](int horizon) {
    while (feed.flying < kStages) {
      if (feed.tile * kTile >= feed.tokens) {
        if (feed.unit == horizon) return;
        feed.unit++;
        fed = next;
        feed.tile = warp;
        feed.tokens = fed.tokens;
        feed.places = next_places;
        continue;
      }
      const int turn = feed.tile / kWarps % 32;
      if (turn == 0 && feed.tile >= kWarps) feed.places = tile_place(p, fed, feed.tile);
      const size_t from = static_cast<size_t>(__shfl_sync(0xffffffffu, feed.places, turn)) * kTileBytes + lane * 16;
      constexpr int kParts = kRowBytes / 16, kRows = 32 / kParts;  // of a row, and rows an instruction
      const uint32_t to = ring + feed.stage * kStageBytes + lane / kParts * kRowBytes;
      const unsigned char *k = reinterpret_cast<const unsigned char*>(p.k) + from, *v = reinterpret_cast<const unsigned char*>(p.v) + from;
      const uint32_t chunk = lane % kParts, row = lane / kParts;
#pragma unroll
      for (int i = 0; i < kTile / kRows; i++) tk::copy_async16(to + i * 512 + (C::kNarrow ? chunk : chunk ^ row % 2 * 4) * 16, k + i * 512);
#pragma unroll
      for (int i = 0; i < kTile / kRows; i++) {
        const uint32_t value = to + kTileBytes + i * 512;
        tk::copy_async16(C::kNarrow ? (value + chunk * 16) ^ row / 2 % 2 * 64 : value + (chunk ^ (i * kRows + row) / 2 % 4 * 2) * 16, v + i * 512);
      }
      tk::copy_async_commit();
      if (++feed.stage == kStages) feed.stage = 0;
      feed.flying++;
      feed.tile += kWarps;
    }
  };
  const auto query_part = [&](int id) {
    const bool mine = threadIdx.x < p.group * kQueryParts && id < units;
    const size_t pair = id % (p.sequences * p.kv_heads);
    uint4 q = mine ? __ldg(reinterpret_cast<const uint4*>(p.q + pair * p.group * C::kDim) + threadIdx.x) : make_uint4(0, 0, 0, 0);
    if (C::kE4m3) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 two = tk::unpack_bf16((&q.x)[i]);
        (&q.x)[i] = pack_f16(two.x, two.y);
      }
    }
    return q;
  };

  // A unit that is one chunk of several is stored at its own end, announced at the end of the next, and known to be the last or not at the end
  // of the one after: fence and counter are then long done, and nobody waits for them.
  Unit stored = {}, announced = {};
  unsigned int before = 0;
  __syncthreads();
  if (threadIdx.x < p.group * kQueryParts) queries[0][threadIdx.x] = query_part(ids[0]);
  if (worker) {
    look_ahead(ids[0]);
    fill(0);
  }
  units = chunks_in_use(p) * p.sequences * p.kv_heads;
  const Lanes at = lanes_of<C>();
  int stage = 0;
  int id = ids[0];
  for (int n = 0; id < units || stored.chunks > 1 || announced.chunks > 1; n++) {
    const bool live = id < units;
    const int upcoming = ids[(n + 1) % 4];
    Unit u = {};
    unsigned int drawn = 0x7fffffff;
    uint4 query = {};
    State<C> s = {};
    s.peak = kMinusInfinity;
    if (live) {
      u = unit_of(p, id);
      if (clerk) drawn = gridDim.x + atomicAdd(p.arrived, 1u);
    }
    if (live && worker) {
      query = query_part(upcoming);
      look_ahead(upcoming);
      // In the k order of the K reads; rows past the group are whatever lies there, and reach only their own rows of the product.
      Query<C> q;
      const uint4* head = queries[n % 2] + g % p.group * kQueryParts;
      if constexpr (C::kE4m3) {
        q.shared = tk::smem_address(head + 2 * t);
      } else {
#pragma unroll
        for (int j = 0; j < C::kDim / 32; j++) {
          const uint4 w = head[j * 4 + t];
          q.held[j][0] = w.x, q.held[j][1] = w.y, q.held[j][2] = w.z, q.held[j][3] = w.w;
        }
      }
      float scale = p.scale_log2, inner = p.inner;
      if (C::kE4m3) {
        const float of_keys = __ldg(p.k_scale + u.pair % p.kv_heads);
        scale *= inner != 0.f ? 1.f : of_keys;
        inner *= of_keys;
      }
      fill(n + 1);
      for (int tile = warp; tile * kTile < u.tokens; tile += kWarps) {
        if (feed.flying == kStages)
          tk::copy_async_wait<kStages - 1>();
        else if (feed.flying == kStages - 1)
          tk::copy_async_wait<kStages - 2>();
        else
          tk::copy_async_wait<0>();
        __syncwarp();
        const int valid = u.tokens - tile * kTile;
        const int skip = tile == 0 ? u.skip : 0;
        if (valid >= kTile && skip == 0)
          consume_tile<C, false>(s, q, ring + stage * kStageBytes, at, 0, kTile, scale, inner);
        else
          consume_tile<C, true>(s, q, ring + stage * kStageBytes, at, skip, valid, scale, inner);
        __syncwarp();
        feed.flying--;
        fill(n + 1);
        if (++stage == kStages) stage = 0;
      }
      s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 1);
      s.sum += __shfl_xor_sync(0xffffffffu, s.sum, 2);
    }
    const bool whole = live && (u.tokens > 0 || (u.chunk == 0 && u.chunks == 1));
    if (threadIdx.x < p.group * kQueryParts) queries[(n + 1) % 2][threadIdx.x] = query;
    if (clerk) {
      ids[(n + 3) % 4] = drawn;
      last[n % 2] = announced.chunks > 1 && before + 1 == static_cast<unsigned int>(announced.chunks);
    }
    if (whole && worker) post<C, kHeads>(board, s, s.sum, 0);
    __syncthreads();
    if (clerk && stored.chunks > 1) {
      // The barriers put the block's stores before this fence, and the fence puts them before the count.
      __threadfence();
      before = atomicAdd(p.arrived + 2 + stored.pair, 1u);
      __threadfence();
    }
    if (last[n % 2] && worker) merge<C>(p, announced);
    if (last[n % 2] && clerk) p.arrived[2 + announced.pair] = 0;
    announced = stored;
    stored = {};
    if (whole) {
      if (worker) settle<C, kHeads>(p, u, board, 0);
#pragma unroll
      for (int head = kHeads; head < GROUP; head += kHeads) {
        if (!worker) break;
        workers_sync();
        post<C, kHeads>(board, s, s.sum, head);
        workers_sync();
        settle<C, kHeads>(p, u, board, head);
      }
      if (u.chunks > 1) stored = u;
    }
    // The clerk's fences and counter take longer than all of this: the next unit begins without it, and meets it at its own end.
    if (worker) workers_sync();
    id = upcoming;
  }
  // The last block of the grid leaves the counters as it found them.
  if (clerk && atomicAdd(p.arrived + 1, 1u) + 1 == gridDim.x) p.arrived[0] = p.arrived[1] = 0;
}

}  // namespace

#define PAGED_DECODE(NAME, DIM, E4M3, GROUP)                                                                                \
  extern "C" __global__ void __launch_bounds__(kThreads + 32, 2) NAME##_g##GROUP(const __grid_constant__ Problem p) {       \
    paged_decode<Cache<DIM, E4M3>, GROUP>(p);                                                                               \
  }
PAGED_DECODE(paged_decode, 128, false, 1)
PAGED_DECODE(paged_decode, 128, false, 2)
PAGED_DECODE(paged_decode, 128, false, 4)
PAGED_DECODE(paged_decode, 128, false, 8)
PAGED_DECODE(paged_decode_d64, 64, false, 1)
PAGED_DECODE(paged_decode_d64, 64, false, 2)
PAGED_DECODE(paged_decode_d64, 64, false, 4)
PAGED_DECODE(paged_decode_d64, 64, false, 8)
PAGED_DECODE(paged_decode_e4m3, 128, true, 1)
PAGED_DECODE(paged_decode_e4m3, 128, true, 2)
PAGED_DECODE(paged_decode_e4m3, 128, true, 4)
PAGED_DECODE(paged_decode_e4m3, 128, true, 8)
PAGED_DECODE(paged_decode_e4m3_d64, 64, true, 1)
PAGED_DECODE(paged_decode_e4m3_d64, 64, true, 2)
PAGED_DECODE(paged_decode_e4m3_d64, 64, true, 4)
PAGED_DECODE(paged_decode_e4m3_d64, 64, true, 8)
