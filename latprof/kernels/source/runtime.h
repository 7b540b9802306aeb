// What operators share: how ONNX Runtime's nodes, tensors and faults look to them.

#pragma once

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "abi.h"
#include "activation.h"
#include "maps.h"
#include "parallel.h"

namespace block_sparse {

constexpr int64_t kMostValues = int64_t{1} << 31;  // of an image: offsets are 32 bits wide

inline ort::Api api;       // of the version that all need; set once, before the first session opens
inline ort::Api api_size;  // the same where it tells a tensor's size at once, else nothing

// A fault in a model or a run, told to the runtime in words.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// `otherwise` makes the message, which is hardly ever needed.
template <typename Otherwise>
void require(bool holds, Otherwise&& otherwise) {
  if (!holds) throw Fault(otherwise());
}

// A fault of the runtime's own goes back to it as it came.
struct Passed {
  ort::Status* status;
};

inline void pass(ort::Status* status) {
  if (status != nullptr) throw Passed{status};
}

template <typename Body>
ort::Status* guarded(const char* name, ort::ErrorCode code, Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const Passed& passed) {
    return passed.status;
  } catch (const std::exception& error) {
    return api.CreateStatus(code, (std::string(name) + ": " + error.what()).c_str());
  } catch (...) {
    return api.CreateStatus(code, (std::string(name) + ": unknown error").c_str());
  }
}

template <typename T>
int64_t elements(const ort::Value* value) {
  size_t count = 0;
  if (!!api_size) {
    pass(api_size.GetTensorSizeInBytes(value, &count));
    return static_cast<int64_t>(count / sizeof(T));
  }
  ort::ShapeInfo* info = nullptr;
  pass(api.GetTensorTypeAndShape(value, &info));
  ort::Status* status = api.GetTensorShapeElementCount(info, &count);
  api.ReleaseTensorTypeAndShapeInfo(info);
  pass(status);
  return static_cast<int64_t>(count);
}

template <typename T>
T* data(const ort::Value* value) {
  void* answer = nullptr;
  pass(api.GetTensorMutableData(value, &answer));
  return static_cast<T*>(answer);
}

template <typename T>
struct Constant {
  const T* values;
  int64_t count;
};

// A node's attributes and constant inputs.
class Info {
 public:
  explicit Info(const ort::KernelInfo* info) : info_(info) {}

  int64_t number(const char* name, int64_t lowest, int64_t highest) const {
    int64_t value = 0;
    if (ort::Status* status = api.KernelInfoGetAttribute_int64(info_, name, &value)) {
      api.ReleaseStatus(status);
      throw Fault(std::string("attribute ") + name + " is missing");
    }
    require(lowest <= value && value <= highest, [&] {
      return std::string("attribute ") + name + " is " + std::to_string(value) + ", expected " +
             std::to_string(lowest) + " to " + std::to_string(highest);
    });
    return value;
  }

  float real(const char* name) const {
    float value = 0;
    if (ort::Status* status = api.KernelInfoGetAttribute_float(info_, name, &value)) {
      api.ReleaseStatus(status);
      throw Fault(std::string("attribute ") + name + " is missing");
    }
    return value;
  }

