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
// Mirror native/fused.rs and native/prefill.rs.
struct Rows {
  uint64_t out, x, more[3];
  size_t count, columns;
  float number;
  int flag, wide;
};
struct Prefill {
  uint64_t out, log_sum, q, keys, values, block_table;
  size_t pages, page_tokens, sequences, table_width;
};
struct GradientStep {
  uint64_t dq, dk, dv, q, keys, values, out, log_sum, gradient;
};
int tk_layer_norm(const void* handle, void* stream, const Rows* call);
int tk_gelu(const void* handle, void* stream, const Rows* call);
int tk_gelu_gradient(const void* handle, void* stream, const Rows* call);
int tk_softmax(const void* handle, void* stream, const Rows* call);
int tk_softmax_gradient(const void* handle, void* stream, const Rows* call);
int tk_embedding(const void* handle, void* stream, const Rows* call);
int tk_prefill(const void* handle, void* stream, const Prefill* call, const void* plan);
int tk_prefill_gradient(const void* handle, void* stream, const GradientStep* call, void* plan);
int tk_linear_bf16(const void* handle, void* stream, uint64_t y, uint64_t x, uint64_t weight, size_t rows, size_t features, size_t columns);
}

namespace {

using Buffer = ffi::Buffer<ffi::BF16>;
using Result = ffi::ResultBuffer<ffi::BF16>;

ffi::Error ended(int status) { return status == 0 ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kInvalidArgument, std::string(tk_error())); }
uint64_t address(void* p) { return reinterpret_cast<uint64_t>(p); }
uint64_t at(Buffer b) { return address(b.untyped_data()); }
uint64_t at(Result b) { return address(b->untyped_data()); }
const void* opened(int64_t handle) { return reinterpret_cast<const void*>(handle); }
size_t last(Buffer b) { return static_cast<size_t>(b.dimensions().back()); }
size_t rows(Buffer b) { return last(b) ? b.element_count() / last(b) : 0; }

ffi::Error rms_norm(void* stream, Buffer x, Buffer weight, Result y, int64_t handle, float epsilon) {
  return ended(tk_rms_norm(opened(handle), stream, at(y), at(x), at(weight), rows(x), last(x), epsilon));
}
ffi::Error silu_mul(void* stream, Buffer gate_up, Result out, int64_t handle) {
  return ended(tk_silu_mul(opened(handle), stream, at(out), at(gate_up), rows(gate_up), last(gate_up) / 2));
}
ffi::Error linear(void* stream, Buffer x, Buffer weight, Result y, int64_t handle) {
  return ended(tk_linear_bf16(opened(handle), stream, at(y), at(x), at(weight), rows(x),
                              static_cast<size_t>(weight.dimensions().front()), last(x)));
}

ffi::Error layer_norm(void* stream, Buffer x, Buffer weight, Buffer bias, Result y, int64_t handle, float epsilon) {
  const Rows call{at(y), at(x), {0, at(weight), at(bias)}, rows(x), last(x), epsilon, 0, 0};
  return ended(tk_layer_norm(opened(handle), stream, &call));
}
ffi::Error gelu(void* stream, Buffer x, Result y, int64_t handle, int32_t tanh) {
  const Rows call{at(y), at(x), {}, rows(x), last(x), 0.f, tanh, 0};
  return ended(tk_gelu(opened(handle), stream, &call));
}
ffi::Error gelu_gradient(void* stream, Buffer x, Buffer dy, Result dx, int64_t handle, int32_t tanh) {
  const Rows call{at(dx), at(x), {at(dy)}, rows(x), last(x), 0.f, tanh, 0};
  return ended(tk_gelu_gradient(opened(handle), stream, &call));
}
ffi::Error softmax(void* stream, Buffer x, Result y, int64_t handle, float scale, int32_t logarithm) {
  const Rows call{at(y), at(x), {}, rows(x), last(x), scale, logarithm, 0};
  return ended(tk_softmax(opened(handle), stream, &call));
}
ffi::Error softmax_gradient(void* stream, Buffer y, Buffer dy, Result dx, int64_t handle, float scale, int32_t logarithm) {
  const Rows call{at(dx), at(y), {at(dy)}, rows(y), last(y), scale, logarithm, 0};
  return ended(tk_softmax_gradient(opened(handle), stream, &call));
}
ffi::Error embedding(void* stream, Buffer table, ffi::Buffer<ffi::S32> ids, Result out, int64_t handle) {
  const Rows call{at(out), at(table), {address(ids.untyped_data())}, ids.element_count(), last(table), 0.f, static_cast<int>(rows(table)), 0};
  return ended(tk_embedding(opened(handle), stream, &call));
}
ffi::Error attention(void* stream, Buffer q, Buffer keys, Buffer values, Result out, ffi::ResultBuffer<ffi::F32> log_sum, int64_t handle, int64_t plan) {
  const Prefill call{at(out), address(log_sum->untyped_data()), at(q), at(keys), at(values), 0, 0, 0, 0, 0};
  return ended(tk_prefill(opened(handle), stream, &call, opened(plan)));
}
ffi::Error attention_gradient(void* stream, Buffer gradient, Buffer q, Buffer keys, Buffer values, Buffer out, ffi::Buffer<ffi::F32> log_sum, Result dq,
                              Result dk, Result dv, int64_t handle, int64_t plan) {
  const GradientStep call{at(dq), at(dk), at(dv), at(q), at(keys), at(values), at(out), address(log_sum.untyped_data()), at(gradient)};
  return ended(tk_prefill_gradient(opened(handle), stream, &call, reinterpret_cast<void*>(plan)));
}

using Bound = decltype(ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>().Arg<Buffer>());
Bound one() { return ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>().Arg<Buffer>(); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(TkLayerNorm, layer_norm, one().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>().Attr<int64_t>("handle").Attr<float>("epsilon"),
                              {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkGelu, gelu, one().Ret<Buffer>().Attr<int64_t>("handle").Attr<int32_t>("tanh"), {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkGeluGradient, gelu_gradient, one().Arg<Buffer>().Ret<Buffer>().Attr<int64_t>("handle").Attr<int32_t>("tanh"),
                              {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkSoftmax, softmax, one().Ret<Buffer>().Attr<int64_t>("handle").Attr<float>("scale").Attr<int32_t>("logarithm"),
                              {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkSoftmaxGradient, softmax_gradient,
                              one().Arg<Buffer>().Ret<Buffer>().Attr<int64_t>("handle").Attr<float>("scale").Attr<int32_t>("logarithm"),
                              {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkEmbedding, embedding, one().Arg<ffi::Buffer<ffi::S32>>().Ret<Buffer>().Attr<int64_t>("handle"),
                              {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkAttention, attention,
                              one().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>().Ret<ffi::Buffer<ffi::F32>>().Attr<int64_t>("handle").Attr<int64_t>("plan"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkAttentionGradient, attention_gradient,
                              one().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>().Arg<ffi::Buffer<ffi::F32>>().Ret<Buffer>().Ret<Buffer>().Ret<Buffer>()
                                  .Attr<int64_t>("handle").Attr<int64_t>("plan"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkRmsNorm, rms_norm, one().Arg<Buffer>().Ret<Buffer>().Attr<int64_t>("handle").Attr<float>("epsilon"),
                              {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkSiluMul, silu_mul, one().Ret<Buffer>().Attr<int64_t>("handle"), {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(TkLinear, linear, one().Arg<Buffer>().Ret<Buffer>().Attr<int64_t>("handle"), {ffi::Traits::kCmdBufferCompatible});
