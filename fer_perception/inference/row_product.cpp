// SPDX-License-Identifier: Apache-2.0
// out[m, n] = mask[m, n] * relu(bias[m] + sum_k weight[m, k] * rows[k, n]), in one pass over
// `rows`; the mask is given, or drawn on the way. Plain C functions for ctypes; row_product.py describes and checks the arguments.
//
// The library holds a kernel for each kind of vector unit and runs what the machine has, whatever
// machine compiled it: nothing outside of the kernels may need more than the plainest processor.
// Rows of bf16 go through the matrix unit AMX where there is one. Each weight is there the sum of
// two bf16 numbers, which keeps 16 of its 24 bits, and numbers below 1e-38 count as 0.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include <pthread.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#if defined(__x86_64__) && defined(__linux__) && (__GNUC__ >= 11 || __clang_major__ >= 12)
#define WITH_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

typedef std::uint16_t Bf16;

constexpr int LARGEST_LANES = 16;  // of any kernel

enum Kernel { PORTABLE = 1, AVX2 = 2, AVX512 = 3, AMX = 4 };

// Memory that one thread uses again for each product.
class Scratch {
public:
    // Lend memory, aligned to cache lines, until the next call.
    template <typename Value>
    Value* lend(std::int64_t count) {
        const std::size_t size = count * sizeof(Value) + LINE;
        if (bytes_.size() < size) bytes_.resize(size);
        const auto address = reinterpret_cast<std::uintptr_t>(bytes_.data());
        return reinterpret_cast<Value*>((address + LINE - 1) / LINE * LINE);
    }

private:
    static constexpr std::size_t LINE = 64;
    std::vector<unsigned char> bytes_;
};

template <typename Value>
struct Product {
    const float* weight;  // (out_rows, inner)
    const float* bias;  // (out_rows), or null
    const Value* rows;  // (inner, columns)
    std::int64_t rows_stride;
    Value* out;  // (out_rows, columns)
    std::int64_t out_stride;
    const Value* mask;  // (out_rows, columns), or null
    std::int64_t mask_stride;
    std::int64_t out_rows, inner, columns;
    bool relu;
    std::uint64_t seed;  // of a mask that is drawn
    std::uint32_t least_kept;  // of 16 random bits: the least that keeps an element; 0: no mask

    int blocks = 0;  // of rows of `out`
    const void* prepared = nullptr;  // the weights, as the kernel wants them

    std::int64_t first_row(int block) const { return block * out_rows / blocks; }
};

// Fetch what lies a few blocks further in a row into the second cache. The rows lie far apart, and
// of each only a line or two is read at once: the processor itself does not see what comes next.
template <typename Value>
inline __attribute__((always_inline)) void prefetch(const Value* source) {
    const char* ahead = reinterpret_cast<const char*>(source) + 512;
    __builtin_prefetch(ahead, 0, 2);
    if (sizeof(Value) == 4) __builtin_prefetch(ahead + 64, 0, 2);
}

float widened(Bf16 value) {
    const std::uint32_t bits = std::uint32_t{value} << 16;
    float wide;
    std::memcpy(&wide, &bits, sizeof wide);
    return wide;
}

