// One token a row from [rows, vocabulary] logits: penalties, grammar bitmask, temperature, top-k, top-p, min-p, and the token's log-probability.
//
// Nothing is sorted and no probability is stored. A row is read from device memory once, by asynchronous copies that are all in flight at once; its
// scores stay in shared memory and registers, 131,072 of them, and only what lies beyond is read (from L2) again by later passes:
//   pass 1   the row's maximum and each thread's share of the mass
//   draw     uniform numbers times the mass name the threads whose shares hold them; such a thread's warp finds the token. kDraws tokens at once.
//   pass 2…  of each drawn token the mass and count of the tokens before it (greater logit, or equal and lower index), thread by thread. The first
//            one under the limits is the row's token. If none is, the next draws are among the tokens before all of them: what lies at or behind a
//            dropped token is dropped too. Each round moves strictly forward, and a draw from the kept set given by rejection is exact.
// Source: sampling by rejection without sorting (FlashInfer, 2025).
//
// Both limits apply to the full distribution. If all is masked: token -1 and log-probability -inf. NaN and -inf count as masked, +inf as the
// largest finite float.
// A cluster of kCluster blocks holds a row, whatever the number of rows, and sums are taken in a fixed order: a row's token does not depend on
// the batch around it.
#include "row.cuh"

namespace {

// Tokens drawn and judged at once: 2 need a pass less in one row of ten, but 3 µs more each time.
constexpr int kDraws = 1;
// Under this temperature a row is greedy, which is the limit of drawing: a logit over less may pass the largest float, and tokens would tie there.
constexpr float kColdest = 1e-5f;

struct Problem {
  int* token;
  float* logprob;
  const void* logits;
  const unsigned int* bitmask;  // [rows, mask_words], bit set = allowed; null allows all
  const float* temperature;     // [rows] each; 0 is greedy, and what is colder than kColdest or not a number
  const float* top_p;
  const float* min_p;
  const int* top_k;             // 0 is off
  const unsigned long long* seed;
  const float* repetition;      // [rows] each, where counts is not null
  const float* presence;
  const float* frequency;
  const int* slot;              // row of the counts; one that they do not have is without penalties
  unsigned short* counts;       // [slots, counts_stride]; the drawn token is counted
  long long counts_stride;      // a multiple of 4
  long long row_stride;         // in elements, a multiple of 4 and at least the vocabulary rounded up to one
  int vocabulary, mask_words, slots;
};

// Philox 4x32-10 (Salmon et al., 2011): the uniform number of a draw, in [0, 1).
__device__ __forceinline__ float uniform(unsigned long long seed, unsigned int draw) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint4 c = {draw, 0u, 0u, 0u};
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c.x, b = static_cast<uint64_t>(0xCD9E8D57u) * c.z;
    c = make_uint4(static_cast<uint32_t>(b >> 32) ^ c.y ^ k0, static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ c.w ^ k1, static_cast<uint32_t>(a));
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return static_cast<float>(c.x >> 8) * 5.9604645e-8f;
}

// Which tokens count: those before (score, token) in the order of falling score, then rising index.
struct Bound {
  float score;
  int token;
};
__device__ __forceinline__ bool before(float y, int token, const Bound& b) { return y > b.score || (y == b.score && token < b.token); }

// What a row's tokens are kept by, and where its draws begin.
struct Limits {
  float mass, score;  // the greatest mass before a kept token, and its least score
  int top_k;
  unsigned long long seed;
};

struct Board {
  float warps[kDraws > 1 ? 2 * kDraws : 3][kWarps];
  float block[kDraws > 1 ? 2 * kDraws : 3];
  float drawn[2 * kDraws];
};

// Joins (peak, mass, best token) of all threads of the cluster: the running softmax of Milakov and Gimelshein (2018).
struct Peak {
  float score, mass;
  int token;  // the lowest token with that score
};
__device__ __forceinline__ Peak join(const Peak& a, const Peak& b) {
  const float top = fmaxf(a.score, b.score);
  if (top == -INFINITY) return {top, 0.f, -1};
  const float mass = a.mass * tk::exp2_fast(a.score - top) + b.mass * tk::exp2_fast(b.score - top);
  const bool first = a.score > b.score || (a.score == b.score && static_cast<unsigned>(a.token) < static_cast<unsigned>(b.token));
  return {top, mass, first ? a.token : b.token};
}
__device__ __forceinline__ Peak shuffle_down(const Peak& p, int step) {
  return {__shfl_down_sync(0xffffffffu, p.score, step), __shfl_down_sync(0xffffffffu, p.mass, step), __shfl_down_sync(0xffffffffu, p.token, step)};
}
__device__ __forceinline__ Peak cluster_peak(Peak p, Board& board) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) p = join(p, shuffle_down(p, step));
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) board.warps[0][warp] = p.score, board.warps[1][warp] = p.mass, board.warps[2][warp] = __int_as_float(p.token);
  __syncthreads();
  if (warp == 0) {
    Peak b = {-INFINITY, 0.f, -1};
    if (lane < kWarps) b = {board.warps[0][lane], board.warps[1][lane], __float_as_int(board.warps[2][lane])};
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) b = join(b, shuffle_down(b, step));
    if (lane == 0) board.block[0] = b.score, board.block[1] = b.mass, board.block[2] = __int_as_float(b.token);
  }
  tk::cluster_sync_aligned();
  Peak all = {-INFINITY, 0.f, -1};
