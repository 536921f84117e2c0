// The gradients of RMSNorm and LayerNorm, y = (x - m) · s · weight (+ bias) with s = 1 / sqrt(mean((x - m)²) + e), m = 0 or the row's mean:
//
//   n = (x - m) · s      h = gradient · weight      dx = s · (h - n · mean(h · n) [- mean(h)]) [+ further]
//   dweight = Σ over rows of gradient · n           dbias = Σ over rows of gradient
//
// Memory-bound: x and the gradient are read once, dx is written once. As many blocks as fit at once take the rows in turn, a row in registers. A thread
// keeps its columns' shares of dweight and dbias there as well, in order of the rows, and leaves them in the block's slot; a second kernel adds the
// slots in order. Which rows a slot has follows from their number and length alone and nothing is added atomically: the same bits in every run, and a
// row's dx the same in every batch. The next row is on its way while this one is summed.
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace {

struct Problem {
  __nv_bfloat16* dx;
  const __nv_bfloat16 *x, *weight, *gradient;
  const __nv_bfloat16* further;  // added to dx: what reaches x past the norm; or null
  float* slots;                  // [blocks, hidden] of dweight, then as many of dbias
  int rows, hidden;
  float epsilon;
};

template <int VECTORS>
struct Row {
  uint4 x[VECTORS], gradient[VECTORS];

  __device__ __forceinline__ void load(const Problem& p, int row) {
    const size_t first = static_cast<size_t>(row) * p.hidden;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int v = threadIdx.x + i * blockDim.x;
      x[i] = gradient[i] = make_uint4(0, 0, 0, 0);
      if (row >= p.rows || v >= p.hidden / 8) continue;
      x[i] = tk::load_once(p.x + first + v * 8);
      gradient[i] = tk::load_once(p.gradient + first + v * 8);
    }
  }
};

