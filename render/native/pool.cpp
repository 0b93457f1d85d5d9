#include "pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace fieldpress::render {
namespace {

constexpr int MAX_WORKERS = 255;
constexpr int SPINS = 4000;  // About 40 us: the gap between two stages of a frame.

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

class Pool {
 public:
  void run(int threads, int count, const std::function<void(int)>& task) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (threads <= 1 || count <= 1 || !turn.owns_lock()) {
      for (int i = 0; i < count; ++i) task(i);
      return;
    }
    const int helpers = std::min(std::min(threads, count) - 1, MAX_WORKERS);
    hire(helpers);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = &task;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      seats_ = helpers;
      failure_ = nullptr;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    work(task, count);
    std::unique_lock<std::mutex> lock(mutex_);
    seats_ = 0;  // Whoever wakes up now is too late.
    lock.unlock();
    for (int i = 0; i < SPINS && busy_.load(std::memory_order_acquire) != 0; ++i) pause_briefly();
    lock.lock();
    idle_.wait(lock, [this] { return busy_ == 0; });
    task_ = nullptr;
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  // Threads that cannot be had are done without: the caller always works.
  void hire(int wanted) {
    try {
      while (static_cast<int>(workers_.size()) < wanted) {
        workers_.emplace_back([this] { live(); });
        workers_.back().detach();
      }
    } catch (const std::exception&) {
    }
  }

  void work(const std::function<void(int)>& task, int count) {
    try {
      for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
    } catch (...) {
      next_.store(count, std::memory_order_relaxed);
      std::lock_guard<std::mutex> lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void live() {
    unsigned seen = 0;
    for (;;) {
      for (int i = 0; i < SPINS && generation_.load(std::memory_order_acquire) == seen; ++i)
        pause_briefly();
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
      seen = generation_.load(std::memory_order_relaxed);
      if (seats_ == 0) continue;
      --seats_;
      ++busy_;
      const auto* task = task_;
      const int count = count_;
      lock.unlock();
      work(*task, count);
      lock.lock();
      if (--busy_ == 0) idle_.notify_all();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::thread> workers_;
  std::atomic<unsigned> generation_{0};
  std::atomic<int> next_{0}, busy_{0};
  const std::function<void(int)>* task_ = nullptr;
  int count_ = 0, seats_ = 0;
  std::exception_ptr failure_;
};

// Never destroyed: its threads sleep in it until the process ends. A forked child has none of
// them, so it starts with a new pool.
Pool* pool = nullptr;

Pool& the_pool() {
  static const bool once = [] {
    pool = new Pool;
#ifndef _WIN32
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif
    return true;
  }();
  (void)once;
  return *pool;
}

}  // namespace

void parallel(int threads, int count, const std::function<void(int)>& task) {
  the_pool().run(threads, count, task);
}

}  // namespace fieldpress::render
