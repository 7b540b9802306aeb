#include "tiles.h"

template block_sparse::TileFunction block_sparse::tile_function<4>(int64_t, int, int);
