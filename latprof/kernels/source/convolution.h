// A convolution whose weights are sparse in blocks: B consecutive output channels × one tap.
//
// A tap is an input channel at a place of the window; in INT8, four neighbouring channels. For a tile of output pixels the kernel walks
// the kept taps of a block of output channels: it loads the B weights of a tap once, broadcasts the
// input value of every pixel and accumulates in registers. That is the dense direct convolution
// with the dropped taps left out, so that time is proportional to what is kept.
//
// A tile is up to kMostRuns runs of consecutive output pixels of a row. Runs may lie anywhere, in
// different rows or images: each has pointers of its own; within a run, pixels are a constant apart.

#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "maps.h"
#include "parallel.h"
#include "vector.h"

namespace block_sparse {

constexpr int kMostRuns = 7;
constexpr int kPrefetched = 32;  // taps ahead
constexpr int64_t kFirstCache = 28 * 1024;  // bytes of inputs that stay in it beside the weights

// What one block of output channels keeps.
template <typename Weight>
struct Taps {
  const Weight* weights;   // (count, B, inputs of a tap)
  const int32_t* offsets;  // (count,): of a tap's input from a pixel's, in elements
  int64_t count;
};

template <typename Element>
struct Tile {
  const Element* in[kMostRuns];
  Element* out[kMostRuns];
  const Element* residual[kMostRuns];
};

// How numbers are multiplied and what becomes of their sums: `FloatArithmetic` in tiles.h,
// `ByteArithmetic` in quantised_tiles.h. It says
//   Element, Weight    the types of maps and weights
//   kChannels          of a block of outputs
//   kInputs            channels of a tap
//   kPixels, kVectors  of a tile at most; of a block
//   Ends               what is done with the sums of a layer: of(block, adds) → Epilogue of a block
//   tile(step, runs, pixels)  the function for so many runs of so many pixels, `step` elements
//                      apart; nullptr where there is none (tile_table.h)
template <class Arithmetic>
using TileFunction = void (*)(const Taps<typename Arithmetic::Weight>&,
                              const Tile<typename Arithmetic::Element>&,
                              const typename Arithmetic::Epilogue&);

// How many runs of several pixels a tile may have; 0 where there are no functions for them. Pixels of
// a network's input are one tap's inputs apart, and have long rows.
template <class Arithmetic>
constexpr int most_runs(int64_t step) {
  if (step == Arithmetic::kInputs || step == 2 * Arithmetic::kInputs) return 2;
  return step == Arithmetic::kChannels || step == 2 * Arithmetic::kChannels ? kMostRuns : 0;
}

// How the rows of an output are cut into runs: by length, where those of that length begin.
struct Cut {
  struct Runs {
    int pixels;
    std::vector<int64_t> begin;
  };
  std::vector<Runs> runs;

  // Rows are cut into parts as equal as possible, as long as makes the tiles of an image cheapest.
  // `most_runs`: of several pixels in one tile; 0: pixels do not go together.
  static Cut of_row(int64_t width, int64_t rows, int most_runs, int most_pixels, int vectors) {
    Cut best;
    int64_t best_cost = 0;
    for (int longest = most_runs > 0 ? most_pixels : 1; longest >= 1; --longest) {
      if (longest > width) continue;
      Cut cut;
      cut.most_runs_ = most_runs;
      const int64_t parts = (width + longest - 1) / longest;
      for (int64_t i = 0, begin = 0; i < parts; ++i) {
        const int pixels = static_cast<int>((width - begin + parts - i - 1) / (parts - i));
        if (cut.runs.empty() || cut.runs.back().pixels != pixels) cut.runs.push_back({pixels, {}});
        cut.runs.back().begin.push_back(begin);
        begin += pixels;
      }
      const int64_t cost = cut.cost(rows, most_pixels, vectors);
      if (best.runs.empty() || cost < best_cost) {
        best = cut;
        best_cost = cost;
      }
    }
    return best;
  }

