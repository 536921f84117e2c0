// One token a row from [rows, vocabulary] logits: grammar bitmask, temperature, top-k, top-p, min-p, and the token's log-probability.
//
// Nothing is sorted and no probability is stored; a row is read from device memory once and later passes hit L2:
//   pass 1   the row's maximum and each thread's share of the mass
//   draw     a uniform number times the mass names the thread whose share holds it; that thread's warp finds the token
//   pass 2…  the mass and count of the tokens before the drawn one (greater logit, or equal and lower index), thread by thread. Under the
//            limits: the token is kept, done. Else the next draw is among exactly those tokens: what lies at or behind a dropped token is
//            dropped too. Each round moves strictly forward, and a draw from the kept set given by rejection is exact.
// Source: sampling by rejection without sorting (FlashInfer, 2025).
//
// Both limits apply to the full distribution. If all is masked: token -1 and log-probability -inf. NaN and -inf count as masked, +inf as the
// largest finite float.
// A cluster of kCluster blocks holds a row, whatever the number of rows, and sums are taken in a fixed order: a row's token does not depend on
// the batch around it.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

// 64 rows are 128 blocks, one a multiprocessor: larger clusters do not all fit at once (62 of 4 blocks did) and take a second wave.
constexpr int kCluster = 2;
constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kUnroll = 4;
constexpr float kLargest = 3.0e38f;

struct Problem {
  int* token;
  float* logprob;
  const void* logits;
  const unsigned int* bitmask;  // [rows, mask_words], bit set = allowed; null allows all
  const float* temperature;     // [rows] each; 0 is greedy
  const float* top_p;
  const float* min_p;
  const int* top_k;             // 0 is off
  const unsigned long long* seed;
  int vocabulary, mask_words;
  long long row_stride;         // in elements, a multiple of 4 and at least the vocabulary rounded up to one
};

