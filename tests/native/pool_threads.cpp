// The thread pool alone, for ThreadSanitizer (bench/sanitize.sh): every task once and whole, callers
// that overlap, exceptions, counts and threads that change.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include "pool.h"

using fieldpress::render::parallel;

namespace {

void expect(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "pool: %s\n", what);
  std::exit(1);
}

// Each task writes its own place without any lock: a race, if two threads ever had one task.
void every_task_once(int threads, int count) {
  std::vector<int> places(count, 0);
  parallel(threads, count, [&](int i) { places[i] += i + 1; });
  for (int i = 0; i < count; ++i) expect(places[i] == i + 1, "a task ran not once");
}

void an_exception_comes_back(int threads) {
  bool caught = false;
  try {
    parallel(threads, 100, [](int i) {
      if (i == 37) throw std::runtime_error("37");
    });
  } catch (const std::runtime_error& error) {
    caught = std::strcmp(error.what(), "37") == 0;
  }
  expect(caught, "an exception was lost");
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
  if (argc > 2) {  // A race of our own, which the sanitiser must see: else it sees nothing.
    int shared = 0;
    parallel(4, 2000000, [&](int) { ++shared; });
    return shared == 0;
  }
  for (int round = 0; round < rounds; ++round) {
    every_task_once(1 + round % 7, round % 50);
    an_exception_comes_back(1 + round % 5);
  }
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([rounds, caller] {
      for (int round = 0; round < rounds; ++round) every_task_once(2 + caller, 1 + round % 40);
    });
  }
  for (std::thread& caller : callers) caller.join();
  std::puts("pool: clean");
}