  int runs_of_tile(int pixels, int most_pixels) const {
    const int fit = most_pixels / pixels, most = pixels == 1 ? kMostRuns : most_runs_;
    return fit < most ? fit : most;
  }

 private:
  int most_runs_ = 0;

  // Cycles a tap, roughly: a multiply-add waits for the last one to the same sum, every tile loads
  // the weights, and every run has an address of its own.
  int64_t cost(int64_t rows, int most_pixels, int vectors) const {
    constexpr int64_t kInFlight = 8, kOfATile = 2;
    int64_t total = 0;
    for (const Runs& of : runs) {
      const int64_t all = rows * static_cast<int64_t>(of.begin.size());
      const int64_t each = runs_of_tile(of.pixels, most_pixels);
      const auto tile = [&](int64_t count) {
        const int64_t work = count * of.pixels * vectors;
        return (work < kInFlight ? kInFlight : work) + kOfATile * vectors + count;
      };
      total += all / each * tile(each) + (all % each ? tile(all % each) : 0);
    }
    return total;
  }
};

template <class Arithmetic>
class Convolution {
  using Element = typename Arithmetic::Element;
  using Weight = typename Arithmetic::Weight;
  static constexpr int kChannels = Arithmetic::kChannels;

 public:
  // `weights`: (kept, B, inputs of a tap), of one block of output channels after the other; `taps`:
  // (kept,), each tap channel · kernel_h · kernel_w + y · kernel_w + x, where a tap channel is so
  // many neighbouring input channels; `starts`: (blocks + 1,), where a block's taps begin. The
  // caller has checked them, and keeps `weights`.
  Convolution(const Map& in, const Map& out, const Window& window, const Weight* weights,
              const int32_t* taps, const int32_t* starts, typename Arithmetic::Ends ends)
      : in_(in), out_(out), window_(window), weights_(weights),
        starts_(starts, starts + out.blocks() + 1), ends_(std::move(ends)) {
    const int64_t kept = starts_.back();
    const int64_t area = window.kernel_h * window.kernel_w;
    offsets_.reserve(static_cast<size_t>(kept));
    for (int64_t i = 0; i < kept; ++i) {
      const int64_t channel = taps[i] / area * Arithmetic::kInputs, place = taps[i] % area;
      const int64_t y = place / window.kernel_w * window.dilation_h;
      const int64_t x = place % window.kernel_w * window.dilation_w;
      offsets_.push_back(static_cast<int32_t>(channel / in.lanes * in.plane() + y * in.row() +
                                              x * in.lanes + channel % in.lanes));
    }
    step_ = in.lanes * window.stride_w;
    cut_ = Cut::of_row(out.width, out.height, most_runs<Arithmetic>(step_), Arithmetic::kPixels,
                       Arithmetic::kVectors);
    band_ = band();
  }

  void run(const Element* in, const Element* residual, const Map& residual_map, Element* out,
           int64_t images, const Threads& threads) const {
    const int64_t rows = images * out_.height;
    const double operations = static_cast<double>(starts_.back()) *
                              static_cast<double>(rows * out_.width) * Arithmetic::kVectors;
    const int64_t blocks = out_.blocks();
    int64_t tasks = tasks_worth(blocks * rows, operations);
    if (band_ < rows) {
      const int64_t bands = (rows + band_ - 1) / band_;
      tasks = tasks < bands ? tasks : bands;
      auto task = [&](int64_t i) {
        for (int64_t band = bands * i / tasks; band < bands * (i + 1) / tasks; ++band)
          for (int64_t block = 0; block < blocks; ++block)
            run_block(block, band * band_, std::min(rows, (band + 1) * band_), in, residual,
                      residual_map, out);
      };
      threads.run(tasks, task);
      return;
    }
    // A block is cut only where there are too few of them.
    const int64_t parts = tasks > blocks ? (tasks + blocks - 1) / blocks : 1;
    tasks = tasks > blocks ? blocks * parts : tasks;
    auto task = [&](int64_t i) {
      if (parts > 1) {
        const int64_t part = i % parts;
        run_block(i / parts, rows * part / parts, rows * (part + 1) / parts, in, residual,
                  residual_map, out);
        return;
      }
      for (int64_t block = blocks * i / tasks; block < blocks * (i + 1) / tasks; ++block)
        run_block(block, 0, rows, in, residual, residual_map, out);
    };
    threads.run(tasks, task);
  }