// Round to nearest, ties to even; NaN stays NaN.
Bf16 narrowed(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (value != value) return static_cast<Bf16>((bits | 0x00400000u) >> 16);
    return static_cast<Bf16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#define KERNEL portable
#define TARGET
#define VECTOR_BYTES 16
#if defined(__aarch64__)
#define BLOCK_ROWS 12  // 24 sums in 32 registers
#else
#define BLOCK_ROWS 5  // 10 sums in 16 registers
#endif
#include "row_product_kernel.h"
#undef KERNEL
#undef TARGET
#undef VECTOR_BYTES
#undef BLOCK_ROWS

#if defined(__x86_64__)

#define KERNEL avx2
#define TARGET __attribute__((target("avx2,fma")))
#define VECTOR_BYTES 32
#define BLOCK_ROWS 6  // 12 sums in 16 registers
#include "row_product_kernel.h"
#undef KERNEL
#undef TARGET
#undef VECTOR_BYTES
#undef BLOCK_ROWS

#define KERNEL avx512
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define VECTOR_BYTES 64
#define BLOCK_ROWS 15  // 30 sums in 32 registers
#include "row_product_kernel.h"
#undef KERNEL
#undef TARGET
#undef VECTOR_BYTES
#undef BLOCK_ROWS

#endif

#if defined(WITH_AMX)
#include "row_product_amx.h"
#include "layer_step_amx.h"
#endif

// A few threads that share out the columns of a product; the caller is one of them. Made when
// first wanted, never ended. A waiting thread sleeps.
class Workers {
public:
    typedef void (*Task)(const void* argument, std::int64_t part);

    // Call `task` for each part from 0 to before `parts`, in up to `threads` threads.
    void run(Task task, const void* argument, std::int64_t parts, int threads) {
        std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
        if (!turn.owns_lock()) {  // another thread's product is under way: do this one alone
            for (std::int64_t part = 0; part < parts; ++part) task(argument, part);
            return;
        }
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            try {
                for (; started_ < threads - 1; ++started_) {
                    std::thread([this, number = started_] { work(number); }).detach();
                }
            } catch (const std::system_error&) {  // no more threads: work with those there are
            }
            task_ = task;
            argument_ = argument;
            parts_ = parts;
            wanted_ = threads - 1;
            next_.store(0, std::memory_order_relaxed);
            ++round_;
        }
        wake_.notify_all();
        take_parts(task, argument, parts);
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(5);
        while (active_.load(std::memory_order_acquire) != 0 &&
               std::chrono::steady_clock::now() < deadline) {
        }
        std::unique_lock<std::mutex> lock(mutex_);
        wanted_ = 0;  // who wakes up only now has nothing to do
        done_.wait(lock, [this] { return active_.load(std::memory_order_acquire) == 0; });
    }

private:
    void take_parts(Task task, const void* argument, std::int64_t parts) {
        for (;;) {
            const std::int64_t part = next_.fetch_add(1, std::memory_order_relaxed);
            if (part >= parts) return;
            task(argument, part);
        }
    }

    void work(int number) {
        std::uint64_t seen = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return round_ != seen && number < wanted_; });
            seen = round_;
            const Task task = task_;
            const void* argument = argument_;
            const std::int64_t parts = parts_;
            active_.fetch_add(1, std::memory_order_relaxed);
            lock.unlock();
            take_parts(task, argument, parts);
            lock.lock();
            if (active_.fetch_sub(1, std::memory_order_release) == 1) done_.notify_one();
        }
    }

    std::mutex turn_, mutex_;
    std::condition_variable wake_, done_;
    std::atomic<std::int64_t> next_{0};
    std::atomic<int> active_{0};
    Task task_ = nullptr;
    const void* argument_ = nullptr;
    std::int64_t parts_ = 0;
    std::uint64_t round_ = 0;
    int wanted_ = 0, started_ = 0;
};

std::atomic<Workers*> the_workers{nullptr};

// Return the workers of this process: a fork has none of its parent's threads.
Workers& workers() {
    static const int registered =
        pthread_atfork(nullptr, nullptr, [] { the_workers.store(nullptr); });
    static_cast<void>(registered);
    Workers* existing = the_workers.load(std::memory_order_acquire);
    if (existing != nullptr) return *existing;
    Workers* made = new Workers;
    if (the_workers.compare_exchange_strong(existing, made)) return *made;
    delete made;
    return *existing;
}

template <typename Value>
using Compute = void (*)(const Product<Value>&, std::int64_t begin, std::int64_t end);

