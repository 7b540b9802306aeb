// The layers of UINT8 maps without sparse weights: depthwise convolution, pools, addition,
// concatenation, and the way into the blocked layout.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "byte_arithmetic.h"
#include "dot.h"
#include "maps.h"
#include "parallel.h"

namespace block_sparse {

// How bytes of one map become those of another: scale · (x − zero) in steps of the output.
struct Rescale {
  float scale;
  int32_t zero;
};

// Four neighbouring pixels of 16 channels each → every channel's four pixels side by side.
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define BLOCK_SPARSE_FOUR_PIXELS 1
inline VectorOf<64>::Int four_pixels(const uint8_t* at) {
  const __m512i pixels = _mm512_loadu_si512(at);
#if defined(__AVX512VBMI__)
  alignas(64) static constexpr uint8_t kOrder[64] = {
      0, 16, 32, 48, 1, 17, 33, 49, 2,  18, 34, 50, 3,  19, 35, 51, 4,  20, 36, 52, 5,  21,
      37, 53, 6, 22, 38, 54, 7, 23, 39, 55, 8,  24, 40, 56, 9,  25, 41, 57, 10, 26, 42, 58,
      11, 27, 43, 59, 12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63};
  return (VectorOf<64>::Int)_mm512_permutexvar_epi8(_mm512_load_si512(kOrder), pixels);
#else
  const __m512i words = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  const __m512i bytes = _mm512_broadcast_i32x4(
      _mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0));
  return (VectorOf<64>::Int)_mm512_shuffle_epi8(_mm512_permutexvar_epi32(words, pixels), bytes);
#endif
}
#endif

template <int Channels>
class ByteDepthwise {
 public:
  // `weights`: (blocks, kernel_h · kernel_w, B).
  ByteDepthwise(const Map& in, const Map& out, const Window& window, const int8_t* weights,
                typename ByteArithmetic<Channels>::Ends ends)
      : in_(in), out_(out), window_(window), ends_(std::move(ends)) {
    const int64_t places = window.kernel_h * window.kernel_w;
    for (int64_t y = 0; y < window.kernel_h; ++y)
      for (int64_t x = 0; x < window.kernel_w; ++x)
        offsets_.push_back(y * window.dilation_h * in.row() + x * window.dilation_w * in.lanes);
#if defined(BLOCK_SPARSE_FOUR_PIXELS)
    in_fours_ = Channels == 16 && window.kernel_w == 3 && window.dilation_w == 1 &&
                window.stride_w <= 2 && out.width >= 2;
#endif
    if (in_fours_) {
      // Of every row of the window: its three weights in the first three of four places, then in
      // the last three.
      rows_.resize(static_cast<size_t>(out.blocks() * window.kernel_h * 2 * Channels * 4));
      int8_t* to = rows_.data();
      for (int64_t row = 0; row < out.blocks() * window.kernel_h; ++row)
        for (int shifted = 0; shifted < 2; ++shifted)
          for (int64_t c = 0; c < Channels; ++c, to += 4)
            for (int64_t x = 0; x < 3; ++x) to[x + shifted] = weights[(row * 3 + x) * Channels + c];
    } else {
      weights_.assign(weights, weights + out.blocks() * places * Channels);
    }
  }

  void run(const uint8_t* in, uint8_t* out, int64_t images, const Threads& threads) const {
    const double operations =
        static_cast<double>(images * out_.blocks() * out_.height * out_.width) *
        static_cast<double>(offsets_.size()) * Block<Channels>::kVectors;
    for_blocks(images, out_.blocks(), operations, threads, [&](int64_t image, int64_t block) {
      run_block(block, in + image * in_.image(), out + image * out_.image());
    });
  }

 private:
  using B = Block<Channels>;
  using L = Lanes<Channels>;
  using Floats = typename B::Vector;
  using Integers = typename B::Integers;