template <int VECTORS, bool LAYER>
__device__ __forceinline__ void norm_gradient(const Problem& p) {
  __shared__ float partial[2][4][32];  // rows take turns: a warp may still read the last one's
  float of_weight[VECTORS][8] = {}, of_bias[LAYER ? VECTORS : 1][8] = {};
  const int vectors = p.hidden / 8;
  const float share = 1.f / static_cast<float>(p.hidden);
  constexpr bool kAhead = VECTORS == 1;  // two rows of two vectors do not fit in registers
  Row<VECTORS> row, next;
  if (kAhead) next.load(p, blockIdx.x);
  int turn = 0;
  for (int r = blockIdx.x; r < p.rows; r += gridDim.x, turn ^= 1) {
    if (kAhead)
      row = next, next.load(p, r + gridDim.x);
    else
      row.load(p, r);
    float mean = 0.f;
    if constexpr (LAYER) {
      float sum = 0.f;
#pragma unroll
      for (int i = 0; i < VECTORS; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
          const float2 a = tk::unpack_bf16((&row.x[i].x)[k]);
          sum += a.x + a.y;
        }
      mean = tk::block_sum(sum, partial[turn][0]) * share;
    }
    // Σ (x - m)², Σ h · (x - m), Σ h.
    float squares = 0.f, along = 0.f, all = 0.f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int v = threadIdx.x + i * blockDim.x;
      if (v >= vectors) continue;
      const uint4 w = __ldg(reinterpret_cast<const uint4*>(p.weight + v * 8));
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float2 a = tk::unpack_bf16((&row.x[i].x)[k]), g = tk::unpack_bf16((&row.gradient[i].x)[k]), b = tk::unpack_bf16((&w.x)[k]);
        const float x0 = a.x - mean, x1 = a.y - mean, h0 = g.x * b.x, h1 = g.y * b.y;
        squares += x0 * x0 + x1 * x1;
        along += h0 * x0 + h1 * x1;
        if (LAYER) all += h0 + h1;
      }
    }
    squares = tk::block_sum(squares, partial[turn][1]);
    along = tk::block_sum(along, partial[turn][2]);
    if (LAYER) all = tk::block_sum(all, partial[turn][3]) * share;
    const float scale = rsqrtf(squares * share + p.epsilon);
    const float back = along * scale * scale * share;  // of x - m, within the bracket
    const size_t first = static_cast<size_t>(r) * p.hidden;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int v = threadIdx.x + i * blockDim.x;
      if (v >= vectors) continue;
      const uint4 w = __ldg(reinterpret_cast<const uint4*>(p.weight + v * 8));
      const uint4 more = p.further ? tk::load_once(p.further + first + v * 8) : make_uint4(0, 0, 0, 0);
      uint4 out;
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const float2 a = tk::unpack_bf16((&row.x[i].x)[k]), g = tk::unpack_bf16((&row.gradient[i].x)[k]), b = tk::unpack_bf16((&w.x)[k]);
        const float2 f = tk::unpack_bf16((&more.x)[k]);
        const float x0 = a.x - mean, x1 = a.y - mean;
        (&out.x)[k] = tk::pack_bf16(fmaf(scale, g.x * b.x - x0 * back - all, f.x), fmaf(scale, g.y * b.y - x1 * back - all, f.y));
        of_weight[i][2 * k] = fmaf(g.x, x0 * scale, of_weight[i][2 * k]);
        of_weight[i][2 * k + 1] = fmaf(g.y, x1 * scale, of_weight[i][2 * k + 1]);
        if constexpr (LAYER) of_bias[i][2 * k] += g.x, of_bias[i][2 * k + 1] += g.y;
      }
      tk::store_stream(p.dx + first + v * 8, out);
    }
  }
  const auto leave = [&](float* slot, const float(&sums)[8], int v) {
#pragma unroll
    for (int k = 0; k < 8; k += 4) *reinterpret_cast<float4*>(slot + v * 8 + k) = make_float4(sums[k], sums[k + 1], sums[k + 2], sums[k + 3]);
  };
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    if (v >= vectors) continue;
    leave(p.slots + static_cast<size_t>(blockIdx.x) * p.hidden, of_weight[i], v);
    if constexpr (LAYER) leave(p.slots + static_cast<size_t>(gridDim.x + blockIdx.x) * p.hidden, of_bias[i], v);
  }
}

}  // namespace

#define NORM_GRADIENT(NAME, VECTORS, LAYER) \
  extern "C" __global__ void __launch_bounds__(1024) NAME##_##VECTORS(const __grid_constant__ Problem p) { norm_gradient<VECTORS, LAYER>(p); }
NORM_GRADIENT(rms_norm_gradient, 1, false)
NORM_GRADIENT(rms_norm_gradient, 2, false)
NORM_GRADIENT(layer_norm_gradient, 1, true)

// out[which][column] <- Σ of slots[which][slot][column], in an order that their number fixes; `which` is the block's row. A warp takes every eighth slot.
extern "C" __global__ void __launch_bounds__(256) add_slots(__nv_bfloat16* of_weight, __nv_bfloat16* of_bias, const float* slots, int count, int hidden) {
  __shared__ float sums[8][33];
  const int column = blockIdx.x * 32 + threadIdx.x % 32, part = threadIdx.x / 32;
  const float* from = slots + static_cast<size_t>(blockIdx.y) * count * hidden + column;
  float sum = 0.f;
  if (column < hidden) {
#pragma unroll 8
    for (int s = part; s < count; s += 8) sum += from[static_cast<size_t>(s) * hidden];
  }
  sums[part][threadIdx.x % 32] = sum;
  __syncthreads();
  if (part > 0 || column >= hidden) return;
  float all = 0.f;
#pragma unroll
  for (int i = 0; i < 8; i++) all += sums[i][threadIdx.x];
  (blockIdx.y ? of_bias : of_weight)[column] = __float2bfloat16_rn(all);
}