 private:
  // How many rows are finished for all blocks of outputs before the next ones begin: so many that
  // their inputs stay in the first cache. All of them where reading the weights again for every band
  // would cost more than reading the inputs again for every block.
  int64_t band() const {
    constexpr int64_t kAll = int64_t{1} << 40;
    const int64_t of_a_row = in_.blocks() * in_.row() * static_cast<int64_t>(sizeof(Element));
    const int64_t reach = (window_.kernel_h - 1) * window_.dilation_h + 1;
    const int64_t inputs = of_a_row * in_.height;
    const int64_t fit = (kFirstCache / of_a_row - reach) / window_.stride_h + 1;
    if (inputs <= kFirstCache || fit < 1 || out_.blocks() == 1) return kAll;
    const int64_t weights = starts_.back() * kTapWeights * static_cast<int64_t>(sizeof(Weight));
    const int64_t bands = (out_.height + fit - 1) / fit;
    const int64_t rows = (out_.height + bands - 1) / bands;
    const bool fills_tiles = 2 * rows * out_.width >= Arithmetic::kPixels;
    return fills_tiles && bands * weights < out_.blocks() * inputs ? rows : kAll;
  }

  // Some rows of a block, counted through all images.
  void run_block(int64_t block, int64_t first, int64_t last, const Element* in,
                 const Element* residual, const Map& residual_map, Element* out) const {
    const size_t b = static_cast<size_t>(block);
    const Taps<Weight> taps{weights_ + static_cast<int64_t>(starts_[b]) * kTapWeights,
                            offsets_.data() + starts_[b], starts_[b + 1] - starts_[b]};
    const auto end = ends_.of(block, residual != nullptr);
    for (int64_t image = (first + out_.height - 1) / out_.height; image * out_.height < last;
         ++image)
      clear_border(out_, out + image * out_.image(), block, block + 1, ends_.zero());
    for (const Cut::Runs& of : cut_.runs) {
      const int most = cut_.runs_of_tile(of.pixels, Arithmetic::kPixels);
      const TileFunction<Arithmetic> whole_tile = Arithmetic::tile(step_, most, of.pixels);
      Tile<Element> tile;
      int runs = 0;
      int64_t image = first / out_.height, y = first % out_.height;
      for (int64_t row = first; row < last; ++row) {
        const Element* const in_row =
            in + image * in_.image() +
            in_.at(0, y * window_.stride_h - window_.pad_top, -window_.pad_left);
        Element* const out_row = out + image * out_.image() + out_.at(block, y, 0);
        const Element* const residual_row =
            residual == nullptr
                ? nullptr
                : residual + image * residual_map.image() + residual_map.at(block, y, 0);
        for (const int64_t x : of.begin) {
          tile.in[runs] = in_row + x * step_;
          tile.out[runs] = out_row + x * kChannels;
          tile.residual[runs] = residual == nullptr ? nullptr : residual_row + x * kChannels;
          if (++runs == most) {
            whole_tile(taps, tile, end);
            runs = 0;
          }
        }
        if (++y == out_.height) {
          y = 0;
          ++image;
        }
      }
      if (runs > 0) Arithmetic::tile(step_, runs, of.pixels)(taps, tile, end);
    }
  }

  static constexpr int64_t kTapWeights = kChannels * Arithmetic::kInputs;

  Map in_, out_;
  Window window_;
  const Weight* weights_;
  std::vector<int32_t> starts_;
  std::vector<int32_t> offsets_;
  typename Arithmetic::Ends ends_;
  int64_t step_;
  Cut cut_;
  int64_t band_;
};

}  // namespace block_sparse
