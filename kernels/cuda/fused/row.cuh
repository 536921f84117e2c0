// Rows of bf16 or f32 in vectors of 16 bytes, as f32.
#pragma once
#include "../ptx/math.cuh"
#include "../ptx/memory.cuh"

namespace tk {

template <typename T>
struct Lanes;
template <>
struct Lanes<float> {
  static constexpr int kCount = 4;
  static __device__ __forceinline__ uint4 lowest() { return make_uint4(0xff800000u, 0xff800000u, 0xff800000u, 0xff800000u); }
  static __device__ __forceinline__ void unpack(const uint4& v, float (&x)[4]) {
    x[0] = __uint_as_float(v.x), x[1] = __uint_as_float(v.y), x[2] = __uint_as_float(v.z), x[3] = __uint_as_float(v.w);
  }
  static __device__ __forceinline__ uint4 pack(const float (&x)[4]) {
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3]));
  }
};
template <>
struct Lanes<__nv_bfloat16> {
  static constexpr int kCount = 8;
  static __device__ __forceinline__ uint4 lowest() { return make_uint4(0xff80ff80u, 0xff80ff80u, 0xff80ff80u, 0xff80ff80u); }
  static __device__ __forceinline__ void unpack(const uint4& v, float (&x)[8]) {
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 pair = unpack_bf16(words[i]);
      x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
    }
  }
  static __device__ __forceinline__ uint4 pack(const float (&x)[8]) {
    return make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
  }
};

// The running softmax of a thread: the greatest score so far and the mass below it, scores in units of log2 (Milakov and Gimelshein, 2018).
struct Mass {
  float top = -INFINITY, sum = 0.f;

  template <int N>
  __device__ __forceinline__ void add(const float (&y)[N]) {
    float most = top;
#pragma unroll
    for (int i = 0; i < N; i++) most = fmaxf(most, y[i]);
    const float reference = fmaxf(most, -3.0e38f);  // nothing but -inf so far: keeps the difference a number
    sum *= exp2_fast(top - reference);
    top = most;
#pragma unroll
    for (int i = 0; i < N; i++) sum += exp2_fast(y[i] - reference);
  }
  // Over the block; `partial` holds 64 floats.
  __device__ __forceinline__ void join(float* partial) {
    const float most = block_max(top, partial), reference = fmaxf(most, -3.0e38f);
    sum = block_sum(sum * exp2_fast(fmaxf(top, -3.4e38f) - reference), partial + 32);
    top = most;
  }
};

}  // namespace tk