  template <typename T>
  Constant<T> constant(size_t index, const char* name) const {
    int is_constant = 0;
    const ort::Value* value = nullptr;
    pass(api.KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
    require(is_constant != 0 && value != nullptr,
            [&] { return std::string(name) + " must be an initializer, not computed"; });
    return {data<T>(value), elements<T>(value)};
  }

  // One of so many values.
  template <typename T>
  Constant<T> constant(size_t index, const char* name, int64_t expected) const {
    const Constant<T> found = constant<T>(index, name);
    require(found.count == expected, [&] {
      return std::string(name) + " has " + std::to_string(found.count) + " entries, expected " +
             std::to_string(expected);
    });
    return found;
  }

  // Of the four numbers `PREFIX_channels`, `_height`, `_width` and `_border`.
  Map map(const std::string& prefix, int64_t lanes) const {
    constexpr int64_t kMost = 1 << 20;
    Map map;
    map.channels = number((prefix + "_channels").c_str(), 1, kMost);
    map.height = number((prefix + "_height").c_str(), 1, kMost);
    map.width = number((prefix + "_width").c_str(), 1, kMost);
    map.border = number((prefix + "_border").c_str(), 0, 1024);
    map.lanes = lanes;
    require_possible(map);
    return map;
  }

  static void require_possible(const Map& map) {
    require(static_cast<double>(map.blocks() * map.lanes) *
                    static_cast<double>(map.height + 2 * map.border) *
                    static_cast<double>(map.width + 2 * map.border) <
                static_cast<double>(kMostValues),
            [] { return "an image has 2^31 values or more"; });
  }

  Window window() const {
    constexpr int64_t kMost = 1024;
    Window window;
    window.kernel_h = number("kernel_h", 1, kMost);
    window.kernel_w = number("kernel_w", 1, kMost);
    window.stride_h = number("stride_h", 1, kMost);
    window.stride_w = number("stride_w", 1, kMost);
    window.pad_top = number("pad_top", 0, kMost);
    window.pad_left = number("pad_left", 0, kMost);
    window.pad_bottom = number("pad_bottom", 0, kMost);
    window.pad_right = number("pad_right", 0, kMost);
    window.dilation_h = number("dilation_h", 1, kMost);
    window.dilation_w = number("dilation_w", 1, kMost);
    return window;
  }

  Activation activation() const {
    Activation activation;
    activation.kind =
        static_cast<Kind>(number("activation", 0, static_cast<int64_t>(Kind::kCount) - 1));
    activation.alpha = real("alpha");
    activation.beta = real("beta");
    return activation;
  }

 private:
  const ort::KernelInfo* info_;
};

// What a window makes of a map; with `needs_border`, the map's border must reach as far as it does.
inline Map slide(const Map& in, const Window& window, int64_t channels, int64_t border, int64_t lanes,
          bool needs_border) {
  Map out;
  out.channels = channels;
  out.height = window.out_height(in);
  out.width = window.out_width(in);
  out.border = border;
  out.lanes = lanes;
  require(out.height >= 1 && out.width >= 1, [] { return "the window is larger than its input"; });
  Info::require_possible(out);
  if (needs_border) {
    const int64_t bottom = (out.height - 1) * window.stride_h - window.pad_top +
                           (window.kernel_h - 1) * window.dilation_h - (in.height - 1);
    const int64_t right = (out.width - 1) * window.stride_w - window.pad_left +
                          (window.kernel_w - 1) * window.dilation_w - (in.width - 1);
    require(window.pad_top <= in.border && window.pad_left <= in.border && bottom <= in.border &&
                right <= in.border,
            [&] {
              return "in_border is " + std::to_string(in.border) + ", less than the padding needs";
            });
  }
  return out;
}

// What stands for 0 in what a node writes.
template <typename Element>
Element zero_of(const Info& info) {
  if constexpr (std::is_same_v<Element, float>)
    return 0.0f;
  else
    return static_cast<Element>(info.number("written_zero", 0, 255));
}

// What a sparse convolution keeps, as its node's inputs 1 to 3 have it.
template <typename Weight>
struct KeptWeights {
  const Weight* weights;
  const int32_t* taps;
  const int32_t* starts;
};

template <class Arithmetic>
KeptWeights<typename Arithmetic::Weight> kept_weights(const Info& info, const Map& in,
                                                      const Map& out, const Window& window) {
  const int64_t blocks = out.blocks();
  const auto weights = info.constant<typename Arithmetic::Weight>(1, "weights");
  const auto taps = info.constant<int32_t>(2, "taps");
  const auto starts = info.constant<int32_t>(3, "starts", blocks + 1);
  require(starts.values[0] == 0 && starts.values[blocks] == taps.count, [&] {
    return "starts must go from 0 to the number of taps, " + std::to_string(taps.count);
  });
  for (int64_t i = 0; i < blocks; ++i)
    require(starts.values[i] <= starts.values[i + 1], [] { return "starts must not descend"; });
  const int64_t of_a_tap = Arithmetic::kChannels * Arithmetic::kInputs;
  require(weights.count == taps.count * of_a_tap, [&] {
    return "weights has " + std::to_string(weights.count) + " values, expected " +
           std::to_string(taps.count * of_a_tap) + " for " + std::to_string(taps.count) + " taps";
  });
  const int64_t channels = (in.channels + Arithmetic::kInputs - 1) / Arithmetic::kInputs;
  const int64_t all = channels * window.kernel_h * window.kernel_w;
  for (int64_t i = 0; i < taps.count; ++i)
    require(0 <= taps.values[i] && taps.values[i] < all, [&] {
      return "tap " + std::to_string(i) + " is " + std::to_string(taps.values[i]) +
             ", expected 0 to " + std::to_string(all - 1);
    });
  return {weights.values, taps.values, starts.values};
}

// One run of a node: its inputs and outputs.
class Call {
 public:
  explicit Call(ort::KernelContext* context) : context_(context) {}

  // An input of whole images; nullptr for an optional one that is absent.
  template <typename T = float>
  const T* input(size_t index, int64_t image, int64_t* images) {
    const ort::Value* value = nullptr;
    pass(api.KernelContext_GetInput(context_, index, &value));
    if (value == nullptr) return nullptr;
    const int64_t count = elements<T>(value);
    require(count % image == 0 && (*images < 0 || count / image == *images), [&] {
      return "input " + std::to_string(index) + " has " + std::to_string(count) +
             " values, expected " +
             (*images < 0 ? "a multiple of " + std::to_string(image)
                          : std::to_string(image * *images));
    });
    *images = count / image;
    return data<T>(value);
  }

  template <typename T = float>
  T* output(const Map& map, int64_t images) {
    const int64_t dims[] = {images, map.blocks(), map.height + 2 * map.border,
                            map.width + 2 * map.border, map.lanes};
    return output<T>(dims, 5);
  }

