// y = softmax(scale · x) of every row, or its logarithm; bf16 or f32.
//
// Memory-bound: a row is read once and written once. To 4 vectors of 16 bytes a thread the row stays in the registers of one block; a longer one is
// read by two passes, of which the second mostly hits L2. Sums are taken in an order that the row's length alone fixes.
#include "row.cuh"

namespace {

template <typename T>
__device__ __forceinline__ uint4 finish(const float (&x)[tk::Lanes<T>::kCount], float top, float inverse, float log_sum, int logarithm) {
  float y[tk::Lanes<T>::kCount];
#pragma unroll
  for (int i = 0; i < tk::Lanes<T>::kCount; i++) y[i] = logarithm ? (x[i] - top) * 0.6931471805599453f - log_sum : tk::exp2_fast(x[i] - top) * inverse;
  return tk::Lanes<T>::pack(y);
}

template <typename T>
__device__ __forceinline__ void scaled(const uint4& v, float factor, float (&x)[tk::Lanes<T>::kCount]) {
  tk::Lanes<T>::unpack(v, x);
#pragma unroll
  for (int i = 0; i < tk::Lanes<T>::kCount; i++) x[i] *= factor;
}

template <typename T, int VECTORS>
__device__ __forceinline__ void softmax_row(T* y, const T* x, int columns, float scale, int logarithm) {
  constexpr int kCount = tk::Lanes<T>::kCount;
  __shared__ float partial[64];
  const size_t row = static_cast<size_t>(blockIdx.x) * columns;
  const int vectors = columns / kCount;
  const float factor = scale * tk::kLog2e;
  uint4 in[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    in[i] = tk::Lanes<T>::lowest();  // past the end: no mass
    if (v < vectors) in[i] = tk::load_stream(x + row + static_cast<size_t>(v) * kCount);
  }
  float z[VECTORS][kCount], top = -INFINITY;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    scaled<T>(in[i], factor, z[i]);
#pragma unroll
    for (int k = 0; k < kCount; k++) top = fmaxf(top, z[i][k]);
  }
  top = tk::block_max(top, partial);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++)
#pragma unroll
    for (int k = 0; k < kCount; k++) {
      const float difference = z[i][k] - top, weight = tk::exp2_fast(difference);
      sum += weight;
      z[i][k] = logarithm ? difference * 0.6931471805599453f : weight;
    }
  sum = tk::block_sum(sum, partial + 32);
  const float inverse = logarithm ? 1.f : 1.f / sum, log_sum = logarithm ? __logf(sum) : 0.f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
#pragma unroll
    for (int k = 0; k < kCount; k++) z[i][k] = fmaf(z[i][k], inverse, -log_sum);
    if (v < vectors) tk::store_stream(y + row + static_cast<size_t>(v) * kCount, tk::Lanes<T>::pack(z[i]));
  }
}

template <typename T>
__device__ __forceinline__ void softmax_long(T* y, const T* x, int columns, float scale, int logarithm) {
  constexpr int kCount = tk::Lanes<T>::kCount, kUnroll = 4;
  __shared__ float partial[64];
  const size_t row = static_cast<size_t>(blockIdx.x) * columns;
  const int vectors = columns / kCount;
  const float factor = scale * tk::kLog2e;
  tk::Mass mass;
  for (int v = threadIdx.x; v < vectors; v += kUnroll * blockDim.x) {
    uint4 in[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; u++)
      if (v + u * blockDim.x < vectors) in[u] = tk::load_once(x + row + static_cast<size_t>(v + u * blockDim.x) * kCount);
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      if (v + u * blockDim.x >= vectors) break;
      float z[kCount];
      scaled<T>(in[u], factor, z);
      mass.add(z);
    }
  }
  mass.join(partial);
  const float inverse = 1.f / mass.sum, log_sum = __logf(mass.sum);
#pragma unroll 4
  for (int v = threadIdx.x; v < vectors; v += blockDim.x) {
    float z[kCount];
    scaled<T>(tk::load_once(x + row + static_cast<size_t>(v) * kCount), factor, z);
    tk::store_stream(y + row + static_cast<size_t>(v) * kCount, finish<T>(z, mass.top, inverse, log_sum, logarithm));
  }
}

}  // namespace

#define SOFTMAX(NAME, T)                                                                                                             \
  extern "C" __global__ void __launch_bounds__(1024) softmax_##NAME##_1(T* y, const T* x, int columns, float scale, int logarithm) {  \
    softmax_row<T, 1>(y, x, columns, scale, logarithm);                                                                              \
  }                                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(1024) softmax_##NAME##_2(T* y, const T* x, int columns, float scale, int logarithm) {  \
    softmax_row<T, 2>(y, x, columns, scale, logarithm);                                                                              \
  }                                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(1024) softmax_##NAME##_4(T* y, const T* x, int columns, float scale, int logarithm) {  \
    softmax_row<T, 4>(y, x, columns, scale, logarithm);                                                                              \
  }                                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(1024) softmax_##NAME##_long(T* y, const T* x, int columns, float scale, int logarithm) { \
    softmax_long<T>(y, x, columns, scale, logarithm);                                                                                \
  }
SOFTMAX(bf16, __nv_bfloat16)
SOFTMAX(f32, float)
