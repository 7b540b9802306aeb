// Maps: how an image's channels lie in memory.
//
// Blocked, [channels / B, height + 2·border, width + 2·border, B]: B consecutive channels of a pixel
// are one vector. Planar, [channels, height + 2·border, width + 2·border]: the same with blocks of
// one channel; only a network's input is read so. Around every map lies a border of zeros, as wide
// as the widest padding of what reads it, so that no tap needs to ask where a map ends.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace block_sparse {

struct Map {
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t border = 0;
  int64_t lanes = 1;  // channels of a block

  int64_t blocks() const { return (channels + lanes - 1) / lanes; }
  int64_t row() const { return (width + 2 * border) * lanes; }
  int64_t plane() const { return row() * (height + 2 * border); }
  int64_t image() const { return plane() * blocks(); }

  // Where pixel (y, x) of a block begins; y and x may lie in the border.
  int64_t at(int64_t block, int64_t y, int64_t x) const {
    return block * plane() + (y + border) * row() + (x + border) * lanes;
  }
};

// What stands for 0 into the border of some blocks of an image. The right end of a row and the left
// end of the next lie side by side, so that between two rows there is one gap to fill.
template <typename Element>
void clear_border(const Map& map, Element* image, int64_t first, int64_t last, Element zero = 0) {
  if (map.border == 0) return;
  const int64_t side = map.border * map.lanes;
  const int64_t band = map.border * map.row();
  for (int64_t block = first; block < last; ++block) {
    Element* at = image + block * map.plane();
    std::fill_n(at, band + side, zero);
    at += band + side;
    for (int64_t y = 1; y < map.height; ++y) {
      at += map.width * map.lanes;
      std::fill_n(at, 2 * side, zero);
      at += 2 * side;
    }
    std::fill_n(at + map.width * map.lanes, band + side, zero);
  }
}

// How a window slides over a map.
struct Window {
  int64_t kernel_h = 1, kernel_w = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_top = 0, pad_left = 0, pad_bottom = 0, pad_right = 0;
  int64_t dilation_h = 1, dilation_w = 1;

  int64_t out_height(const Map& in) const {
    return (in.height + pad_top + pad_bottom - dilation_h * (kernel_h - 1) - 1) / stride_h + 1;
  }
  int64_t out_width(const Map& in) const {
    return (in.width + pad_left + pad_right - dilation_w * (kernel_w - 1) - 1) / stride_w + 1;
  }
};

}  // namespace block_sparse
