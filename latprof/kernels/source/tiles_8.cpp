#include "tiles.h"

template block_sparse::TileFunction block_sparse::tile_function<8>(int64_t, int, int);
