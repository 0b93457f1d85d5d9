// Front-to-back order, and the splats of each tile in that order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "frame.h"

namespace fieldpress::render {

// Uninitialised storage that only grows: a frame after the first touches no fresh page.
template <typename T>
class Buffer {
 public:
  T* fit(size_t count) {
    if (count > capacity_) {
      data_.reset();
      capacity_ = 0;
      const size_t wanted = count + count / 8 + 64;
      data_.reset(static_cast<T*>(::operator new(wanted * sizeof(T), std::align_val_t(64))));
      capacity_ = wanted;
    }
    return data_.get();
  }
  T* get() const { return data_.get(); }
  size_t bytes() const { return capacity_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
  size_t capacity_ = 0;
};

// A depth's bits above a splat's index.
using Key = uint64_t;

// Stable radix sort of keys by their upper half. The result lies in keys or in spare: returned.
Key* sort_by_depth(Key* keys, Key* spare, int64_t count, int threads, Buffer<uint32_t>& counters);

struct TileLists {
  Buffer<uint32_t> splats;        // all lists, tile after tile
  std::vector<int64_t> starts;    // [tiles + 1]
  int tiles_x = 0, tiles_y = 0;
};

struct BinScratch {
  std::vector<std::vector<uint32_t>> runs;    // per part: tile runs, in depth order
  Buffer<uint16_t> run_counts;                // per splat
  Buffer<uint32_t> cursors;                   // [parts, tiles + 1]
};

// Lists of the sorted splats per tile.
void fill_tiles(const Kernels& kernels, const Splat* splats, const Key* sorted, int64_t count,
                const Settings& set, BinScratch& scratch, TileLists& lists);

}  // namespace fieldpress::render