// Choose the kernel and prepare the weights for it; null if the machine cannot run it.
template <typename Value>
Compute<Value> prepare(int kernel, Product<Value>& product, Scratch& scratch) {
    switch (kernel) {
#if defined(__x86_64__)
    case AMX:
#if defined(WITH_AMX)
        if constexpr (sizeof(Value) == sizeof(Bf16)) {
            amx::prepare(product, scratch);
            return amx::compute;
        }
#endif
        [[fallthrough]];
    case AVX512:
        avx512::prepare(product, scratch);
        return avx512::compute<Value>;
    case AVX2:
        avx2::prepare(product, scratch);
        return avx2::compute<Value>;
#endif
    case PORTABLE:
        portable::prepare(product, scratch);
        return portable::compute<Value>;
    default:
        return nullptr;
    }
}

constexpr std::int64_t PART_COLUMNS = 1024;  // a multiple of every kernel's block of columns

template <typename Value>
struct Job {
    Product<Value> product;
    Compute<Value> compute;

    static void run_part(const void* argument, std::int64_t part) {
        const Job& job = *static_cast<const Job*>(argument);
        job.compute(job.product, part * PART_COLUMNS,
                    std::min((part + 1) * PART_COLUMNS, job.product.columns));
    }
};

template <typename Value>
int multiply(const std::int64_t* numbers, const float* weight, const float* bias,
             const Value* rows, Value* out, const Value* mask, std::uint64_t seed,
             std::uint32_t least_kept) try {
    Product<Value> product{weight, bias, rows, numbers[0], out, numbers[1], mask, numbers[2],
                           numbers[3], numbers[4], numbers[5], numbers[6] != 0, seed, least_kept};
    const int kernel = static_cast<int>(numbers[7]);
    const std::int64_t threads = numbers[8];
    thread_local Scratch scratch;
    const Compute<Value> compute = prepare(kernel, product, scratch);
    if (compute == nullptr) return 1;
    const std::int64_t parts = (product.columns + PART_COLUMNS - 1) / PART_COLUMNS;
    if (threads <= 1 || parts <= 1) {
        compute(product, 0, product.columns);
        return 0;
    }
    const Job<Value> job{product, compute};
    workers().run(Job<Value>::run_part, &job, parts,
                  static_cast<int>(std::min(threads, parts)));
    return 0;
} catch (const std::bad_alloc&) {
    return 2;
}

template <typename Value>
int repeat(const std::int64_t* numbers, const Value* rows, Value* out, std::uint64_t seed,
           std::uint32_t least_kept) {
    Product<Value> product{nullptr, nullptr, rows, numbers[0], out, numbers[1], nullptr, 0,
                           numbers[2], numbers[2] / numbers[3], numbers[4], false, seed,
                           least_kept};
    switch (static_cast<int>(numbers[5])) {
#if defined(__x86_64__)
    case AMX:
    case AVX512:
        avx512::repeat(product, numbers[3]);
        return 0;
    case AVX2:
        avx2::repeat(product, numbers[3]);
        return 0;
#endif
    case PORTABLE:
        portable::repeat(product, numbers[3]);
        return 0;
    default:
        return 1;
    }
}

}  // namespace

