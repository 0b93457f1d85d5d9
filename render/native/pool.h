// The thread pool of the rasteriser: tasks are numbered, so that what they write never depends on
// who runs them.
#pragma once

#include <functional>

namespace fieldpress::render {

// Calls task(i) for i in [0, count) on at most `threads` threads, the caller among them. The first
// exception is thrown again in the caller. A second caller meanwhile works alone.
void parallel(int threads, int count, const std::function<void(int)>& task);

}  // namespace fieldpress::render
