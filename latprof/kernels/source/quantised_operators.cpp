// The operators of maps in UINT8: what they read, what they refuse.
//
// As operators.cpp, with a scale and a zero for every map; byte_arithmetic.h says what they mean.

#include "byte_arithmetic.h"
#include "byte_layers.h"
#include "moves.h"
#include "runtime.h"

namespace block_sparse {
namespace {

constexpr int kBlock = 16;  // channels that the operators in INT8 know
using Arithmetic = ByteArithmetic<kBlock>;

void require_block(const Info& info) {
  require(info.number("block", 1, 1024) == kBlock,
          [] { return std::string("attribute block must be 16 in INT8"); });
}

int32_t byte(const Info& info, const char* name) {
  return static_cast<int32_t>(info.number(name, 0, 255));
}

float scale(const Info& info, const char* name) {
  const float value = info.real(name);
  require(value > 0 && value < 1e30f, [&] {
    return std::string("attribute ") + name + " is " + std::to_string(value) +
           ", expected a scale above 0";
  });
  return value;
}

// Of the attributes `out_zero`, `low` and `high`.
Quantiser quantiser(const Info& info) {
  return {byte(info, "out_zero"), byte(info, "low"), byte(info, "high"), nullptr, false};
}

Rescale rescale(const Info& info, const std::string& prefix) {
  return {scale(info, (prefix + "_scale").c_str()), byte(info, (prefix + "_zero").c_str())};
}

// A table of 256 bytes, or a single byte where there is none.
std::vector<uint8_t> lookup(const Info& info, size_t index) {
  const auto table = info.constant<uint8_t>(index, "lookup");
  require(table.count == 1 || table.count == 256, [&] {
    return "lookup has " + std::to_string(table.count) + " entries, expected 256, or 1 for none";
  });
  if (table.count == 1) return {};
  return {table.values, table.values + table.count};
}

// What is done with sums: inputs `first` to `first` + 2 are bias, scale and lookup.
Arithmetic::Ends ends(const Info& info, size_t first, int64_t channels, bool may_add) {
  const auto bias = info.constant<int32_t>(first, "bias", channels);
  const auto scales = info.constant<float>(first + 1, "scale", channels);
  std::vector<uint8_t> table = lookup(info, first + 2);
  ByteEpilogue others{};
  others.out = quantiser(info);
  if (may_add) {
    others.residual_scale = scale(info, "residual_scale");
    others.residual_zero = byte(info, "residual_zero");
  }
  Arithmetic::Ends made({bias.values, bias.values + channels},
                        {scales.values, scales.values + channels}, std::move(table), others);
  made.set_zero(zero_of<uint8_t>(info));
  return made;
}

class QSparseConv : public Kernel {
 public:
  explicit QSparseConv(const Info& info) : maps_(info, kBlock, Arithmetic::kInputs) {
    const auto kept = kept_weights<Arithmetic>(info, maps_.in, maps_.out, maps_.window);
    made_ = std::make_unique<Convolution<Arithmetic>>(
        maps_.in, maps_.out, maps_.window, kept.weights, kept.taps, kept.starts,
        ends(info, 4, maps_.out.blocks() * kBlock, true));
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const uint8_t* in = call.input<uint8_t>(0, maps_.in.image(), &images);
    const uint8_t* residual =
        call.inputs() > 7 ? call.input<uint8_t>(7, maps_.residual.image(), &images) : nullptr;
    made_->run(in, residual, maps_.residual, call.output<uint8_t>(maps_.out, images), images,
               call.threads());
  }

 private:
  ConvolutionMaps maps_;
  std::unique_ptr<Convolution<Arithmetic>> made_;
};

class QDepthwiseConv : public OneMap<ByteDepthwise<kBlock>, uint8_t> {
 public:
  explicit QDepthwiseConv(const Info& info) {
    in_ = info.map("in", kBlock);
    const Window window = info.window();
    out_ = slide(in_, window, in_.channels, info.number("out_border", 0, 1024), kBlock, true);
    const int64_t channels = out_.blocks() * kBlock;
    const auto weights =
        info.constant<int8_t>(1, "weights", channels * window.kernel_h * window.kernel_w);
    made_ = std::make_unique<ByteDepthwise<kBlock>>(in_, out_, window, weights.values,
                                                    ends(info, 2, channels, false));
  }
};

class QPool : public OneMap<BytePool<kBlock>, uint8_t> {
 public:
  explicit QPool(const Info& info) {
    in_ = info.map("in", kBlock);
    const Window window = info.window();
    out_ = slide(in_, window, in_.channels, info.number("out_border", 0, 1024), kBlock, false);
    made_ = std::make_unique<BytePool<kBlock>>(
        in_, out_, window, info.number("largest", 0, 1) == 1,
        info.number("counts_padding", 0, 1) == 1, rescale(info, "left"), quantiser(info));
  }
};

class QGlobalPool : public Kernel {
 public:
  explicit QGlobalPool(const Info& info)
      : in_(info.map("in", kBlock)), out_(in_), from_(rescale(info, "left")),
        to_(quantiser(info)) {
    out_.height = out_.width = 1;
    out_.border = info.number("out_border", 0, 1024);
    Info::require_possible(out_);
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const uint8_t* in = call.input<uint8_t>(0, in_.image(), &images);
    uint8_t* out = call.output<uint8_t>(out_, images);
    for (int64_t i = 0; i < images; ++i)
      byte_mean<kBlock>(in_, in + i * in_.image(), from_, out_, out + i * out_.image(), to_);
  }

