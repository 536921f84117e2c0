// Handlers of XLA's foreign function interface over the C functions of libtinykernels_native.so. tinykernels/jax.py compiles this with the headers that
// jax brings.
#include <cstdint>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

extern "C" {
const char* tk_error();
int tk_rms_norm(const void* handle, void* stream, uint64_t y, uint64_t x, uint64_t weight, size_t rows, size_t hidden, float epsilon);
int tk_silu_mul(const void* handle, void* stream, uint64_t out, uint64_t gate_up, size_t rows, size_t inner);
int tk_linear_bf16(const void* handle, void* stream, uint64_t y, uint64_t x, uint64_t weight, size_t rows, size_t features, size_t columns);
}

namespace {

using Buffer = ffi::Buffer<ffi::BF16>;
using Result = ffi::ResultBuffer<ffi::BF16>;

ffi::Error ended(int status) { return status == 0 ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kInvalidArgument, std::string(tk_error())); }
uint64_t address(void* p) { return reinterpret_cast<uint64_t>(p); }
const void* opened(int64_t handle) { return reinterpret_cast<const void*>(handle); }
size_t last(Buffer b) { return static_cast<size_t>(b.dimensions().back()); }
size_t rows(Buffer b) { return last(b) ? b.element_count() / last(b) : 0; }

ffi::Error rms_norm(void* stream, Buffer x, Buffer weight, Result y, int64_t handle, float epsilon) {
  return ended(tk_rms_norm(opened(handle), stream, address(y->untyped_data()), address(x.untyped_data()), address(weight.untyped_data()), rows(x), last(x), epsilon));
}
ffi::Error silu_mul(void* stream, Buffer gate_up, Result out, int64_t handle) {
  return ended(tk_silu_mul(opened(handle), stream, address(out->untyped_data()), address(gate_up.untyped_data()), rows(gate_up), last(gate_up) / 2));
}
ffi::Error linear(void* stream, Buffer x, Buffer weight, Result y, int64_t handle) {
  return ended(tk_linear_bf16(opened(handle), stream, address(y->untyped_data()), address(x.untyped_data()), address(weight.untyped_data()), rows(x),
                              static_cast<size_t>(weight.dimensions().front()), last(x)));
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(TkRmsNorm, rms_norm,
                              ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>().Attr<int64_t>("handle").Attr<float>("epsilon"),
                              {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkSiluMul, silu_mul, ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>().Arg<Buffer>().Ret<Buffer>().Attr<int64_t>("handle"),
                              {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkLinear, linear,
                              ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>().Attr<int64_t>("handle"),
                              {ffi::Traits::kCmdBufferCompatible});