extern "C" {

// The version of these functions: row_product.py refuses any other.
int row_product_interface() { return 3; }

// Tell whether this machine can run a kernel.
int row_product_supports(int kernel) {
    switch (kernel) {
#if defined(__x86_64__)
    case AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case AVX512:
        return row_product_supports(AVX2) && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
#if defined(WITH_AMX)
    case AMX:
        return row_product_supports(AVX512) && __builtin_cpu_supports("avx512bf16") &&
               amx::allowed();
#endif
#endif
    case PORTABLE:
        return 1;
    default:
        return 0;
    }
}

// Compute a product. `numbers`: how many values lie from one row to the next of `rows`, of `out`
// and of `mask`; M, K, N; whether to apply ReLU; the kernel; the most threads. `bias` and `mask`
// may be null. `least_kept` 1 to 65535 draws a mask from `seed`: an element is kept where 16 random
// bits are no less. Returns 0, 1 if the kernel is unknown, 2 if there is no memory.
int row_product_fp32(const std::int64_t* numbers, const float* weight, const float* bias,
                     const float* rows, float* out, const float* mask, std::uint64_t seed,
                     std::uint32_t least_kept) {
    return multiply<float>(numbers, weight, bias, rows, out, mask, seed, least_kept);
}

// The same, with rows, out and mask in bf16.
int row_product_bf16(const std::int64_t* numbers, const float* weight, const float* bias,
                     const std::uint16_t* rows, std::uint16_t* out, const std::uint16_t* mask,
                     std::uint64_t seed, std::uint32_t least_kept) {
    return multiply<Bf16>(numbers, weight, bias, rows, out, mask, seed, least_kept);
}

// Set out[m, n] to mask[m, n] * rows[m / repeats, n]. `numbers`: values from one row to the next of
// `rows` and of `out`; rows of `out`; repeats; N; the kernel. Seed, `least_kept` and the value
// returned as above.
int repeat_rows_fp32(const std::int64_t* numbers, const float* rows, float* out,
                     std::uint64_t seed, std::uint32_t least_kept) {
    return repeat<float>(numbers, rows, out, seed, least_kept);
}

int repeat_rows_bf16(const std::int64_t* numbers, const std::uint16_t* rows, std::uint16_t* out,
                     std::uint64_t seed, std::uint32_t least_kept) {
    return repeat<Bf16>(numbers, rows, out, seed, least_kept);
}

// Lay out topologies (matrices, edges, edges) for layer_step_bf16, as many values; edges a
// multiple of 32.
void layer_pack_topology(const float* topology, std::int64_t matrices, std::int64_t edges,
                         std::uint16_t* packed) {
#if defined(WITH_AMX)
    amx::pack_topology(topology, matrices, edges, packed);
#endif
}

// Step one layer. `numbers`: streams; edges; channels in; channels out; frames of the ring; the
// newest of them; subsets; whether W comes before U; whether the outer residual is there; whether
// an output is due; values from one row of `out` to the next, and of `mask`; the most threads.
// `buffer` is aligned to 64 bytes. Needs the kernel AMX. Returns 0, 1 without it, 2 if there is no memory.
int layer_step_bf16(const std::int64_t* numbers, const std::uint16_t* topology,
                    const float* mixing, const float* mixing_bias, const float* temporal,
                    const float* temporal_bias, std::uint16_t* buffer, std::uint16_t* out,
                    const std::uint16_t* mask, std::uint64_t seed, std::uint32_t least_kept) try {
#if defined(WITH_AMX)
    amx::Layer layer{};
    layer.streams = numbers[0];
    layer.edges = numbers[1];
    layer.in_channels = numbers[2];
    layer.out_channels = numbers[3];
    layer.frames = numbers[4];
    layer.position = numbers[5];
    layer.subsets = numbers[6];
    layer.mixes_first = numbers[7] != 0;
    layer.is_due = numbers[9] != 0;
    layer.topology = topology;
    layer.buffer = buffer;
    layer.choose_parts();
    thread_local Scratch mixing_memory, temporal_memory;
    layer.mixing.weight = mixing;
    layer.mixing.bias = mixing_bias;
    layer.mixing.out_rows = (layer.mixes_first ? 1 + layer.subsets : 1) * layer.out_channels;
    layer.mixing.inner = (layer.mixes_first ? 1 : 1 + layer.subsets) * layer.in_channels;
    amx::prepare(layer.mixing, mixing_memory);
    if (layer.is_due) {
        layer.temporal = {temporal, temporal_bias, buffer, layer.columns(), out, numbers[10], mask,
                          numbers[11], layer.out_channels,
                          layer.ring_rows() + (numbers[8] != 0 ? layer.in_channels : 0),
                          layer.columns(), true, seed, least_kept};
        amx::prepare(layer.temporal, temporal_memory);
    }
    const std::int64_t parts = layer.parts();
    const int threads = static_cast<int>(std::min(numbers[12], parts));
    if (threads <= 1) {
        for (std::int64_t part = 0; part < parts; ++part) amx::step_part(&layer, part);
    } else {
        workers().run(amx::step_part, &layer, parts, threads);
    }
    return 0;
#else
    return 1;
#endif
} catch (const std::bad_alloc&) {
    return 2;
}

}  // extern "C"