  template <typename T = float>
  T* output(const int64_t* dims, size_t rank) {
    ort::Value* value = nullptr;
    pass(api.KernelContext_GetOutput(context_, 0, dims, rank, &value));
    return data<T>(value);
  }

  size_t inputs() const {
    size_t count = 0;
    pass(api.KernelContext_GetInputCount(context_, &count));
    return count;
  }

  Threads threads() const {
    return {[](void* context, void (*task)(void*, size_t), size_t total, void* data) {
              pass(api.KernelContext_ParallelFor(static_cast<ort::KernelContext*>(context), task,
                                                 total, total, data));
            },
            context_};
  }

  // Work that every block of every image needs, cheap enough a vector to be bound by memory.
  template <typename Each>
  void for_blocks(const Map& map, int64_t images, const Each& each) const {
    const double operations =
        4.0 * static_cast<double>(images * map.blocks() * map.height * map.width);
    block_sparse::for_blocks(images, map.blocks(), operations, threads(), each);
  }

 private:
  ort::KernelContext* context_;
};

struct Kernel {
  virtual ~Kernel() = default;
  virtual void run(Call& call) const = 0;
};

// An operator that reads one map and leaves the work to what it made.
template <typename Made, typename Element = float>
struct OneMap : Kernel {
  Map in_, out_;
  std::unique_ptr<Made> made_;

  void run(Call& call) const override {
    int64_t images = -1;
    const Element* in = call.input<Element>(0, in_.image(), &images);
    made_->run(in, call.output<Element>(out_, images), images, call.threads());
  }
};

// Make<16>, Make<8> or Make<4>, as the attribute `block` says.
template <template <int> class Made>
std::unique_ptr<Kernel> with_block(const Info& info) {
  switch (info.number("block", 4, 16)) {
    case 16:
      return std::make_unique<Made<16>>(info);
    case 8:
      return std::make_unique<Made<8>>(info);
    case 4:
      return std::make_unique<Made<4>>(info);
    default:
      throw Fault("attribute block must be 4, 8 or 16");
  }
}

struct Input {
  ort::ElementType type;
  ort::Characteristic kind;
};

constexpr Input required(ort::ElementType type) {
  return {type, ort::Characteristic::kRequired};
}
constexpr Input optional(ort::ElementType type) {
  return {type, ort::Characteristic::kOptional};
}
constexpr Input several(ort::ElementType type) {
  return {type, ort::Characteristic::kVariadic};
}

// What the runtime knows of an operator: its name, what it reads and writes, how it is made.
struct Operator : ort::CustomOp {
  const char* name;
  std::vector<Input> inputs;
  ort::ElementType output;
  std::unique_ptr<Kernel> (*make)(const Info&);

  Operator(const char* called, std::vector<Input> reads, ort::ElementType writes,
           std::unique_ptr<Kernel> (*maker)(const Info&))
      : ort::CustomOp{}, name(called), inputs(std::move(reads)), output(writes), make(maker) {
    version = 16;
    GetName = [](const ort::CustomOp* op) { return self(op).name; };
    GetExecutionProviderType = [](const ort::CustomOp*) -> const char* { return nullptr; };
    GetInputTypeCount = [](const ort::CustomOp* op) { return self(op).inputs.size(); };
    GetInputType = [](const ort::CustomOp* op, size_t i) { return self(op).inputs[i].type; };
    GetInputCharacteristic = [](const ort::CustomOp* op, size_t i) {
      return self(op).inputs[i].kind;
    };
    GetInputMemoryType = [](const ort::CustomOp*, size_t) { return 0; };
    GetVariadicInputMinArity = [](const ort::CustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const ort::CustomOp*) { return 1; };
    GetVariadicOutputMinArity = [](const ort::CustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const ort::CustomOp*) { return 1; };
    GetOutputTypeCount = [](const ort::CustomOp*) { return size_t{1}; };
    GetOutputType = [](const ort::CustomOp* op, size_t) { return self(op).output; };
    GetOutputCharacteristic = [](const ort::CustomOp*, size_t) {
      return ort::Characteristic::kRequired;
    };
    CreateKernelV2 = [](const ort::CustomOp* op, const void*, const ort::KernelInfo* info,
                        void** kernel) {
      return guarded(self(op).name, ort::ErrorCode::kInvalidArgument,
                     [&] { *kernel = new Made{self(op).name, self(op).make(Info(info))}; });
    };
    KernelComputeV2 = [](void* kernel, ort::KernelContext* context) {
      const Made& made = *static_cast<const Made*>(kernel);
      return guarded(made.name, ort::ErrorCode::kRuntimeException, [&] {
        Call call(context);
        made.kernel->run(call);
      });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Made*>(kernel); };
  }

 private:
  struct Made {
    const char* name;
    std::unique_ptr<Kernel> kernel;
  };

  static const Operator& self(const ort::CustomOp* op) {
    return *static_cast<const Operator*>(op);
  }
};

using Operators = std::vector<std::unique_ptr<Operator>>;

void add_operators(Operators* all);            // operators.cpp
void add_quantised_operators(Operators* all);  // quantised_operators.cpp

}  // namespace block_sparse
