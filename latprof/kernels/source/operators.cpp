// The operators as ONNX Runtime meets them: what they are called, what they read, what they refuse.
//
// Weights and shapes are checked once, when a session opens. Nothing is kept between runs, so a
// session may be run from several threads. `docs/kernels.md` describes every operator.

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi.h"
#include "convolution.h"
#include "layers.h"

#ifndef BLOCK_SPARSE_VERSION
#define BLOCK_SPARSE_VERSION "0"
#endif
#ifndef BLOCK_SPARSE_FLAGS
#define BLOCK_SPARSE_FLAGS "unknown"
#endif

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

namespace block_sparse {
namespace {

constexpr const char* kDomain = "latprof.block_sparse";
constexpr int64_t kMostFloats = int64_t{1} << 31;  // of an image: offsets are 32 bits wide

ort::Api api;       // of the version that all need; set once, before the first session opens
ort::Api api_size;  // the same where it tells a tensor's size at once, else nothing

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

void pass(ort::Status* status) {
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

size_t elements(const ort::Value* value) {
  size_t count = 0;
  if (!!api_size) {
    pass(api_size.GetTensorSizeInBytes(value, &count));
    return count / 4;  // all types here have four bytes
  }
  ort::ShapeInfo* info = nullptr;
  pass(api.GetTensorTypeAndShape(value, &info));
  ort::Status* status = api.GetTensorShapeElementCount(info, &count);
  api.ReleaseTensorTypeAndShapeInfo(info);
  pass(status);
  return count;
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
    return {data<T>(value), static_cast<int64_t>(elements(value))};
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
                static_cast<double>(kMostFloats),
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
Map slide(const Map& in, const Window& window, int64_t channels, int64_t border, int64_t lanes,
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

// One run of a node: its inputs and outputs.
class Call {
 public:
  explicit Call(ort::KernelContext* context) : context_(context) {}

  // An input of whole images; nullptr for an optional one that is absent.
  const float* input(size_t index, int64_t image, int64_t* images) {
    const ort::Value* value = nullptr;
    pass(api.KernelContext_GetInput(context_, index, &value));
    if (value == nullptr) return nullptr;
    const int64_t count = static_cast<int64_t>(elements(value));
    require(count % image == 0 && (*images < 0 || count / image == *images), [&] {
      return "input " + std::to_string(index) + " has " + std::to_string(count) +
             " values, expected " +
             (*images < 0 ? "a multiple of " + std::to_string(image)
                          : std::to_string(image * *images));
    });
    *images = count / image;
    return data<float>(value);
  }

  float* output(const Map& map, int64_t images) {
    const int64_t dims[] = {images, map.blocks(), map.height + 2 * map.border,
                            map.width + 2 * map.border, map.lanes};
    return output(dims, 5);
  }

  float* output(const int64_t* dims, size_t rank) {
    ort::Value* value = nullptr;
    pass(api.KernelContext_GetOutput(context_, 0, dims, rank, &value));
    return data<float>(value);
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
template <typename Made>
struct OneMap : Kernel {
  Map in_, out_;
  std::unique_ptr<Made> made_;

  void run(Call& call) const override {
    int64_t images = -1;
    const float* in = call.input(0, in_.image(), &images);
    made_->run(in, call.output(out_, images), images, call.threads());
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

// ---- the operators -------------------------------------------------------------------------------

template <int Channels>
class SparseConv : public Kernel {
 public:
  explicit SparseConv(const Info& info) {
    in_ = info.map("in", info.number("planar", 0, 1) ? 1 : Channels);
    const Window window = info.window();
    out_ = slide(in_, window, info.number("out_channels", 1, 1 << 20),
                 info.number("out_border", 0, 1024), Channels, true);
    residual_ = out_;
    residual_.border = info.number("residual_border", 0, 1024);
    Info::require_possible(residual_);
    const auto weights = info.constant<float>(1, "weights");
    const auto taps = info.constant<int32_t>(2, "taps");
    const auto starts = info.constant<int32_t>(3, "starts");
    const auto bias = info.constant<float>(4, "bias");
    check(window, weights, taps, starts, bias);
    made_ = std::make_unique<Convolution<Channels>>(in_, out_, window, info.activation(),
                                                    weights.values, taps.values, starts.values,
                                                    bias.values);
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const float* in = call.input(0, in_.image(), &images);
    const float* residual = call.inputs() > 5 ? call.input(5, residual_.image(), &images) : nullptr;
    made_->run(in, residual, residual_, call.output(out_, images), images, call.threads());
  }

 private:
  void check(const Window& window, const Constant<float>& weights, const Constant<int32_t>& taps,
             const Constant<int32_t>& starts, const Constant<float>& bias) const {
    const int64_t blocks = out_.blocks();
    require(starts.count == blocks + 1, [&] {
      return "starts has " + std::to_string(starts.count) + " entries, expected " +
             std::to_string(blocks + 1);
    });
    require(bias.count == blocks * Channels, [&] {
      return "bias has " + std::to_string(bias.count) + " entries, expected " +
             std::to_string(blocks * Channels);
    });
    require(starts.values[0] == 0 && starts.values[blocks] == taps.count, [&] {
      return "starts must go from 0 to the number of taps, " + std::to_string(taps.count);
    });
    for (int64_t i = 0; i < blocks; ++i)
      require(starts.values[i] <= starts.values[i + 1], [] { return "starts must not descend"; });
    require(weights.count == taps.count * Channels, [&] {
      return "weights has " + std::to_string(weights.count) + " values, expected " +
             std::to_string(taps.count * Channels) + " for " + std::to_string(taps.count) + " taps";
    });
    const int64_t all = in_.channels * window.kernel_h * window.kernel_w;
    for (int64_t i = 0; i < taps.count; ++i)
      require(0 <= taps.values[i] && taps.values[i] < all, [&] {
        return "tap " + std::to_string(i) + " is " + std::to_string(taps.values[i]) +
               ", expected 0 to " + std::to_string(all - 1);
      });
  }

  Map in_, out_, residual_;
  std::unique_ptr<Convolution<Channels>> made_;
};

template <int Channels>
class DepthwiseConv : public OneMap<Depthwise<Channels>> {
  using Base = OneMap<Depthwise<Channels>>;
  using Base::in_, Base::out_, Base::made_;

 public:
  explicit DepthwiseConv(const Info& info) {
    in_ = info.map("in", Channels);
    const Window window = info.window();
    out_ = slide(in_, window, in_.channels, info.number("out_border", 0, 1024), Channels, true);
    const auto weights = info.constant<float>(1, "weights");
    const auto bias = info.constant<float>(2, "bias");
    const int64_t expected = out_.blocks() * window.kernel_h * window.kernel_w * Channels;
    require(weights.count == expected, [&] {
      return "weights has " + std::to_string(weights.count) + " values, expected " +
             std::to_string(expected);
    });
    require(bias.count == out_.blocks() * Channels, [&] {
      return "bias has " + std::to_string(bias.count) + " values, expected " +
             std::to_string(out_.blocks() * Channels);
    });
    made_ = std::make_unique<Depthwise<Channels>>(in_, out_, window, info.activation(),
                                                  weights.values, bias.values);
  }
};

template <int Channels>
class PoolOperator : public OneMap<Pool<Channels>> {
  using Base = OneMap<Pool<Channels>>;
  using Base::in_, Base::out_, Base::made_;

 public:
  explicit PoolOperator(const Info& info) {
    in_ = info.map("in", Channels);
    const Window window = info.window();
    out_ = slide(in_, window, in_.channels, info.number("out_border", 0, 1024), Channels, false);
    made_ = std::make_unique<Pool<Channels>>(in_, out_, window, info.number("largest", 0, 1) == 1,
                                             info.number("counts_padding", 0, 1) == 1);
  }
};

template <int Channels>
class GlobalPool : public Kernel {
 public:
  explicit GlobalPool(const Info& info) : in_(info.map("in", Channels)), out_(in_) {
    out_.height = out_.width = 1;
    out_.border = info.number("out_border", 0, 1024);
    Info::require_possible(out_);
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const float* in = call.input(0, in_.image(), &images);
    float* out = call.output(out_, images);
    for (int64_t i = 0; i < images; ++i)
      global_mean<Channels>(in_, in + i * in_.image(), out_, out + i * out_.image());
  }

 private:
  Map in_, out_;
};

template <int Channels>
class Combine : public Kernel {
 public:
  explicit Combine(const Info& info)
      : left_(info.map("in", Channels)), right_(left_), out_(left_),
        multiplies_(info.number("multiplies", 0, 1) == 1), activation_(info.activation()) {
    out_.border = info.number("out_border", 0, 1024);
    right_.border = info.number("right_border", 0, 1024);
    if (info.number("right_is_one_pixel", 0, 1)) right_.height = right_.width = 1;
    Info::require_possible(out_);
    Info::require_possible(right_);
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const float* left = call.input(0, left_.image(), &images);
    const float* right = call.inputs() > 1 ? call.input(1, right_.image(), &images) : nullptr;
    float* out = call.output(out_, images);
    call.for_blocks(out_, images, [&](int64_t image, int64_t block) {
      combine<Channels>(out_, left + image * left_.image(), left_,
                        right ? right + image * right_.image() : nullptr, right_, multiplies_,
                        right == nullptr, activation_, out + image * out_.image(), block,
                        block + 1);
    });
  }

 private:
  Map left_, right_, out_;
  bool multiplies_;
  Activation activation_;
};

template <int Channels>
class Concat : public Kernel {
 public:
  explicit Concat(const Info& info) {
    const Map shape = info.map("in", Channels);
    const auto parts = info.constant<int32_t>(0, "parts");
    require(parts.count >= 2 && parts.count % 2 == 0,
            [] { return "parts must hold the channels and the border of every input"; });
    out_ = shape;
    out_.border = info.number("out_border", 0, 1024);
    out_.channels = 0;
    for (int64_t i = 0; i < parts.count; i += 2) {
      Map part = shape;
      part.channels = parts.values[i];
      part.border = parts.values[i + 1];
      require(part.channels >= 1 && part.channels <= 1 << 20 && part.border >= 0 &&
                  part.border <= 1024,
              [] { return "parts has a channel count or border that cannot be"; });
      Info::require_possible(part);
      parts_.push_back(part);
      out_.channels += part.channels;
    }
    Info::require_possible(out_);
  }

  void run(Call& call) const override {
    require(call.inputs() == parts_.size() + 1, [&] {
      return "there are " + std::to_string(call.inputs() - 1) + " inputs to join, expected " +
             std::to_string(parts_.size());
    });
    int64_t images = -1;
    std::vector<const float*> inputs;
    for (size_t i = 0; i < parts_.size(); ++i)
      inputs.push_back(call.input(i + 1, parts_[i].image(), &images));
    float* out = call.output(out_, images);
    for (int64_t image = 0; image < images; ++image) {
      float* to = out + image * out_.image();
      clear_border(out_, to, 0, out_.blocks());
      if (out_.channels % Channels != 0)  // lanes of the last block that no channel fills
        std::memset(to + (out_.blocks() - 1) * out_.plane(), 0,
                    sizeof(float) * static_cast<size_t>(out_.plane()));
      int64_t start = 0;
      for (size_t i = 0; i < parts_.size(); ++i) {
        place_channels<Channels>(parts_[i], inputs[i] + image * parts_[i].image(), out_, to, start);
        start += parts_[i].channels;
      }
    }
  }

 private:
  std::vector<Map> parts_;
  Map out_;
};

template <int Channels>
class Upsample : public Kernel {
 public:
  explicit Upsample(const Info& info)
      : in_(info.map("in", Channels)), out_(in_), factor_h_(info.number("factor_h", 1, 1024)),
        factor_w_(info.number("factor_w", 1, 1024)) {
    out_.height *= factor_h_;
    out_.width *= factor_w_;
    out_.border = info.number("out_border", 0, 1024);
    Info::require_possible(out_);
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const float* in = call.input(0, in_.image(), &images);
    float* out = call.output(out_, images);
    call.for_blocks(out_, images, [&](int64_t image, int64_t block) {
      enlarge<Channels>(in_, in + image * in_.image(), factor_h_, factor_w_, out_,
                        out + image * out_.image(), block);
    });
  }

 private:
  Map in_, out_;
  int64_t factor_h_, factor_w_;
};

// From [images, channels, height, width] into the blocked layout, or into the planar one.
template <int Channels>
class ToBlocked : public Kernel {
 public:
  explicit ToBlocked(const Info& info)
      : map_(info.map("in", info.number("planar", 0, 1) ? 1 : Channels)) {}

  void run(Call& call) const override {
    int64_t images = -1;
    const int64_t image = map_.channels * map_.height * map_.width;
    const float* in = call.input(0, image, &images);
    float* out = call.output(map_, images);
    call.for_blocks(map_, images, [&](int64_t i, int64_t block) {
      enter(in + i * image, map_, out + i * map_.image(), block, block + 1);
    });
  }

 private:
  Map map_;
};

template <int Channels>
class FromBlocked : public Kernel {
 public:
  explicit FromBlocked(const Info& info) : map_(info.map("in", Channels)) {}

  void run(Call& call) const override {
    int64_t images = -1;
    const float* in = call.input(0, map_.image(), &images);
    const int64_t dims[] = {images, map_.channels, map_.height, map_.width};
    float* out = call.output(dims, 4);
    const int64_t image = map_.channels * map_.height * map_.width;
    call.for_blocks(map_, images, [&](int64_t i, int64_t block) {
      leave(map_, in + i * map_.image(), out + i * image, block, block + 1);
    });
  }

 private:
  Map map_;
};

// ---- registration --------------------------------------------------------------------------------

struct Input {
  ort::ElementType type;
  ort::Characteristic kind;
};

constexpr Input kFloats{ort::ElementType::kFloat, ort::Characteristic::kRequired};
constexpr Input kIntegers{ort::ElementType::kInt32, ort::Characteristic::kRequired};
constexpr Input kMaybe{ort::ElementType::kFloat, ort::Characteristic::kOptional};
constexpr Input kSeveral{ort::ElementType::kFloat, ort::Characteristic::kVariadic};

struct Operator : ort::CustomOp {
  const char* name;
  std::vector<Input> inputs;
  std::unique_ptr<Kernel> (*make)(const Info&);

  Operator(const char* called, std::vector<Input> reads,
           std::unique_ptr<Kernel> (*maker)(const Info&))
      : ort::CustomOp{}, name(called), inputs(std::move(reads)), make(maker) {
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
    GetOutputType = [](const ort::CustomOp*, size_t) { return ort::ElementType::kFloat; };
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

const std::vector<std::unique_ptr<Operator>>& operators() {
  static const auto all = [] {
    std::vector<std::unique_ptr<Operator>> made;
    const auto add = [&](const char* name, std::vector<Input> inputs,
                         std::unique_ptr<Kernel> (*make)(const Info&)) {
      made.push_back(std::make_unique<Operator>(name, std::move(inputs), make));
    };
    add("SparseConv", {kFloats, kFloats, kIntegers, kIntegers, kFloats, kMaybe},
        &with_block<SparseConv>);
    add("DepthwiseConv", {kFloats, kFloats, kFloats}, &with_block<DepthwiseConv>);
    add("Pool", {kFloats}, &with_block<PoolOperator>);
    add("GlobalPool", {kFloats}, &with_block<GlobalPool>);
    add("Combine", {kFloats, kMaybe}, &with_block<Combine>);
    add("Concat", {kIntegers, kSeveral}, &with_block<Concat>);
    add("Upsample", {kFloats}, &with_block<Upsample>);
    add("ToBlocked", {kFloats}, &with_block<ToBlocked>);
    add("FromBlocked", {kFloats}, &with_block<FromBlocked>);
    return made;
  }();
  return all;
}

}  // namespace
}  // namespace block_sparse

namespace block_sparse {
namespace {

// Whether this runtime, such as 1.32.0, is of that version of the API or newer. Asking it for a newer
// one would make it print.
bool has_version(const ort::ApiBase* base, uint32_t wanted) {
  unsigned major = 0, minor = 0;
  std::sscanf(base->GetVersionString(), "%u.%u", &major, &minor);
  return major > 1 || minor >= wanted;
}

// The domain with all operators, made once: sessions hold on to it.
ort::CustomOpDomain* the_domain(const ort::ApiBase* base) {
  static ort::CustomOpDomain* const domain = [base] {
    api = ort::Api(base->GetApi(ort::kApiVersion));
    if (has_version(base, ort::kApiVersionWithSize))
      api_size = ort::Api(base->GetApi(ort::kApiVersionWithSize));
    ort::CustomOpDomain* made = nullptr;
    pass(api.CreateCustomOpDomain(kDomain, &made));
    for (const auto& op : operators()) pass(api.CustomOpDomain_Add(made, op.get()));
    return made;
  }();
  return domain;
}

}  // namespace
}  // namespace block_sparse

// What ONNX Runtime calls when a library of operators is registered with a session's options.
extern "C" EXPORTED ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                   const ort::ApiBase* base) {
  using namespace block_sparse;
  if (!has_version(base, ort::kApiVersion)) {
    // Version 1 is in every runtime, and knows how to say so.
    const std::string message = std::string(kDomain) + " needs ONNX Runtime 1." +
                                std::to_string(ort::kApiVersion) + " or newer, this is " +
                                base->GetVersionString();
    return ort::Api(base->GetApi(1)).CreateStatus(ort::ErrorCode::kFail, message.c_str());
  }
  try {
    return ort::Api(base->GetApi(ort::kApiVersion)).AddCustomOpDomain(options, the_domain(base));
  } catch (const Passed& passed) {
    return passed.status;
  } catch (const std::exception& error) {
    return ort::Api(base->GetApi(1)).CreateStatus(ort::ErrorCode::kFail, error.what());
  }
}

// Version, instruction set, vector bytes and flags of this build, as `latprof kernels info` reads
// them.
extern "C" EXPORTED const char* BlockSparseBuild() {
  static const std::string text = std::string(BLOCK_SPARSE_VERSION) + " " +
                                  block_sparse::kInstructions + " " +
                                  std::to_string(block_sparse::kVectorBytes) + " " +
                                  BLOCK_SPARSE_FLAGS;
  return text.c_str();
}