  void run_block(int64_t block, const uint8_t* in, uint8_t* out) const {
    clear_border(out_, out, block, block + 1, ends_.zero());
    const ByteEpilogue end = ends_.of(block, false);
    for (int64_t y = 0; y < out_.height; ++y) {
      const uint8_t* from =
          in + in_.at(block, y * window_.stride_h - window_.pad_top, -window_.pad_left);
      uint8_t* to = out + out_.at(block, y, 0);
#if defined(BLOCK_SPARSE_FOUR_PIXELS)
      if constexpr (Channels == 16) {
        if (in_fours_) {
          const int8_t* rows = rows_.data() + block * window_.kernel_h * kRow;
          if (window_.stride_w == 1)
            row_in_pairs(from, rows, end, to);
          else
            row_one_by_one(from, rows, end, to);
          continue;
        }
      }
#endif
      const int8_t* weights =
          weights_.data() + block * static_cast<int64_t>(offsets_.size()) * Channels;
      for (int64_t x = 0; x < out_.width; ++x)
        pixel(from + x * window_.stride_w * Channels, weights, end, to + x * Channels);
    }
    if (end.out.lookup != nullptr)
      for (int64_t y = 0; y < out_.height; ++y)
        look_up(end.out.lookup, out + out_.at(block, y, 0), out_.width * Channels);
  }

  // Any window: a product of integers for every tap.
  void pixel(const uint8_t* in, const int8_t* weights, const ByteEpilogue& end,
             uint8_t* out) const {
    for (int v = 0; v < B::kVectors; ++v) {
      Integers sum = start(end, v);
      for (size_t i = 0; i < offsets_.size(); ++i) {
        const int8_t* weight = weights + static_cast<int64_t>(i) * Channels + v * B::kLanes;
        sum += widened<Integers>(in + offsets_[i] + v * B::kLanes) * widened<Integers>(weight);
      }
      finish(sum, load<Floats>(end.scale + v * B::kLanes), typename L::Rounding(end.out),
             out + v * B::kLanes);
    }
  }

  static Integers start(const ByteEpilogue& end, int v) {
    Integers sum;
    std::memcpy(&sum, end.bias + v * B::kLanes, sizeof sum);
    return sum;
  }

  static void finish(Integers sum, Floats scale, const typename L::Rounding& rounding,
                     uint8_t* out) {
    store_bytes(out, rounding(rounded(__builtin_convertvector(sum, Floats) * scale)));
  }

#if defined(BLOCK_SPARSE_FOUR_PIXELS)
  static constexpr int64_t kRow = 2 * Channels * 4;  // weights of a row of the window

  // Two outputs next to each other see four inputs of a row. No load reaches beyond a row's end.
  template <int Pairs>
  void pairs(const uint8_t* in, const int8_t* rows, const ByteEpilogue& end, uint8_t* out) const {
    Integers sums[Pairs][2];
    WRITTEN_OUT for (int i = 0; i < Pairs; ++i) sums[i][0] = sums[i][1] = start(end, 0);
    for (int64_t y = 0; y < window_.kernel_h; ++y, rows += kRow, in += window_.dilation_h * in_.row()) {
      Integers first, second;
      std::memcpy(&first, rows, sizeof first);
      std::memcpy(&second, rows + kRow / 2, sizeof second);
      WRITTEN_OUT for (int i = 0; i < Pairs; ++i) {
        const Integers four = four_pixels(in + 2 * i * Channels);
        sums[i][0] = dot(sums[i][0], four, first);
        sums[i][1] = dot(sums[i][1], four, second);
      }
    }
    const Floats scale = load<Floats>(end.scale);
    Floats steps[2 * Pairs][1];
    WRITTEN_OUT for (int i = 0; i < 2 * Pairs; ++i)
      steps[i][0] = rounded(__builtin_convertvector(sums[i / 2][i % 2], Floats) * scale);
    L::store(out, steps, typename L::Rounding(end.out));
  }

  void row_in_pairs(const uint8_t* in, const int8_t* rows, const ByteEpilogue& end,
                    uint8_t* out) const {
    constexpr int kPairs = 4;
    int64_t x = 0;
    for (; x + 2 * kPairs <= out_.width; x += 2 * kPairs)
      pairs<kPairs>(in + x * Channels, rows, end, out + x * Channels);
    for (; x + 2 <= out_.width; x += 2) pairs<1>(in + x * Channels, rows, end, out + x * Channels);
    if (x < out_.width)  // the last one once more, with its neighbour
      pairs<1>(in + (x - 1) * Channels, rows, end, out + (x - 1) * Channels);
  }

