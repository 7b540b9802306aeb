// The layers without sparse weights: depthwise convolution, pools, addition, concatenation, and the
// way into the blocked layout.

#pragma once

#include <cstdint>
#include <vector>

#include "activation.h"
#include "maps.h"
#include "parallel.h"
#include "vector.h"

namespace block_sparse {

// What every output pixel of a depthwise convolution is: a weighted sum of the pixels under the
// window, each channel by itself.
template <int Channels, int Pixels, int Step>
__attribute__((noinline)) void weigh_pixels(const float* in, const int64_t* offsets, int64_t taps,
                                            const float* weights, const float* bias,
                                            const Activation& activation, float* out) {
  using B = Block<Channels>;
  using Vector = typename B::Vector;
  for (int v = 0; v < B::kVectors; ++v) {
    const int lane = v * B::kLanes;
    Vector sums[Pixels];
    const Vector start = load<Vector>(bias + lane);
    WRITTEN_OUT for (int p = 0; p < Pixels; ++p) sums[p] = start;
    for (int64_t i = 0; i < taps; ++i) {
      const Vector weight = load<Vector>(weights + i * Channels + lane);
      const float* at = in + offsets[i] + lane;
      WRITTEN_OUT for (int p = 0; p < Pixels; ++p) sums[p] += weight * load<Vector>(at + p * Step);
    }
    WRITTEN_OUT for (int p = 0; p < Pixels; ++p) {
      Vector sum = sums[p];
      if (activation.clips())
        sum = clip(sum, broadcast<Vector>(activation.alpha), broadcast<Vector>(activation.beta));
      store(out + p * Channels + lane, sum);
    }
  }
  if (activation.curved()) apply<Channels>(activation, out, Pixels);
}

template <int Channels>
class Depthwise {
 public:
  static constexpr int kPixels = kRegisters / 2 < 14 ? kRegisters / 2 : 14;

  // `weights`: (blocks, kernel_h · kernel_w, B); `bias`: (blocks · B,).
  Depthwise(const Map& in, const Map& out, const Window& window, const Activation& activation,
            const float* weights, const float* bias)
      : in_(in), out_(out), window_(window), activation_(activation), weights_(weights),
        bias_(bias, bias + out.blocks() * Channels) {
    for (int64_t y = 0; y < window.kernel_h; ++y)
      for (int64_t x = 0; x < window.kernel_w; ++x)
        offsets_.push_back(y * window.dilation_h * in.row() +
                           x * window.dilation_w * in.lanes);
  }

  void run(const float* in, float* out, int64_t images, const Threads& threads) const {
    const double operations =
        static_cast<double>(images * out_.blocks() * out_.height * out_.width) *
        static_cast<double>(offsets_.size()) * Block<Channels>::kVectors;
    for_blocks(images, out_.blocks(), operations, threads, [&](int64_t image, int64_t block) {
      run_block(block, in + image * in_.image(), out + image * out_.image());
    });
  }

 private:
  template <int Pixels>
  void row(const float* in, const float* weights, const float* bias, float* out,
           int64_t width) const {
    const int64_t step = window_.stride_w * Channels;
    const int64_t taps = static_cast<int64_t>(offsets_.size());
    while (width >= Pixels) {
      if (Pixels == 1 || step == Channels)
        weigh_pixels<Channels, Pixels, Channels>(in, offsets_.data(), taps, weights, bias,
                                                 activation_, out);
      else
        weigh_pixels<Channels, Pixels, 2 * Channels>(in, offsets_.data(), taps, weights, bias,
                                                     activation_, out);
      in += Pixels * step;
      out += Pixels * Channels;
      width -= Pixels;
    }
    if constexpr (Pixels > 1) {
      constexpr int kFewer = Pixels > 7 ? 7 : Pixels > 4 ? 4 : Pixels > 2 ? 2 : 1;
      if (width > 0) row<kFewer>(in, weights, bias, out, width);
    }
  }

  void run_block(int64_t block, const float* in, float* out) const {
    clear_border(out_, out, block, block + 1);
    const float* weights =
        weights_ + block * static_cast<int64_t>(offsets_.size()) * Channels;
    const float* bias = bias_.data() + block * Channels;
    const bool in_runs = window_.stride_w <= 2;
    for (int64_t y = 0; y < out_.height; ++y) {
      const float* from =
          in + in_.at(block, y * window_.stride_h - window_.pad_top, -window_.pad_left);
      float* to = out + out_.at(block, y, 0);
      if (in_runs)
        row<kPixels>(from, weights, bias, to, out_.width);
      else
        row<1>(from, weights, bias, to, out_.width);
    }
  }

  Map in_, out_;
  Window window_;
  Activation activation_;
  const float* weights_;
  std::vector<float> bias_;
  std::vector<int64_t> offsets_;
};

// Largest or mean value under the window, by pixels that lie in the map; the mean divides by all
// pixels under the window where `counts_padding`, else by those in the map.
template <int Channels>
class Pool {
 public:
  Pool(const Map& in, const Map& out, const Window& window, bool largest, bool counts_padding)
      : in_(in), out_(out), window_(window), largest_(largest), counts_padding_(counts_padding) {}

  void run(const float* in, float* out, int64_t images, const Threads& threads) const {
    const double operations =
        static_cast<double>(images * out_.blocks() * out_.height * out_.width) *
        static_cast<double>(window_.kernel_h * window_.kernel_w) * Block<Channels>::kVectors;
    for_blocks(images, out_.blocks(), operations, threads, [&](int64_t image, int64_t block) {
      run_block(block, in + image * in_.image(), out + image * out_.image());
    });
  }

