#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace clipcid {
namespace {

// One call of parallelFor. Helpers that come late find no index left and go; the caller returns when no
// helper is inside.
struct Job {
  const std::function<void(int64_t, int)>* body;
  int64_t count;
  std::atomic<int64_t> next{0};
  int joined = 1;  // workers so far, the caller being 0; guarded by the pool's mutex
  int active = 0;  // helpers inside; guarded by the pool's mutex
  int wanted = 0;  // helpers that may still come; guarded by the pool's mutex

  void work(int worker) {
    for (;;) {
      const int64_t index = next.fetch_add(1, std::memory_order_relaxed);
      if (index >= count) return;
      (*body)(index, worker);
    }
  }
};

class Pool {
 public:
  void run(int threads, int64_t count, const std::function<void(int64_t, int)>& body) {
    Job job;
    job.body = &body;
    job.count = count;
    job.wanted = static_cast<int>(std::min<int64_t>(threads, count)) - 1;
    if (job.wanted > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(job.wanted);
      jobs_.push_back(&job);
      wake_.notify_all();
    }
    job.work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
    done_.wait(lock, [&] { return job.active == 0; });
  }

 private:
  void grow(int helpers) {
    try {
      for (; helpers_ < helpers; ++helpers_) std::thread([this] { help(); }).detach();
    } catch (const std::system_error&) {
      // Fewer threads than asked for: slower, but the caller does what the helpers don't.
    }
  }

  void help() {
    // A thread inherits its creator's mode, and other libraries turn denormals off or change the rounding.
    std::fesetenv(FE_DFL_ENV);
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return !jobs_.empty(); });
      Job* job = jobs_.front();
      const int worker = job->joined++;
      ++job->active;
      if (--job->wanted == 0) jobs_.pop_front();
      lock.unlock();
      job->work(worker);
      lock.lock();
      if (--job->active == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::deque<Job*> jobs_;
  int helpers_ = 0;
};

}  // namespace

void parallelFor(int threads, int64_t count, const std::function<void(int64_t, int)>& body) {
  if (count <= 0) return;
  if (threads <= 1 || count == 1) {
    for (int64_t index = 0; index < count; ++index) body(index, 0);
    return;
  }
  // Never destroyed: its detached threads wait in it when the process ends.
  static Pool* pool = new Pool;
  pool->run(threads, count, body);
}

Status parallelTry(const Context& context, int64_t count, const std::function<Status(int64_t, int)>& body) {
  std::mutex mutex;
  Status failure;
  int64_t failed = count;
  std::atomic<bool> stop{false};
  parallelFor(context.threads, count, [&](int64_t index, int worker) {
    if (stop.load(std::memory_order_relaxed)) return;
    Status status = context.cancelled() ? Status::aborted() : guarded([&] { return body(index, worker); });
    if (status.ok()) return;
    stop.store(true, std::memory_order_relaxed);
    std::lock_guard<std::mutex> lock(mutex);
    if (index < failed) {
      failed = index;
      failure = std::move(status);
    }
  });
  return failure;
}

}  // namespace clipcid
