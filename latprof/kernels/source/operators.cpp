// The operators of maps in FP32: what they read, what they refuse.
//
// Weights and shapes are checked once, when a session opens. Nothing is kept between runs, so a
// session may be run from several threads. `docs/kernels.md` describes every operator.

#include "float_arithmetic.h"
#include "layers.h"
#include "runtime.h"

namespace block_sparse {
namespace {

template <int Channels>
class SparseConv : public Kernel {
  using Arithmetic = FloatArithmetic<Channels>;

 public:
  explicit SparseConv(const Info& info) {
    in_ = info.map("in", info.number("planar", 0, 1) ? 1 : Channels);
    const Window window = info.window();
    out_ = slide(in_, window, info.number("out_channels", 1, 1 << 20),
                 info.number("out_border", 0, 1024), Channels, true);
    residual_ = out_;
    residual_.border = info.number("residual_border", 0, 1024);
    Info::require_possible(residual_);
    const auto kept = kept_weights<Arithmetic>(info, in_, out_, window);
    const auto bias = info.constant<float>(4, "bias", out_.blocks() * Channels);
    typename Arithmetic::Ends ends({bias.values, bias.values + bias.count}, info.activation());
    made_ = std::make_unique<Convolution<Arithmetic>>(in_, out_, window, kept.weights, kept.taps,
                                                      kept.starts, std::move(ends));
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const float* in = call.input(0, in_.image(), &images);
    const float* residual = call.inputs() > 5 ? call.input(5, residual_.image(), &images) : nullptr;
    made_->run(in, residual, residual_, call.output(out_, images), images, call.threads());
  }

 private:
  Map in_, out_, residual_;
  std::unique_ptr<Convolution<Arithmetic>> made_;
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
    const int64_t of_a_place = out_.blocks() * Channels;
    const auto weights =
        info.constant<float>(1, "weights", of_a_place * window.kernel_h * window.kernel_w);
    const auto bias = info.constant<float>(2, "bias", of_a_place);
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

}  // namespace

void add_operators(Operators* all) {
  constexpr auto kFloat = ort::ElementType::kFloat;
  constexpr Input kMaps = required(kFloat), kMaybe = optional(kFloat);
  constexpr Input kIntegers = required(ort::ElementType::kInt32);
  const auto add = [&](const char* name, std::vector<Input> inputs,
                       std::unique_ptr<Kernel> (*make)(const Info&)) {
    all->push_back(std::make_unique<Operator>(name, std::move(inputs), kFloat, make));
  };
  add("SparseConv", {kMaps, kMaps, kIntegers, kIntegers, kMaps, kMaybe}, &with_block<SparseConv>);
  add("DepthwiseConv", {kMaps, kMaps, kMaps}, &with_block<DepthwiseConv>);
  add("Pool", {kMaps}, &with_block<PoolOperator>);
  add("GlobalPool", {kMaps}, &with_block<GlobalPool>);
  add("Combine", {kMaps, kMaybe}, &with_block<Combine>);
  add("Concat", {kIntegers, several(kFloat)}, &with_block<Concat>);
  add("Upsample", {kMaps}, &with_block<Upsample>);
  add("ToBlocked", {kMaps}, &with_block<ToBlocked>);
  add("FromBlocked", {kMaps}, &with_block<FromBlocked>);
}

}  // namespace block_sparse
