// The gradient of y = softmax(scale · x) of every row: dx = scale · y ∘ (dy - Σ dy ∘ y); of y = log softmax(scale · x): dx = scale · (dy - 2^(y log2 e) Σ dy).
// bf16 or f32.
//
// Memory-bound: y and dy are read once and dx is written once. To 2 vectors of 16 bytes of each a thread the row stays in the registers of one block; a
// longer one is read by two passes, of which the second mostly hits L2. Sums are taken in an order that the row's length alone fixes.
#include "row.cuh"

namespace {

template <int N>
__device__ __forceinline__ float share(const float (&y)[N], const float (&dy)[N], int logarithm) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < N; i++) sum = logarithm ? sum + dy[i] : fmaf(dy[i], y[i], sum);
  return sum;
}

template <typename T>
__device__ __forceinline__ uint4 finish(const float (&y)[tk::Lanes<T>::kCount], const float (&dy)[tk::Lanes<T>::kCount], float sum, float scale, int logarithm) {
  float dx[tk::Lanes<T>::kCount];
#pragma unroll
  for (int i = 0; i < tk::Lanes<T>::kCount; i++)
    dx[i] = logarithm ? scale * fmaf(-tk::exp2_fast(tk::kLog2e * y[i]), sum, dy[i]) : scale * y[i] * (dy[i] - sum);
  return tk::Lanes<T>::pack(dx);
}

template <typename T, int VECTORS>
__device__ __forceinline__ void gradient_row(T* dx, const T* y, const T* dy, int columns, float scale, int logarithm) {
  constexpr int kCount = tk::Lanes<T>::kCount;
  __shared__ float partial[32];
  const size_t row = static_cast<size_t>(blockIdx.x) * columns;
  const int vectors = columns / kCount;
  uint4 a[VECTORS], b[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    a[i] = b[i] = make_uint4(0, 0, 0, 0);
    if (v < vectors) a[i] = tk::load_stream(y + row + static_cast<size_t>(v) * kCount), b[i] = tk::load_once(dy + row + static_cast<size_t>(v) * kCount);
  }
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    float p[kCount], d[kCount];
    tk::Lanes<T>::unpack(a[i], p), tk::Lanes<T>::unpack(b[i], d);
    sum += share(p, d, logarithm);
  }
  sum = tk::block_sum(sum, partial);
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int v = threadIdx.x + i * blockDim.x;
    float p[kCount], d[kCount];
    tk::Lanes<T>::unpack(a[i], p), tk::Lanes<T>::unpack(b[i], d);
    if (v < vectors) tk::store_stream(dx + row + static_cast<size_t>(v) * kCount, finish<T>(p, d, sum, scale, logarithm));
  }
}

template <typename T>
__device__ __forceinline__ void gradient_long(T* dx, const T* y, const T* dy, int columns, float scale, int logarithm) {
  constexpr int kCount = tk::Lanes<T>::kCount;
  __shared__ float partial[32];
  const size_t row = static_cast<size_t>(blockIdx.x) * columns;
  const int vectors = columns / kCount;
  float sum = 0.f, p[kCount], d[kCount];
#pragma unroll 4
  for (int v = threadIdx.x; v < vectors; v += blockDim.x) {
    tk::Lanes<T>::unpack(tk::load_once(y + row + static_cast<size_t>(v) * kCount), p);
    tk::Lanes<T>::unpack(tk::load_once(dy + row + static_cast<size_t>(v) * kCount), d);
    sum += share(p, d, logarithm);
  }
  sum = tk::block_sum(sum, partial);
#pragma unroll 4
  for (int v = threadIdx.x; v < vectors; v += blockDim.x) {
    tk::Lanes<T>::unpack(tk::load_once(y + row + static_cast<size_t>(v) * kCount), p);
    tk::Lanes<T>::unpack(tk::load_once(dy + row + static_cast<size_t>(v) * kCount), d);
    tk::store_stream(dx + row + static_cast<size_t>(v) * kCount, finish<T>(p, d, sum, scale, logarithm));
  }
}

}  // namespace

// dx may be dy.
#define SOFTMAX_GRADIENT(NAME, T)                                                                                                    \
  extern "C" __global__ void __launch_bounds__(1024)                                                                                 \
      softmax_gradient_##NAME##_1(T* dx, const T* y, const T* dy, int columns, float scale, int logarithm) {                          \
    gradient_row<T, 1>(dx, y, dy, columns, scale, logarithm);                                                                        \
  }                                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(1024)                                                                                 \
      softmax_gradient_##NAME##_2(T* dx, const T* y, const T* dy, int columns, float scale, int logarithm) {                          \
    gradient_row<T, 2>(dx, y, dy, columns, scale, logarithm);                                                                        \
  }                                                                                                                                  \
  extern "C" __global__ void __launch_bounds__(1024)                                                                                 \
      softmax_gradient_##NAME##_long(T* dx, const T* y, const T* dy, int columns, float scale, int logarithm) {                       \
    gradient_long<T>(dx, y, dy, columns, scale, logarithm);                                                                          \
  }
SOFTMAX_GRADIENT(bf16, __nv_bfloat16)
SOFTMAX_GRADIENT(f32, float)