#pragma unroll
  for (unsigned int r = 0; r < kCluster; r++)
    all = join(all, {tk::cluster_load(&board.block[0], r), tk::cluster_load(&board.block[1], r), __float_as_int(tk::cluster_load(&board.block[2], r))});
  return all;
}

// Where a thread's mass lies in the row's: [low, high) of total. The ends of neighbours are the same float, so a target has one owner.
struct Share {
  float low, high, total;
  int count;
};
// Of kDraws sets at once.
__device__ __forceinline__ void cluster_shares(const float (&mass)[kDraws], const int (&count)[kDraws], Share (&shares)[kDraws], Board& board) {
  constexpr int N = kDraws;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum[N], previous[N], base[N];
#pragma unroll
  for (int d = 0; d < N; d++) {
    sum[d] = tk::warp_inclusive(mass[d]);
    previous[d] = __shfl_up_sync(0xffffffffu, sum[d], 1);
    const int all = __reduce_add_sync(0xffffffffu, count[d]);
    if (lane == 31) board.warps[2 * d][warp] = sum[d], board.warps[2 * d + 1][warp] = __int_as_float(all);
  }
  __syncthreads();
#pragma unroll
  for (int d = 0; d < N; d++) {
    base[d] = 0.f;
#pragma unroll 4
    for (int w = 0; w < warp; w++) base[d] += board.warps[2 * d][w];
  }
  if (warp == kWarps - 1) {
#pragma unroll
    for (int d = 0; d < N; d++) {
      const int all = __reduce_add_sync(0xffffffffu, __float_as_int(board.warps[2 * d + 1][lane]));
      if (lane == 31) board.block[2 * d] = base[d] + sum[d], board.block[2 * d + 1] = __int_as_float(all);
    }
  }
  tk::cluster_sync_aligned();
#pragma unroll
  for (int d = 0; d < N; d++) {
    Share& s = shares[d];
    s = {0.f, 0.f, 0.f, 0};
    float start = 0.f;
#pragma unroll
    for (unsigned int r = 0; r < kCluster; r++) {
      if (r == tk::cluster_rank()) start = s.total;
      s.total += tk::cluster_load(&board.block[2 * d], r);
      s.count += __float_as_int(tk::cluster_load(&board.block[2 * d + 1], r));
    }
    s.low = start + (lane == 0 ? base[d] : base[d] + previous[d]);
    s.high = start + (base[d] + sum[d]);
  }
}

// The token at `target` of the mass before the bound, where it lies in this warp: the warp walks its owner's vectors, a lane each.
template <typename T>
__device__ __forceinline__ void find(const Row<T>& row, const Held& held, const Bound& bound, float peak, const Share& share, float target, int number, Board& board) {
  const unsigned int owners = __ballot_sync(0xffffffffu, share.low <= target && target < share.high);
  if (!owners) return;
  const int lane = threadIdx.x % 32, owner = __ffs(owners) - 1;
  float run = __shfl_sync(0xffffffffu, share.low, owner);
  const int vectors = (row.vocabulary + 3) / 4;
  int turn = lane, v = tk::cluster_rank() * kThreads + (threadIdx.x & ~31) + owner + lane * kStride;
  Bound found = {-INFINITY, -1}, last = {-INFINITY, -1};
  for (bool more = true; more;) {
    // What the owner holds in registers it gives to the lanes that ask for it.
    Held theirs;
#pragma unroll
    for (int i = 0; i < kHeld; i++) {
      theirs.y[i].x = __shfl_sync(0xffffffffu, held.y[i].x, owner), theirs.y[i].y = __shfl_sync(0xffffffffu, held.y[i].y, owner);
      theirs.y[i].z = __shfl_sync(0xffffffffu, held.y[i].z, owner), theirs.y[i].w = __shfl_sync(0xffffffffu, held.y[i].w, owner);
    }
    float4 four = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    if (v < vectors) four = kept_scores(row, theirs, turn, (threadIdx.x & ~31) + owner, v);
    float y[4] = {four.x, four.y, four.z, four.w}, mass = 0.f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (!before(y[i], 4 * v + i, bound)) y[i] = -INFINITY;
      mass += tk::exp2_fast(y[i] - peak);
    }
    const float sum = tk::warp_inclusive(mass);
    float at = run + (sum - mass);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (y[i] == -INFINITY) continue;
      at += tk::exp2_fast(y[i] - peak);
      last = {y[i], 4 * v + i};
      if (found.token < 0 && at > target) found = last;
    }
    run += __shfl_sync(0xffffffffu, sum, 31);
    more = !__any_sync(0xffffffffu, found.token >= 0) && __shfl_sync(0xffffffffu, v, 31) + kStride < vectors;
    v += 32 * kStride, turn += 32;
  }
  // Rounding may leave the target past the last token of the owner: then that token is the one.
  const unsigned int hit = __ballot_sync(0xffffffffu, found.token >= 0), any = __ballot_sync(0xffffffffu, last.token >= 0);
  const int from = hit ? __ffs(hit) - 1 : 31 - __clz(any);
  if (!hit) found = last;
  if (lane == from) {
#pragma unroll
    for (unsigned int r = 0; r < kCluster; r++) {
      tk::cluster_store(&board.drawn[2 * number], r, found.score);
      tk::cluster_store(&board.drawn[2 * number + 1], r, __int_as_float(found.token));
    }
  }
}