  template <int Pixels>
  void singles(const uint8_t* in, const int8_t* rows, const ByteEpilogue& end, uint8_t* out) const {
    Integers sums[Pixels];
    WRITTEN_OUT for (int i = 0; i < Pixels; ++i) sums[i] = start(end, 0);
    for (int64_t y = 0; y < window_.kernel_h; ++y, rows += kRow, in += window_.dilation_h * in_.row()) {
      Integers weight;
      std::memcpy(&weight, rows, sizeof weight);
      WRITTEN_OUT for (int i = 0; i < Pixels; ++i)
        sums[i] = dot(sums[i], four_pixels(in + 2 * i * Channels), weight);
    }
    const Floats scale = load<Floats>(end.scale);
    Floats steps[Pixels][1];
    WRITTEN_OUT for (int i = 0; i < Pixels; ++i)
      steps[i][0] = rounded(__builtin_convertvector(sums[i], Floats) * scale);
    L::store(out, steps, typename L::Rounding(end.out));
  }

  // Of stride 2. The last output looks at the four inputs that end with its own last one.
  void row_one_by_one(const uint8_t* in, const int8_t* rows, const ByteEpilogue& end,
                      uint8_t* out) const {
    constexpr int kPixels = 7;
    int64_t x = 0;
    for (; x + kPixels < out_.width; x += kPixels)
      singles<kPixels>(in + 2 * x * Channels, rows, end, out + x * Channels);
    for (; x + 1 < out_.width; ++x) singles<1>(in + 2 * x * Channels, rows, end, out + x * Channels);
    singles<1>(in + (2 * x - 1) * Channels, rows + kRow / 2, end, out + x * Channels);
  }
#endif

  Map in_, out_;
  Window window_;
  typename ByteArithmetic<Channels>::Ends ends_;
  std::vector<int64_t> offsets_;
  std::vector<int8_t> weights_, rows_;
  bool in_fours_ = false;
};

// Largest or mean value under the window, by pixels that lie in the map; the mean divides by all
// pixels under the window where `counts_padding`, else by those in the map. Of the largest, input and
// output have one scale.
template <int Channels>
class BytePool {
 public:
  BytePool(const Map& in, const Map& out, const Window& window, bool largest, bool counts_padding,
           const Rescale& from, const Quantiser& to)
      : in_(in), out_(out), window_(window), largest_(largest), counts_padding_(counts_padding),
        from_(from), to_(to) {}

  void run(const uint8_t* in, uint8_t* out, int64_t images, const Threads& threads) const {
    const double operations =
        static_cast<double>(images * out_.blocks() * out_.height * out_.width) *
        static_cast<double>(window_.kernel_h * window_.kernel_w);
    for_blocks(images, out_.blocks(), operations, threads, [&](int64_t image, int64_t block) {
      run_block(block, in + image * in_.image(), out + image * out_.image());
    });
  }

 private:
  using B = Block<Channels>;
  using L = Lanes<Channels>;
  using Integers = typename B::Integers;
  typedef uint8_t Pixel __attribute__((vector_size(Channels)));

  void run_block(int64_t block, const uint8_t* in, uint8_t* out) const {
    clear_border(out_, out, block, block + 1, static_cast<uint8_t>(to_.zero));
    std::vector<uint8_t> columns(static_cast<size_t>(largest_ ? in_.width * Channels : 0));
    for (int64_t y = 0; y < out_.height; ++y) {
      const int64_t top = y * window_.stride_h - window_.pad_top;
      uint8_t* to = out + out_.at(block, y, 0);
      if (largest_) {
        largest_in_columns(in, block, top, columns.data());
        for (int64_t x = 0; x < out_.width; ++x)
          largest(columns.data(), x * window_.stride_w - window_.pad_left, to + x * Channels);
      } else {
        for (int64_t x = 0; x < out_.width; ++x)
          mean(in, block, top, x * window_.stride_w - window_.pad_left, to + x * Channels);
      }
    }
  }

  template <typename Each>
  int64_t for_taps(int64_t top, int64_t left, const Each& each) const {
    int64_t seen = 0;
    for (int64_t i = 0; i < window_.kernel_h; ++i) {
      const int64_t y = top + i * window_.dilation_h;
      if (y < 0 || y >= in_.height) continue;
      for (int64_t j = 0; j < window_.kernel_w; ++j) {
        const int64_t x = left + j * window_.dilation_w;
        if (x < 0 || x >= in_.width) continue;
        each(y, x);
        ++seen;
      }
    }
    return seen;
  }