 private:
  Map in_, out_;
  Rescale from_;
  Quantiser to_;
};

class QCombine : public Kernel {
 public:
  explicit QCombine(const Info& info)
      : maps_(info, kBlock), multiplies_(info.number("multiplies", 0, 1) == 1),
        of_left_(rescale(info, "left")), of_right_(rescale(info, "right")), to_(quantiser(info)) {}

  void run(Call& call) const override {
    int64_t images = -1;
    const uint8_t* left = call.input<uint8_t>(0, maps_.left.image(), &images);
    const uint8_t* right = call.input<uint8_t>(1, maps_.right.image(), &images);
    uint8_t* out = call.output<uint8_t>(maps_.out, images);
    call.for_blocks(maps_.out, images, [&](int64_t i, int64_t block) {
      combine_bytes<kBlock>(maps_.out, left + i * maps_.left.image(), maps_.left, of_left_,
                            right + i * maps_.right.image(), maps_.right, of_right_, multiplies_,
                            to_, out + i * maps_.out.image(), block);
    });
  }

 private:
  CombinedMaps maps_;
  bool multiplies_;
  Rescale of_left_, of_right_;
  Quantiser to_;
};

// Every byte by a table: activations alone, and other scales.
class QLookup : public Kernel {
 public:
  explicit QLookup(const Info& info)
      : in_(info.map("in", kBlock)), out_(in_), table_(lookup(info, 1)),
        zero_(zero_of<uint8_t>(info)) {
    out_.border = info.number("out_border", 0, 1024);
    Info::require_possible(out_);
    require(!table_.empty(), [] { return std::string("lookup must have 256 entries"); });
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const uint8_t* in = call.input<uint8_t>(0, in_.image(), &images);
    uint8_t* out = call.output<uint8_t>(out_, images);
    call.for_blocks(out_, images, [&](int64_t i, int64_t block) {
      uint8_t* to = out + i * out_.image();
      clear_border(out_, to, block, block + 1, zero_);
      for (int64_t y = 0; y < out_.height; ++y) {
        const uint8_t* row = in + i * in_.image() + in_.at(block, y, 0);
        uint8_t* into = to + out_.at(block, y, 0);
        for (int64_t x = 0; x < out_.width * kBlock; ++x) into[x] = table_[row[x]];
      }
    });
  }

 private:
  Map in_, out_;
  std::vector<uint8_t> table_;
  uint8_t zero_;
};

class QConcat : public Kernel {
 public:
  explicit QConcat(const Info& info)
      : joined_(info, kBlock, 2),
        tables_(info.constant<uint8_t>(1, "lookups", static_cast<int64_t>(joined_.count()) * 256)) {
  }

  void run(Call& call) const override {
    joined_.run(call, [&](size_t i, const Map& map, const uint8_t* from, const Map& out,
                          uint8_t* to, int64_t start) {
      place_bytes<kBlock>(map, from, tables_.values + 256 * i, out, to, start);
    });
  }

 private:
  Joined<uint8_t> joined_;
  Constant<uint8_t> tables_;
};

// From [images, channels, height, width] in FP32 into bytes of the blocked layout, or of the planar
// one.
class QToBlocked : public Kernel {
 public:
  explicit QToBlocked(const Info& info)
      : map_(info.map("in", info.number("planar", 0, 1) ? Arithmetic::kInputs : kBlock)),
        scale_(scale(info, "out_scale")), zero_(byte(info, "out_zero")) {}

  void run(Call& call) const override {
    int64_t images = -1;
    const int64_t image = map_.channels * map_.height * map_.width;
    const float* in = call.input(0, image, &images);
    uint8_t* out = call.output<uint8_t>(map_, images);
    call.for_blocks(map_, images, [&](int64_t i, int64_t block) {
      enter_bytes(in + i * image, map_, scale_, zero_, out + i * map_.image(), block, block + 1);
    });
  }

 private:
  Map map_;
  float scale_;
  int32_t zero_;
};

template <class Made>
std::unique_ptr<Kernel> made(const Info& info) {
  require_block(info);
  return std::make_unique<Made>(info);
}

}  // namespace

void add_quantised_operators(Operators* all) {
  using Type = ort::ElementType;
  constexpr Input kBytes = required(Type::kUint8), kWeights = required(Type::kInt8);
  constexpr Input kIntegers = required(Type::kInt32), kFloats = required(Type::kFloat);
  constexpr Input kMaybe = optional(Type::kUint8), kSeveral = several(Type::kUint8);
  const auto add = [&](const char* name, std::vector<Input> inputs,
                       std::unique_ptr<Kernel> (*make)(const Info&)) {
    all->push_back(std::make_unique<Operator>(name, std::move(inputs), Type::kUint8, make));
  };
  add("QSparseConv",
      {kBytes, kWeights, kIntegers, kIntegers, kIntegers, kFloats, kBytes, kMaybe},
      &made<QSparseConv>);
  add("QDepthwiseConv", {kBytes, kWeights, kIntegers, kFloats, kBytes}, &made<QDepthwiseConv>);
  add("QPool", {kBytes}, &made<QPool>);
  add("QGlobalPool", {kBytes}, &made<QGlobalPool>);
  add("QCombine", {kBytes, kBytes}, &made<QCombine>);
  add("QLookup", {kBytes, kBytes}, &made<QLookup>);
  add("QConcat", {kIntegers, kBytes, kSeveral}, &made<QConcat>);
  add("QUpsample", {kBytes}, &made<Upsample<kBlock, uint8_t>>);
  add("QToBlocked", {kFloats}, &made<QToBlocked>);
  add("QFromBlocked", {kBytes}, &made<FromBlocked<kBlock, uint8_t>>);
}

}  // namespace block_sparse
