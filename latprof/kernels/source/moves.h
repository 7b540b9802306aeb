// What operators in FP32 and in INT8 share: maps that are read together, and those that only move.

#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "maps.h"
#include "runtime.h"

namespace block_sparse {

// The maps of a sparse convolution.
struct ConvolutionMaps {
  Map in, out, residual;
  Window window;

  // `planar`: channels of a pixel of a network's input.
  ConvolutionMaps(const Info& info, int64_t lanes, int64_t planar)
      : in(info.map("in", info.number("planar", 0, 1) ? planar : lanes)), window(info.window()) {
    out = slide(in, window, info.number("out_channels", 1, 1 << 20),
                info.number("out_border", 0, 1024), lanes, true);
    residual = out;
    residual.border = info.number("residual_border", 0, 1024);
    Info::require_possible(residual);
  }
};

// Two maps that become one; the right one may be a single pixel.
struct CombinedMaps {
  Map left, right, out;

  CombinedMaps(const Info& info, int64_t lanes)
      : left(info.map("in", lanes)), right(left), out(left) {
    out.border = info.number("out_border", 0, 1024);
    right.border = info.number("right_border", 0, 1024);
    if (info.number("right_is_one_pixel", 0, 1)) right.height = right.width = 1;
    Info::require_possible(out);
    Info::require_possible(right);
  }
};

// Maps whose channels lie side by side in the output; `first` is the first of them among the inputs.
template <typename Element>
class Joined {
 public:
  Joined(const Info& info, int64_t lanes, size_t first)
      : first_(first), zero_(zero_of<Element>(info)) {
    const Map shape = info.map("in", lanes);
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

  size_t count() const { return parts_.size(); }

  // place(i, map, from, out, to, start) for every part of every image.
  template <typename Place>
  void run(Call& call, const Place& place) const {
    require(call.inputs() == parts_.size() + first_, [&] {
      return "there are " + std::to_string(call.inputs() - first_) + " inputs to join, expected " +
             std::to_string(parts_.size());
    });
    int64_t images = -1;
    std::vector<const Element*> inputs;
    for (size_t i = 0; i < parts_.size(); ++i)
      inputs.push_back(call.input<Element>(i + first_, parts_[i].image(), &images));
    Element* out = call.output<Element>(out_, images);
    for (int64_t image = 0; image < images; ++image) {
      Element* to = out + image * out_.image();
      if (out_.channels % out_.lanes != 0)  // lanes of the last block that no channel fills
        std::fill_n(to + (out_.blocks() - 1) * out_.plane(), out_.plane(), zero_);
      clear_border(out_, to, 0, out_.blocks(), zero_);
      int64_t start = 0;
      for (size_t i = 0; i < parts_.size(); ++i) {
        place(i, parts_[i], inputs[i] + image * parts_[i].image(), out_, to, start);
        start += parts_[i].channels;
      }
    }
  }

 private:
  size_t first_;
  Element zero_;
  std::vector<Map> parts_;
  Map out_;
};

// Every pixel becomes factor_h × factor_w pixels.
template <int Channels, typename Element>
class Upsample : public Kernel {
 public:
  explicit Upsample(const Info& info)
      : in_(info.map("in", Channels)), out_(in_), factor_h_(info.number("factor_h", 1, 1024)),
        factor_w_(info.number("factor_w", 1, 1024)), zero_(zero_of<Element>(info)) {
    out_.height *= factor_h_;
    out_.width *= factor_w_;
    out_.border = info.number("out_border", 0, 1024);
    Info::require_possible(out_);
  }

  void run(Call& call) const override {
    int64_t images = -1;
    const Element* in = call.input<Element>(0, in_.image(), &images);
    Element* out = call.output<Element>(out_, images);
    call.for_blocks(out_, images, [&](int64_t image, int64_t block) {
      enlarge(in + image * in_.image(), out + image * out_.image(), block);
    });
  }

 private:
  void enlarge(const Element* from, Element* to, int64_t block) const {
    clear_border(out_, to, block, block + 1, zero_);
    for (int64_t y = 0; y < out_.height; ++y) {
      const Element* row = from + in_.at(block, y / factor_h_, 0);
      Element* into = to + out_.at(block, y, 0);
      for (int64_t x = 0; x < in_.width; ++x)
        for (int64_t f = 0; f < factor_w_; ++f, into += Channels)
          std::memcpy(into, row + x * Channels, sizeof(Element) * Channels);
    }
  }

  Map in_, out_;
  int64_t factor_h_, factor_w_;
  Element zero_;
};

// Back to [images, channels, height, width].
template <int Channels, typename Element>
class FromBlocked : public Kernel {
 public:
  explicit FromBlocked(const Info& info) : map_(info.map("in", Channels)) {}

  void run(Call& call) const override {
    int64_t images = -1;
    const Element* in = call.input<Element>(0, map_.image(), &images);
    const int64_t dims[] = {images, map_.channels, map_.height, map_.width};
    Element* out = call.output<Element>(dims, 4);
    const int64_t image = map_.channels * map_.height * map_.width;
    call.for_blocks(map_, images, [&](int64_t i, int64_t block) {
      leave(in + i * map_.image(), out + i * image, block);
    });
  }

 private:
  void leave(const Element* from, Element* to, int64_t block) const {
    const int64_t pixels = map_.height * map_.width, channel = block * map_.lanes;
    const int64_t known = std::min(map_.channels - channel, map_.lanes);
    for (int64_t y = 0; y < map_.height; ++y) {
      const Element* row = from + map_.at(block, y, 0);
      Element* into = to + channel * pixels + y * map_.width;
      for (int64_t lane = 0; lane < known; ++lane)
        for (int64_t x = 0; x < map_.width; ++x)
          into[lane * pixels + x] = row[x * map_.lanes + lane];
    }
  }

  Map map_;
};

}  // namespace block_sparse