  // Of every column the largest value in the window's rows; 0 where none is in the map.
  void largest_in_columns(const uint8_t* in, int64_t block, int64_t top, uint8_t* columns) const {
    const int64_t bytes = in_.width * Channels;
    std::memset(columns, 0, static_cast<size_t>(bytes));
    for (int64_t i = 0; i < window_.kernel_h; ++i) {
      const int64_t y = top + i * window_.dilation_h;
      if (y < 0 || y >= in_.height) continue;
      const uint8_t* row = in + in_.at(block, y, 0);
      for (int64_t b = 0; b < bytes; ++b) columns[b] = std::max(columns[b], row[b]);
    }
  }

  void largest(const uint8_t* columns, int64_t left, uint8_t* to) const {
    Pixel answer{};
    for (int64_t j = 0; j < window_.kernel_w; ++j) {
      const int64_t x = left + j * window_.dilation_w;
      if (x < 0 || x >= in_.width) continue;
      Pixel value;
      std::memcpy(&value, columns + x * Channels, sizeof value);
      answer = value > answer ? value : answer;
    }
    std::memcpy(to, &answer, sizeof answer);
  }

  void mean(const uint8_t* in, int64_t block, int64_t top, int64_t left, uint8_t* to) const {
    for (int v = 0; v < B::kVectors; ++v) {
      Integers sum{};
      const int64_t seen = for_taps(top, left, [&](int64_t y, int64_t x) {
        sum += widened<Integers>(in + in_.at(block, y, x) + v * B::kLanes) - from_.zero;
      });
      const int64_t all = window_.kernel_h * window_.kernel_w;
      const int64_t count = counts_padding_ ? all : (seen > 0 ? seen : 1);
      const auto steps = __builtin_convertvector(sum, typename B::Vector) *
                         (from_.scale / static_cast<float>(count));
      store_bytes(to + v * B::kLanes, typename L::Rounding(to_)(steps));
    }
  }

  Map in_, out_;
  Window window_;
  bool largest_, counts_padding_;
  Rescale from_;
  Quantiser to_;
};

// The mean of every channel's pixels.
template <int Channels>
void byte_mean(const Map& in, const uint8_t* from, const Rescale& rescale, const Map& out,
               uint8_t* to, const Quantiser& quantiser) {
  using B = Block<Channels>;
  using L = Lanes<Channels>;
  using Integers = typename B::Integers;
  const float scale = rescale.scale / static_cast<float>(in.height * in.width);
  for (int64_t block = 0; block < in.blocks(); ++block)
    for (int v = 0; v < B::kVectors; ++v) {
      Integers sum{};
      for (int64_t y = 0; y < in.height; ++y) {
        const uint8_t* row = from + in.at(block, y, 0) + v * B::kLanes;
        for (int64_t x = 0; x < in.width; ++x) {
          sum += widened<Integers>(row + x * Channels) - rescale.zero;
        }
      }
      const auto steps = __builtin_convertvector(sum, typename B::Vector) * scale;
      store_bytes(to + out.at(block, 0, 0) + v * B::kLanes, typename L::Rounding(quantiser)(steps));
    }
  clear_border(out, to, 0, out.blocks(), static_cast<uint8_t>(quantiser.zero));
}

// left + right, or left · right where `multiplies`; `right` may have one pixel for all of the
// other's. A product's scale is the left one's.
template <int Channels>
void combine_bytes(const Map& map, const uint8_t* left, const Map& left_map, const Rescale& of_left,
                   const uint8_t* right, const Map& right_map, const Rescale& of_right,
                   bool multiplies, const Quantiser& quantiser, uint8_t* out, int64_t block) {
  using B = Block<Channels>;
  using L = Lanes<Channels>;
  using Floats = typename B::Vector;
  clear_border(map, out, block, block + 1, static_cast<uint8_t>(quantiser.zero));
  const bool one_pixel = right_map.height * right_map.width == 1;
  Quantiser to_bytes = quantiser;
  to_bytes.plain = quantiser.is_plain(0, 255 * (of_left.scale * (multiplies ? 255 : 1) +
                                                (multiplies ? 0 : of_right.scale)));
  const Floats left_zero = broadcast<Floats>(static_cast<float>(of_left.zero));
  const Floats right_zero = broadcast<Floats>(static_cast<float>(of_right.zero));
  const typename L::Rounding rounding(to_bytes);
  for (int64_t y = 0; y < map.height; ++y) {
    const uint8_t* a = left + left_map.at(block, y, 0);
    const uint8_t* b = right + right_map.at(block, one_pixel ? 0 : y, 0);
    uint8_t* to = out + map.at(block, y, 0);
    const auto combined = [&](int64_t i) {
      const Floats x = L::floats(a + i) - left_zero;
      const Floats z = L::floats(b + (one_pixel ? i % Channels : i)) - right_zero;
      return multiplies ? rounded(x * z) * of_left.scale
                        : rounded(x * of_left.scale) + rounded(z * of_right.scale);
    };
    constexpr int kAtOnce = 4;
    int64_t x = 0;
    for (; x + kAtOnce <= map.width; x += kAtOnce) {
      Floats steps[kAtOnce][B::kVectors];
      WRITTEN_OUT for (int p = 0; p < kAtOnce; ++p)
        WRITTEN_OUT for (int v = 0; v < B::kVectors; ++v)
          steps[p][v] = combined((x + p) * Channels + v * B::kLanes);
      L::store(to + x * Channels, steps, rounding);
    }
    for (int64_t i = x * Channels; i < map.width * Channels; i += B::kLanes)
      store_bytes(to + i, rounding(combined(i)));
  }
}

