// The operators of maps in FP32: what they read, what they refuse.
//
// Weights and shapes are checked once, when a session opens. Nothing is kept between runs, so a
// session may be run from several threads. `docs/kernels.md` describes every operator.

#include "float_arithmetic.h"
#include "layers.h"
#include "moves.h"
#include "runtime.h"

namespace block_sparse {
namespace {

template <int Channels>
class SparseConv : public Kernel {
  using Arithmetic = FloatArithmetic<Channels>;

 public:
  explicit SparseConv(const Info& info) : maps_(info, Channels, 1) {
    const auto kept = kept_weights<Arithmetic>(info, maps_.in, maps_.out, maps_.window);
    const auto bias = info.constant<float>(4, "bias", maps_.out.blocks() * Channels);
    typename Arithmetic::Ends ends({bias.values, bias.values + bias.count}, info.activation());
    made_ = std::make_unique<Convolution<Arithmetic>>(maps_.in, maps_.out, maps_.window,
                                                      kept.weights, kept.taps, kept.starts,
                                                      std::move(ends));
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const float* in = call.input(0, maps_.in.image(), &images);
    const float* residual =
        call.inputs() > 5 ? call.input(5, maps_.residual.image(), &images) : nullptr;
    made_->run(in, residual, maps_.residual, call.output(maps_.out, images), images,
               call.threads());
  }

 private:
  ConvolutionMaps maps_;
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
      : maps_(info, Channels), multiplies_(info.number("multiplies", 0, 1) == 1),
        activation_(info.activation()) {}

  void run(Call& call) const override {
    int64_t images = -1;
    const float* left = call.input(0, maps_.left.image(), &images);
    const float* right =
        call.inputs() > 1 ? call.input(1, maps_.right.image(), &images) : nullptr;
    float* out = call.output(maps_.out, images);
    call.for_blocks(maps_.out, images, [&](int64_t image, int64_t block) {
      combine<Channels>(maps_.out, left + image * maps_.left.image(), maps_.left,
                        right ? right + image * maps_.right.image() : nullptr, maps_.right,
                        multiplies_, right == nullptr, activation_,
                        out + image * maps_.out.image(), block, block + 1);
    });
  }

 private:
  CombinedMaps maps_;
  bool multiplies_;
  Activation activation_;
};

template <int Channels>
class Concat : public Kernel {
 public:
  explicit Concat(const Info& info) : joined_(info, Channels, 1) {}

  void run(Call& call) const override {
    joined_.run(call, [](size_t, const Map& map, const float* from, const Map& out, float* to,
                         int64_t start) { place_channels<Channels>(map, from, out, to, start); });
  }

 private:
  Joined<float> joined_;
};

template <int Channels>
using FloatUpsample = Upsample<Channels, float>;

template <int Channels>
using FloatFromBlocked = FromBlocked<Channels, float>;

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
  add("Upsample", {kMaps}, &with_block<FloatUpsample>);
  add("ToBlocked", {kMaps}, &with_block<ToBlocked>);
  add("FromBlocked", {kMaps}, &with_block<FloatFromBlocked>);
}

}  // namespace block_sparse