// kDraws tokens of the mass before the bound, one after the other independent of each other.
template <typename T>
__device__ __forceinline__ void draw(const Row<T>& row, const Held& held, const Bound& bound, float peak, const Share& share, const Limits& limits,
                                     int round, Board& board, Bound (&drawn)[kDraws]) {
#pragma unroll 1
  for (int d = 0; d < kDraws; d++) {
    float target = uniform(limits.seed, round * kDraws + d) * share.total;
    if (target >= share.total) target = __uint_as_float(__float_as_uint(share.total) - 1);
    find(row, held, bound, peak, share, target, d, board);
  }
  tk::cluster_sync_aligned();
#pragma unroll
  for (int d = 0; d < kDraws; d++) drawn[d] = {board.drawn[2 * d], __float_as_int(board.drawn[2 * d + 1])};
}

// Mass and count of this thread's tokens before each of the drawn ones.
template <typename T>
__device__ __forceinline__ void later_pass(const Row<T>& row, const Held& held, float peak, const Bound (&drawn)[kDraws], float (&masses)[kDraws],
                                           int (&counts)[kDraws]) {
  const int vectors = (row.vocabulary + 3) / 4;
  int v = tk::cluster_rank() * kThreads + threadIdx.x;
#pragma unroll 1
  for (int i = 0; v < vectors; i++, v += kStride) {
    const float4 four = kept_scores(row, held, i, threadIdx.x, v);
    const float y[4] = {four.x, four.y, four.z, four.w};
    float weight[4];
#pragma unroll
    for (int e = 0; e < 4; e++) weight[e] = tk::exp2_fast(y[e] - peak);
#pragma unroll
    for (int d = 0; d < kDraws; d++) {
      // Before the drawn token's place its equals count too, behind it they do not: above the next lower number, or above its own.
      const float score = drawn[d].score, lower = __int_as_float(__float_as_int(score) + (score > 0.f ? -1 : 1));
      const int within = drawn[d].token - 4 * v;  // places of this vector before the token
      const float low = score == 0.f ? __uint_as_float(0x80000001u) : lower;
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const float above = e < within ? low : score;
        asm("{\n\t.reg .pred p;\n\tsetp.gt.f32 p, %2, %3;\n\t@p add.f32 %0, %0, %4;\n\t@p add.s32 %1, %1, 1;\n\t}"
            : "+f"(masses[d]), "+r"(counts[d])
            : "f"(y[e]), "f"(above), "f"(weight[e]));
      }
    }
  }
}