// The channels of `in` become those from `start` on of `out`, each byte by a table.
template <int Channels>
void place_bytes(const Map& in, const uint8_t* from, const uint8_t* lookup, const Map& out,
                 uint8_t* to, int64_t start) {
  for (int64_t c = 0; c < in.channels;) {
    const int64_t target = start + c;
    const bool whole =
        c % Channels == 0 && target % Channels == 0 && in.channels - c >= Channels;
    for (int64_t y = 0; y < in.height; ++y) {
      const uint8_t* row = from + in.at(c / Channels, y, 0) + c % Channels;
      uint8_t* into = to + out.at(target / Channels, y, 0) + target % Channels;
      if (whole)
        for (int64_t i = 0; i < in.width * Channels; ++i) into[i] = lookup[row[i]];
      else
        for (int64_t x = 0; x < in.width; ++x) into[x * Channels] = lookup[row[x * Channels]];
    }
    c += whole ? Channels : 1;
  }
}

// Some numbers of a row as bytes: x / scale, rounded to the nearest.
inline void quantise_row(const float* from, int64_t count, float scale, int32_t zero, uint8_t* to) {
  const float low = static_cast<float>(-zero), high = static_cast<float>(255 - zero);
  for (int64_t x = 0; x < count; ++x) {
    float steps = from[x] / scale;
    steps = steps > low ? steps : low;  // a NaN becomes the lowest
    steps = steps < high ? steps : high;
    steps += 12582912.0f;  // 1.5 · 2²³: adding it rounds
    int32_t bits;
    std::memcpy(&bits, &steps, sizeof bits);
    to[x] = static_cast<uint8_t>(bits - 0x4B400000 + zero);
  }
}

// One image of [channels, height, width] in FP32 into some blocks of a map.
inline void enter_bytes(const float* from, const Map& out, float scale, int32_t zero, uint8_t* to,
                        int64_t first, int64_t last) {
  constexpr int64_t kPart = 256, kMostLanes = 16;
  uint8_t rows[kMostLanes][kPart];
  clear_border(out, to, first, last, static_cast<uint8_t>(zero));
  const int64_t pixels = out.height * out.width;
  for (int64_t block = first; block < last; ++block) {
    const int64_t channel = block * out.lanes;
    for (int64_t lane = 0; lane < out.lanes; ++lane)
      if (channel + lane >= out.channels) std::memset(rows[lane], zero, kPart);
    for (int64_t y = 0; y < out.height; ++y)
      for (int64_t x = 0; x < out.width; x += kPart) {
        const int64_t count = std::min(kPart, out.width - x);
        for (int64_t lane = 0; lane < out.lanes && channel + lane < out.channels; ++lane)
          quantise_row(from + (channel + lane) * pixels + y * out.width + x, count, scale, zero,
                       rows[lane]);
        uint8_t* into = to + out.at(block, y, x);
        if (out.lanes == 4) {
          for (int64_t i = 0; i < count; ++i)
            for (int64_t lane = 0; lane < 4; ++lane) into[i * 4 + lane] = rows[lane][i];
        } else {
          for (int64_t i = 0; i < count; ++i)
            for (int64_t lane = 0; lane < out.lanes; ++lane)
              into[i * out.lanes + lane] = rows[lane][i];
        }
      }
  }
}

}  // namespace block_sparse