 private:
  using B = Block<Channels>;
  using Vector = typename B::Vector;

  void run_block(int64_t block, const float* in, float* out) const {
    clear_border(out_, out, block, block + 1);
    for (int64_t y = 0; y < out_.height; ++y)
      for (int64_t x = 0; x < out_.width; ++x) {
        const int64_t top = y * window_.stride_h - window_.pad_top;
        const int64_t left = x * window_.stride_w - window_.pad_left;
        float* to = out + out_.at(block, y, x);
        for (int v = 0; v < B::kVectors; ++v)
          store(to + v * B::kLanes, pixel(in, block, top, left, v * B::kLanes));
      }
  }

  Vector pixel(const float* in, int64_t block, int64_t top, int64_t left, int lane) const {
    Vector answer{};
    int64_t seen = 0;
    for (int64_t i = 0; i < window_.kernel_h; ++i) {
      const int64_t y = top + i * window_.dilation_h;
      if (y < 0 || y >= in_.height) continue;
      for (int64_t j = 0; j < window_.kernel_w; ++j) {
        const int64_t x = left + j * window_.dilation_w;
        if (x < 0 || x >= in_.width) continue;
        const Vector value = load<Vector>(in + in_.at(block, y, x) + lane);
        if (seen++ == 0)
          answer = value;
        else if (largest_)
          answer = value > answer || value != value ? value : answer;
        else
          answer += value;
      }
    }
    if (largest_) return answer;
    const int64_t all = window_.kernel_h * window_.kernel_w;
    const int64_t count = counts_padding_ ? all : (seen > 0 ? seen : 1);
    return answer * (1.0f / static_cast<float>(count));
  }

  Map in_, out_;
  Window window_;
  bool largest_, counts_padding_;
};

// The mean of every channel's pixels.
template <int Channels>
void global_mean(const Map& in, const float* from, const Map& out, float* to) {
  using B = Block<Channels>;
  using Vector = typename B::Vector;
  const float scale = 1.0f / static_cast<float>(in.height * in.width);
  for (int64_t block = 0; block < in.blocks(); ++block) {
    for (int v = 0; v < B::kVectors; ++v) {
      Vector sum{};
      for (int64_t y = 0; y < in.height; ++y) {
        const float* row = from + in.at(block, y, 0) + v * B::kLanes;
        Vector of_row{};
        for (int64_t x = 0; x < in.width; ++x) of_row += load<Vector>(row + x * Channels);
        sum += of_row;
      }
      store(to + out.at(block, 0, 0) + v * B::kLanes, sum * scale);
    }
  }
  clear_border(out, to, 0, out.blocks());
}

// left + right, or left · right where `multiplies`, and an activation; `right` may have one pixel
// for all of the other's. With `alone` only the activation of the left.
template <int Channels>
void combine(const Map& map, const float* left, const Map& left_map, const float* right,
             const Map& right_map, bool multiplies, bool alone, const Activation& activation,
             float* out, int64_t first, int64_t last) {
  using B = Block<Channels>;
  using Vector = typename B::Vector;
  clear_border(map, out, first, last);
  const bool one_pixel = !alone && right_map.height * right_map.width == 1;
  for (int64_t block = first; block < last; ++block)
    for (int64_t y = 0; y < map.height; ++y) {
      const float* a = left + left_map.at(block, y, 0);
      const float* b = alone ? a : right + right_map.at(block, one_pixel ? 0 : y, 0);
      float* to = out + map.at(block, y, 0);
      for (int64_t i = 0; i < map.width * Channels; i += B::kLanes) {
        Vector value = load<Vector>(a + i);
        if (!alone) {
          const Vector other = load<Vector>(b + (one_pixel ? i % Channels : i));
          value = multiplies ? value * other : value + other;
        }
        store(to + i, apply<B>(activation, value));
      }
    }
}

// The channels of `in` become those from `start` on of `out`.
template <int Channels>
void place_channels(const Map& in, const float* from, const Map& out, float* to, int64_t start) {
  for (int64_t c = 0; c < in.channels;) {
    const int64_t target = start + c;
    const bool whole = target % Channels == 0 && in.channels - c >= Channels;
    for (int64_t y = 0; y < in.height; ++y) {
      const float* row = from + in.at(c / Channels, y, 0) + c % Channels;
      float* into = to + out.at(target / Channels, y, 0) + target % Channels;
      if (whole && c % Channels == 0)
        std::memcpy(into, row, sizeof(float) * static_cast<size_t>(in.width * Channels));
      else
        for (int64_t x = 0; x < in.width; ++x) into[x * Channels] = row[x * Channels];
    }
    c += whole && c % Channels == 0 ? Channels : 1;
  }
}

// One image of [channels, height, width] into some blocks of a map.
inline void enter(const float* from, const Map& out, float* to, int64_t first, int64_t last) {
  clear_border(out, to, first, last);
  const int64_t pixels = out.height * out.width;
  for (int64_t block = first; block < last; ++block) {
    const int64_t channel = block * out.lanes;
    const int64_t known = out.channels - channel < out.lanes ? out.channels - channel : out.lanes;
    for (int64_t y = 0; y < out.height; ++y) {
      const float* row = from + channel * pixels + y * out.width;
      float* into = to + out.at(block, y, 0);
      if (out.lanes == 1) {
        std::memcpy(into, row, sizeof(float) * static_cast<size_t>(out.width));
        continue;
      }
      for (int64_t x = 0; x < out.width; ++x)
        for (int64_t lane = 0; lane < out.lanes; ++lane)
          into[x * out.lanes + lane] = lane < known ? row[lane * pixels + x] : 0.0f;
    }
  }
}

}  // namespace block_sparse