template <typename T>
__device__ __forceinline__ void sample_row(const Problem& p) {
  // Used in turn: a block may still read one while another writes the next.
  __shared__ Board boards[2];
  __shared__ float penalties[3];
  // What later passes seldom need lies in shared memory, not in registers.
  __shared__ Row<T> stored;
  __shared__ Limits limits;
  const int r = blockIdx.x / kCluster;
  const float temperature = p.temperature[r];
  const bool greedy = !(temperature >= kColdest);
  Row<T> row = {reinterpret_cast<const T*>(p.logits) + r * p.row_stride, p.bitmask ? p.bitmask + static_cast<size_t>(r) * p.mask_words : nullptr,
                nullptr, penalties, tk::kLog2e / (greedy ? 1.f : temperature), p.vocabulary};
  const int slot = p.counts ? p.slot[r] : -1;
  unsigned short* counts = slot >= 0 && slot < p.slots ? p.counts + slot * p.counts_stride : nullptr;
  if (counts) {
    const float given = p.repetition[r], repetition = given > 0.f ? given : 1.f, presence = p.presence[r], frequency = p.frequency[r];
    // Neutral penalties read no counts.
    if (repetition != 1.f || presence != 0.f || frequency != 0.f) row.counts = counts;
    if (threadIdx.x == 0) penalties[0] = repetition, penalties[1] = presence, penalties[2] = frequency;
    __syncthreads();
  }
  if (threadIdx.x == 0) stored = row;
  Peak mine = {-INFINITY, 0.f, -1};
  Held held;
  first_pass(row, held, [&](int v, const float (&y)[4]) {
    const float top = fmaxf(fmaxf(y[0], y[1]), fmaxf(y[2], y[3]));
    if (top > mine.score) {
      mine.mass *= tk::exp2_fast(mine.score - top);
      mine.score = top;
      mine.token = 4 * v + (y[0] == top ? 0 : y[1] == top ? 1 : y[2] == top ? 2 : 3);
    }
    // All masked so far: keep the difference from being -inf - -inf.
    const float reference = fmaxf(mine.score, -kLargest);
#pragma unroll
    for (int i = 0; i < 4; i++) mine.mass += tk::exp2_fast(y[i] - reference);
  });
  const Peak peak = cluster_peak(mine, boards[0]);
  Bound chosen = {peak.score, peak.token};
  if (!greedy && peak.token >= 0) {
    const Bound all = {-INFINITY, 0};
    const float top_p = p.top_p[r], min_p = p.min_p[r];
    const bool limited = top_p < 1.f || p.top_k[r] > 0 || min_p > 0.f;
    if (threadIdx.x == 0) {
      limits.mass = top_p < 1.f ? top_p * peak.mass : INFINITY;
      limits.score = min_p > 0.f ? peak.score + __log2f(min_p) : -INFINITY;
      limits.top_k = p.top_k[r] > 0 ? p.top_k[r] : 0x7fffffff;
      limits.seed = p.seed[r];
    }
    float masses[kDraws] = {mine.mass * tk::exp2_fast(mine.score - peak.score)};
    int counts[kDraws] = {};
    Bound bound = {-INFINITY, 0}, drawn[kDraws];  // before which the draws are: at first before none
#pragma unroll 1
    for (int round = 0;; round++) {
      Board& board = boards[round + 1 & 1];
      Share shares[kDraws];
      cluster_shares(masses, counts, shares, board);
      Share share = shares[0];
      if (round > 0) {
        bool kept_one = false;
        bound = drawn[0];
#pragma unroll
        for (int d = 0; d < kDraws; d++) {
          const bool kept = shares[d].count == 0 || (shares[d].total < limits.mass && shares[d].count < limits.top_k && drawn[d].score >= limits.score);
          if (kept && !kept_one) kept_one = true, chosen = drawn[d];
          // The one furthest forward, with its own shares.
          if (d > 0 && shares[d].count < share.count) share = shares[d], bound = drawn[d];
        }
        if (kept_one) break;
      }
      draw(stored, held, bound, peak.score, share, limits, round, board, drawn);
      chosen = drawn[0];
      if (!limited) break;
#pragma unroll
      for (int d = 0; d < kDraws; d++) masses[d] = 0.f, counts[d] = 0;
      later_pass(stored, held, peak.score, drawn, masses, counts);
    }
  }
  if (threadIdx.x == 0 && tk::cluster_rank() == 0) {
    p.token[r] = chosen.token;
    // Every thread of the row has read what it reads of the counts before the last barrier.
    if (counts && chosen.token >= 0 && (counts[chosen.token] & kMostDrawn) < kMostDrawn) counts[chosen.token]++;
    p.logprob[r] = chosen.token < 0 ? -INFINITY : (chosen.score - peak.score - __log2f(peak.mass)) * 0.6931471805599453f;
  }
  // No block leaves while another may still read its board.
  tk::cluster_sync_aligned();
}

}  // namespace

extern "C" __global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1) sample_f32(const __grid_constant__ Problem p) {
  sample_row<float>(p);
}
extern "C" __global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1) sample_bf16(const __grid_constant__ Problem p) {
  sample_row<__nv_bfloat16>(p);
}

// A sequence begins: its prompt's tokens are marked in counts that the caller zeroed. A token that the vocabulary does not have is passed over.
extern "C" __global__ void __launch_bounds__(256) mark_prompt(unsigned short* counts, const int* tokens, int n, int vocabulary) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int token = tokens[i];
  // Marks are ORed into words of two entries.
  if (token >= 0 && token < vocabulary) atomicOr(reinterpret_cast<unsigned int*>(counts) + token / 2, kInPrompt << (token % 2 * 16));
}
