// Work that is cut into tasks; whoever calls decides what runs them.

#pragma once

#include <cstdint>

namespace block_sparse {

// Runs task(data, i) for every i below total, perhaps on several threads.
using Runner = void (*)(void* context, void (*task)(void*, size_t), size_t total, void* data);

struct Threads {
  Runner runner = nullptr;
  void* context = nullptr;

  template <typename Task>
  void run(int64_t total, Task& task) const {
    if (total <= 1 || runner == nullptr) {
      for (int64_t i = 0; i < total; ++i) task(i);
      return;
    }
    auto call = [](void* data, size_t i) { (*static_cast<Task*>(data))(static_cast<int64_t>(i)); };
    runner(context, call, static_cast<size_t>(total), &task);
  }
};

// Into how many tasks `pieces` equal pieces are worth cutting that cost so many vector operations
// together: a task of fewer than some ten microseconds is not worth handing to another thread.
inline int64_t tasks_worth(int64_t pieces, double operations) {
  constexpr double kOfATask = 40000;
  constexpr int64_t kMost = 64;
  int64_t most = static_cast<int64_t>(operations / kOfATask);
  if (most > kMost) most = kMost;
  if (most > pieces) most = pieces;
  return most < 1 ? 1 : most;
}

// each(image, block) for every block of every image; `operations`: vector operations in all.
template <typename Each>
void for_blocks(int64_t images, int64_t blocks, double operations, const Threads& threads,
                const Each& each) {
  const int64_t all = images * blocks;
  const int64_t tasks = tasks_worth(all, operations);
  auto task = [&](int64_t i) {
    for (int64_t b = all * i / tasks; b < all * (i + 1) / tasks; ++b) each(b / blocks, b % blocks);
  };
  threads.run(tasks, task);
}

}  // namespace block_sparse