// The row as the passes see it: scores y = logit / temperature * log2(e).
template <typename T>
struct Row {
  const T* logits;
  const unsigned int* mask;
  float factor;
  int vocabulary;
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

__device__ __forceinline__ unsigned int cluster_rank() {
  unsigned int r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ __forceinline__ float remote_load(const void* shared, unsigned int rank) {
  float v;
  asm volatile("{\n\t.reg .b32 r;\n\tmapa.shared::cluster.u32 r, %1, %2;\n\tld.shared::cluster.f32 %0, [r];\n\t}"
               : "=f"(v)
               : "r"(tk::smem_address(shared)), "r"(rank)
               : "memory");
  return v;
}
__device__ __forceinline__ void remote_store(const void* shared, unsigned int rank, float v) {
  asm volatile("{\n\t.reg .b32 r;\n\tmapa.shared::cluster.u32 r, %0, %1;\n\tst.shared::cluster.f32 [r], %2;\n\t}" ::"r"(
                   tk::smem_address(shared)),
               "r"(rank), "f"(v)
               : "memory");
}

__device__ __forceinline__ void load4(const float* p, float (&x)[4]) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
__device__ __forceinline__ void load4(const __nv_bfloat16* p, float (&x)[4]) {
  const uint2 v = *reinterpret_cast<const uint2*>(p);
  const float2 a = tk::unpack_bf16(v.x), b = tk::unpack_bf16(v.y);
  x[0] = a.x, x[1] = a.y, x[2] = b.x, x[3] = b.y;
}

// Four scores; -inf for what is masked, NaN or past the vocabulary.
template <typename T>
__device__ __forceinline__ void scores(const Row<T>& row, int vector, float (&y)[4]) {
  load4(row.logits + 4 * static_cast<size_t>(vector), y);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    y[i] *= row.factor;
    y[i] = y[i] > -INFINITY ? fminf(y[i], kLargest) : -INFINITY;
  }
  if (row.mask) {
    const unsigned int allowed = __ldg(row.mask + vector / 8) >> (vector % 8 * 4);
#pragma unroll
    for (int i = 0; i < 4; i++) y[i] = allowed >> i & 1u ? y[i] : -INFINITY;
  }
  if (4 * vector + 4 > row.vocabulary) {
#pragma unroll
    for (int i = 0; i < 4; i++) y[i] = 4 * vector + i < row.vocabulary ? y[i] : -INFINITY;
  }
}

// Calls use(vector, scores) for this thread's vectors in order, kUnroll loads in flight.
template <typename T, typename Use>
__device__ __forceinline__ void each_vector(const Row<T>& row, Use use) {
  const int vectors = (row.vocabulary + 3) / 4;
  constexpr int kStride = kCluster * kThreads;
  int v = cluster_rank() * kThreads + threadIdx.x;
  for (; v + (kUnroll - 1) * kStride < vectors; v += kUnroll * kStride) {
    float y[kUnroll][4];
#pragma unroll
    for (int u = 0; u < kUnroll; u++) scores(row, v + u * kStride, y[u]);
#pragma unroll
    for (int u = 0; u < kUnroll; u++) use(v + u * kStride, y[u]);
  }
  for (; v < vectors; v += kStride) {
    float y[4];
    scores(row, v, y);
    use(v, y);
  }
}

// Which tokens count: those before (score, token) in the order of falling score, then rising index.
struct Bound {
  float score;
  int token;
};
__device__ __forceinline__ bool before(float y, int token, const Bound& b) { return y > b.score || (y == b.score && token < b.token); }

struct Board {
  float warps[4][kWarps];
  float block[4];
  float drawn[2];
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
  cluster_sync();
  Peak all = {-INFINITY, 0.f, -1};
#pragma unroll
  for (unsigned int r = 0; r < kCluster; r++)
    all = join(all, {remote_load(&board.block[0], r), remote_load(&board.block[1], r), __float_as_int(remote_load(&board.block[2], r))});
  return all;
}

// Where a thread's mass lies in the row's: [low, high) of total. The ends of neighbours are the same float, so a target has one owner.
struct Share {
  float low, high, total;
  int count;
};
__device__ __forceinline__ Share cluster_share(float mass, int count, Board& board) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float sum = mass;
#pragma unroll
  for (int step = 1; step < 32; step <<= 1) {
    const float other = __shfl_up_sync(0xffffffffu, sum, step);
    if (lane >= step) sum += other;
  }
  const float previous = __shfl_up_sync(0xffffffffu, sum, 1);
  count = __reduce_add_sync(0xffffffffu, count);
  if (lane == 31) board.warps[0][warp] = sum, board.warps[1][warp] = __int_as_float(count);
  __syncthreads();
  float base = 0.f;
  for (int w = 0; w < warp; w++) base += board.warps[0][w];
  if (threadIdx.x == kThreads - 1) {
    int all = 0;
    for (int w = 0; w < kWarps; w++) all += __float_as_int(board.warps[1][w]);
    board.block[0] = base + sum;
    board.block[1] = __int_as_float(all);
  }
  cluster_sync();
  Share s = {0.f, 0.f, 0.f, 0};
  float start = 0.f;
#pragma unroll
  for (unsigned int r = 0; r < kCluster; r++) {
    if (r == cluster_rank()) start = s.total;
    s.total += remote_load(&board.block[0], r);
    s.count += __float_as_int(remote_load(&board.block[1], r));
  }
  s.low = start + (lane == 0 ? base : base + previous);
  s.high = start + (base + sum);
  return s;
}

