// Cross-entropy of logits and targets: loss = log Σ exp(x) - x[target] of every row, and its gradient g · (softmax(x) - [target]); bf16 or f32.
//
// Memory-bound: forward reads the logits once, a block a row, and keeps the log of the sum; backward reads them once more and writes the gradient,
// which may be where the logits were. Nothing of the size of the logits is held besides.
// A negative target is left out: loss and gradient 0. One past the vocabulary gives NaN.
#include "row.cuh"

namespace {

template <typename T>
__device__ __forceinline__ void scores(const uint4& v, float (&z)[tk::Lanes<T>::kCount]) {
  tk::Lanes<T>::unpack(v, z);
#pragma unroll
  for (int i = 0; i < tk::Lanes<T>::kCount; i++) z[i] *= tk::kLog2e;
}

template <typename T>
__device__ __forceinline__ void forward(float* loss, float* log_sum, const T* logits, const int* targets, int columns) {
  constexpr int kCount = tk::Lanes<T>::kCount, kUnroll = 4;
  __shared__ float partial[64];
  const T* row = logits + static_cast<size_t>(blockIdx.x) * columns;
  const int vectors = columns / kCount;
  tk::Mass mass;
  for (int v = threadIdx.x; v < vectors; v += kUnroll * blockDim.x) {
    uint4 in[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; u++)
      if (v + u * blockDim.x < vectors) in[u] = tk::load_stream(row + static_cast<size_t>(v + u * blockDim.x) * kCount);
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      if (v + u * blockDim.x >= vectors) break;
      float z[kCount];
      scores<T>(in[u], z);
      mass.add(z);
    }
  }
  mass.join(partial);
  if (threadIdx.x != 0) return;
  const int target = targets[blockIdx.x];
  const float sum = fmaf(mass.top, 0.6931471805599453f, logf(mass.sum));
  log_sum[blockIdx.x] = sum;
  loss[blockIdx.x] = target < 0 ? 0.f : target >= columns ? NAN : sum - static_cast<float>(row[target]);
}

// A thread has the same vector of kRows rows, their loads in flight together.
constexpr int kRows = 4;
template <typename T>
__device__ __forceinline__ void backward(T* gradient, const T* logits, const int* targets, const float* log_sum, const float* factor, int rows, int columns) {
  constexpr int kCount = tk::Lanes<T>::kCount;
  const int vector = blockIdx.y * 256 + threadIdx.x, first = blockIdx.x * kRows, column = vector * kCount;
  if (column >= columns) return;
  uint4 in[kRows];
#pragma unroll
  for (int r = 0; r < kRows; r++)
    if (first + r < rows) in[r] = tk::load_once(logits + static_cast<size_t>(first + r) * columns + column);
#pragma unroll
  for (int r = 0; r < kRows; r++) {
    const int row = first + r;
    if (row >= rows) return;
    const int target = __ldg(targets + row);
    const float g = target < 0 ? 0.f : target >= columns ? NAN : __ldg(factor + row), log2_sum = __ldg(log_sum + row) * tk::kLog2e;
    float z[kCount];
    scores<T>(in[r], z);
#pragma unroll
    for (int i = 0; i < kCount; i++) z[i] = target < 0 ? 0.f : g * (tk::exp2_fast(z[i] - log2_sum) - (column + i == target ? 1.f : 0.f));
    tk::store_stream(gradient + static_cast<size_t>(row) * columns + column, tk::Lanes<T>::pack(z));
  }
}

}  // namespace

#define CROSS_ENTROPY(NAME, T)                                                                                                                \
  extern "C" __global__ void __launch_bounds__(512) cross_entropy_##NAME(float* loss, float* log_sum, const T* logits, const int* targets,     \
                                                                         int columns) {                                                       \
    forward<T>(loss, log_sum, logits, targets, columns);                                                                                      \
  }                                                                                                                                           \
  extern "C" __global__ void __launch_bounds__(256) cross_entropy_gradient_##NAME(T* gradient, const T* logits, const int* targets,            \
                                                                                  const float* log_sum, const float* factor, int rows,        \
                                                                                  int columns) {                                              \
    backward<T>(gradient, logits, targets, log_sum, factor, rows, columns);                                                                   \
  }
CROSS_ENTROPY(bf16, __nv_bfloat16)
CROSS_ENTROPY(f32, float)
