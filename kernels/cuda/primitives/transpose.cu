// out[c][r] = in[r][c], elements of 2 or 4 bytes.
//
// A block moves a tile of 64 columns of 128 bytes' worth through shared memory: rows are read and columns written in runs of at least 64 bytes a
// half warp. A tile's row is one word longer than it is wide, so that neither side meets in a bank.
#include <stdint.h>

namespace {

constexpr int kTile = 64, kThreads = 256;

template <typename T>
__device__ __forceinline__ void transpose(T* out, const T* in, int rows, int columns) {
  // Elements of 2 bytes are moved in pairs along both sides: a word of the tile holds two neighbours of a row.
  __shared__ T tile[kTile][kTile + 4 / sizeof(T)];
  const long long across = (columns + kTile - 1) / kTile;
  const int row0 = static_cast<int>(blockIdx.x / across) * kTile, column0 = static_cast<int>(blockIdx.x % across) * kTile;
  constexpr int kWide = 4 / sizeof(T);
  const int lane = threadIdx.x % (kTile / kWide) * kWide, first = threadIdx.x / (kTile / kWide);
  constexpr int kStep = kThreads / (kTile / kWide);
  T held[kTile / kStep][kWide];
#pragma unroll
  for (int i = 0; i < kTile / kStep; i++) {
    const int r = row0 + first + i * kStep, c = column0 + lane;
    if (r >= rows) continue;
    const T* from = in + static_cast<long long>(r) * columns + c;
    if (kWide == 2 && c + 1 < columns && columns % 2 == 0) {
      *reinterpret_cast<uint32_t*>(held[i]) = __ldcs(reinterpret_cast<const uint32_t*>(from));
    } else {
#pragma unroll
      for (int e = 0; e < kWide; e++)
        if (c + e < columns) held[i][e] = from[e];
    }
  }
#pragma unroll
  for (int i = 0; i < kTile / kStep; i++)
#pragma unroll
    for (int e = 0; e < kWide; e++) tile[first + i * kStep][lane + e] = held[i][e];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kTile / kStep; i++) {
    const int c = column0 + first + i * kStep, r = row0 + lane;
    if (c >= columns) continue;
    T* to = out + static_cast<long long>(c) * rows + r;
    T pair[kWide];
#pragma unroll
    for (int e = 0; e < kWide; e++) pair[e] = tile[lane + e][first + i * kStep];
    if (kWide == 2 && r + 1 < rows && rows % 2 == 0) {
      __stcs(reinterpret_cast<uint32_t*>(to), *reinterpret_cast<uint32_t*>(pair));
    } else {
#pragma unroll
      for (int e = 0; e < kWide; e++)
        if (r + e < rows) to[e] = pair[e];
    }
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(kThreads) transpose_16(uint16_t* out, const uint16_t* in, int rows, int columns) {
  transpose(out, in, rows, columns);
}
extern "C" __global__ void __launch_bounds__(kThreads) transpose_32(uint32_t* out, const uint32_t* in, int rows, int columns) {
  transpose(out, in, rows, columns);
}
