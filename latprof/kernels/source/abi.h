// The few functions of ONNX Runtime's C API that the operators call, by their position.
//
// No wheel ships the runtime's headers. Its table of functions only ever grows at the end, so a
// position names a function in every version that has it. The tests run the operators in the oldest
// and the newest supported runtime; one older than `kApiVersion` is told by name.

#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

struct Status;
struct SessionOptions;
struct CustomOpDomain;
struct KernelInfo;
struct KernelContext;
struct Value;
struct ShapeInfo;

constexpr uint32_t kApiVersion = 17;         // the first with ParallelFor
constexpr uint32_t kApiVersionWithSize = 23;  // the first that tells a tensor's size at once

enum class ErrorCode : int { kFail = 1, kInvalidArgument = 2, kRuntimeException = 6 };
enum class ElementType : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6 };
enum class Characteristic : int { kRequired = 0, kOptional = 1, kVariadic = 2 };

struct ApiBase {
  const void* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// What an operator offers the runtime: its schema and the callbacks of its kernel.
// `version` 16 is the first whose callbacks may fail with a status of their own (…V2).
struct CustomOp {
  uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const void* api, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  ElementType (*GetInputType)(const CustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, KernelContext*);
  void (*KernelDestroy)(void* kernel);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, size_t index);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, size_t index);
  int (*GetInputMemoryType)(const CustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const void* api, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, void* context);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  size_t (*GetMayInplace)(int** input_index, int** output_index);
  void (*ReleaseMayInplace)(int* input_index, int* output_index);
  size_t (*GetAliasMap)(int** input_index, int** output_index);
  void (*ReleaseAliasMap)(int* input_index, int* output_index);
};

// The runtime's table of functions, seen through the positions that are used here.
class Api {
 public:
  explicit Api(const void* table = nullptr) : table_(static_cast<void* const*>(table)) {}

  bool operator!() const { return table_ == nullptr; }

  Status* CreateStatus(ErrorCode code, const char* message) const {
    return call<Status*>(0, code, message);
  }
  Status* CreateCustomOpDomain(const char* name, CustomOpDomain** out) const {
    return call<Status*>(26, name, out);
  }
  Status* CustomOpDomain_Add(CustomOpDomain* domain, const CustomOp* op) const {
    return call<Status*>(27, domain, op);
  }
  Status* AddCustomOpDomain(SessionOptions* options, CustomOpDomain* domain) const {
    return call<Status*>(28, options, domain);
  }
  Status* GetTensorMutableData(const Value* value, void** out) const {
    return call<Status*>(51, const_cast<Value*>(value), out);
  }
  Status* GetTensorShapeElementCount(const ShapeInfo* info, size_t* out) const {
    return call<Status*>(64, info, out);
  }
  Status* GetTensorTypeAndShape(const Value* value, ShapeInfo** out) const {
    return call<Status*>(65, value, out);
  }
  Status* KernelInfoGetAttribute_float(const KernelInfo* info, const char* name, float* out) const {
    return call<Status*>(85, info, name, out);
  }
  Status* KernelInfoGetAttribute_int64(const KernelInfo* info, const char* name,
                                       int64_t* out) const {
    return call<Status*>(86, info, name, out);
  }
  Status* KernelContext_GetInputCount(const KernelContext* context, size_t* out) const {
    return call<Status*>(88, context, out);
  }
  Status* KernelContext_GetInput(const KernelContext* context, size_t index,
                                 const Value** out) const {
    return call<Status*>(90, context, index, out);
  }
  Status* KernelContext_GetOutput(KernelContext* context, size_t index, const int64_t* dims,
                                  size_t rank, Value** out) const {
    return call<Status*>(91, context, index, dims, rank, out);
  }
  void ReleaseStatus(Status* status) const { call<void>(93, status); }
  void ReleaseTensorTypeAndShapeInfo(ShapeInfo* info) const { call<void>(99, info); }
  Status* KernelInfoGetConstantInput_tensor(const KernelInfo* info, size_t index, int* is_constant,
                                            const Value** out) const {
    return call<Status*>(249, info, index, is_constant, out);
  }
  Status* KernelContext_ParallelFor(const KernelContext* context, void (*task)(void*, size_t),
                                    size_t total, size_t batches, void* data) const {
    return call<Status*>(274, context, task, total, batches, data);
  }
  // Of versions from kApiVersionWithSize on only.
  Status* GetTensorSizeInBytes(const Value* value, size_t* out) const {
    return call<Status*>(318, value, out);
  }

 private:
  template <typename Answer, typename... Arguments>
  Answer call(size_t position, Arguments... arguments) const {
    using Function = Answer (*)(Arguments...);
    return reinterpret_cast<Function>(table_[position])(arguments...);
  }

  void* const* table_;
};

}  // namespace ort