// The token at `target` of the mass before the bound. The owning thread's warp walks its vectors, a lane each.
template <typename T>
__device__ __forceinline__ Bound draw(const Row<T>& row, const Bound& bound, float peak, const Share& share, float u, Board& board) {
  float target = u * share.total;
  if (target >= share.total) target = __uint_as_float(__float_as_uint(share.total) - 1);
  const unsigned int owners = __ballot_sync(0xffffffffu, share.low <= target && target < share.high);
  if (owners) {
    const int lane = threadIdx.x % 32, owner = __ffs(owners) - 1;
    float run = __shfl_sync(0xffffffffu, share.low, owner);
    const int vectors = (row.vocabulary + 3) / 4;
    int v = cluster_rank() * kThreads + (threadIdx.x & ~31) + owner + lane * kCluster * kThreads;
    Bound found = {-INFINITY, -1}, last = {-INFINITY, -1};
    for (bool more = true; more;) {
      float y[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, mass = 0.f;
      if (v < vectors) scores(row, v, y);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (!before(y[i], 4 * v + i, bound)) y[i] = -INFINITY;
        mass += tk::exp2_fast(y[i] - peak);
      }
      float sum = mass;
#pragma unroll
      for (int step = 1; step < 32; step <<= 1) {
        const float other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += other;
      }
      float at = run + (sum - mass);
      for (int i = 0; i < 4; i++) {
        if (y[i] == -INFINITY) continue;
        at += tk::exp2_fast(y[i] - peak);
        last = {y[i], 4 * v + i};
        if (found.token < 0 && at > target) found = last;
      }
      run += __shfl_sync(0xffffffffu, sum, 31);
      more = !__any_sync(0xffffffffu, found.token >= 0) && __shfl_sync(0xffffffffu, v, 31) + kCluster * kThreads < vectors;
      v += 32 * kCluster * kThreads;
    }
    // Rounding may leave the target past the last token of the owner: then that token is the one.
    const unsigned int hit = __ballot_sync(0xffffffffu, found.token >= 0), any = __ballot_sync(0xffffffffu, last.token >= 0);
    const int from = hit ? __ffs(hit) - 1 : 31 - __clz(any);
    if (!hit) found = last;
    if (lane == from) {
#pragma unroll
      for (unsigned int r = 0; r < kCluster; r++) {
        remote_store(&board.drawn[0], r, found.score);
        remote_store(&board.drawn[1], r, __int_as_float(found.token));
      }
    }
  }
  cluster_sync();
  return {board.drawn[0], __float_as_int(board.drawn[1])};
}

template <typename T>
__device__ __forceinline__ void sample_row(const Problem& p) {
  // Used in turn: a block may still read one while another writes the next.
  __shared__ Board boards[2];
  const int r = blockIdx.x / kCluster;
  const float temperature = p.temperature[r], top_p = p.top_p[r], min_p = p.min_p[r];
  const int top_k = p.top_k[r];
  const Row<T> row = {reinterpret_cast<const T*>(p.logits) + r * p.row_stride, p.bitmask ? p.bitmask + static_cast<size_t>(r) * p.mask_words : nullptr,
                      tk::kLog2e / (temperature > 0.f ? temperature : 1.f), p.vocabulary};
  Peak mine = {-INFINITY, 0.f, -1};
  each_vector(row, [&](int v, const float (&y)[4]) {
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
  if (temperature > 0.f && peak.token >= 0) {
    const Bound all = {-INFINITY, 0};
    const float limit = top_p < 1.f ? top_p * peak.mass : INFINITY;
    const float floor = min_p > 0.f ? peak.score + __log2f(min_p) : -INFINITY;
    const bool limited = top_p < 1.f || top_k > 0 || min_p > 0.f;
    Share share = cluster_share(mine.mass * tk::exp2_fast(mine.score - peak.score), 0, boards[1]);
    chosen = draw(row, all, peak.score, share, uniform(p.seed[r], 0), boards[1]);
    for (int round = 1; limited; round++) {
      float mass = 0.f;
      int count = 0;
      const Bound bound = chosen;
      each_vector(row, [&](int v, const float (&y)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const bool counts = before(y[i], 4 * v + i, bound);
          mass += counts ? tk::exp2_fast(y[i] - peak.score) : 0.f;
          count += counts;
        }
      });
      Board& board = boards[round + 1 & 1];
      share = cluster_share(mass, count, board);
      const bool kept = share.total < limit && (top_k <= 0 || share.count < top_k) && chosen.score >= floor;
      if (kept || share.count == 0) break;
      chosen = draw(row, bound, peak.score, share, uniform(p.seed[r], round), board);
    }
  }
  if (threadIdx.x == 0 && cluster_rank() == 0) {
    p.token[r] = chosen.token;
    p.logprob[r] = chosen.token < 0 ? -INFINITY : (chosen.score - peak.score - __log2f(peak.mass)) * 0.6931471805599453f;
  }
  // No block leaves while another may still read its board.
  cluster_sync();
}

}  // namespace

extern "C" __global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1) sample_f32(const __grid_constant__ Problem p) {
  sample_row<float>(p);
}
extern "C" __global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1) sample_bf16(const __grid_constant__ Problem p) {
  sample_row<__nv_bfloat16>(p);
}
