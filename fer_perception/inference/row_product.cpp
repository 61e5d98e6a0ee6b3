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

namespace amx {

#define TARGET                                                                                  \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,"    \
                          "amx-bf16")))

constexpr int TILE_ROWS = 16;
constexpr int TILE_BYTES = 64;  // of a row
constexpr int TILE_INNER = TILE_BYTES / sizeof(Bf16);  // values of k in one tile
constexpr int TILE_VALUES = TILE_ROWS * TILE_INNER;
constexpr int COLUMNS = avx512::COLUMNS;

struct alignas(64) TileConfiguration {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};
};

std::int64_t tiles_of(std::int64_t inner) { return (inner + TILE_INNER - 1) / TILE_INNER; }

// Split the weights into two bf16 numbers each, in two tiles for TILE_INNER values of k.
TARGET void prepare(Product<Bf16>& product, Scratch& scratch) {
    product.blocks = static_cast<int>((product.out_rows + TILE_ROWS - 1) / TILE_ROWS);
    const std::int64_t tiles = tiles_of(product.inner);
    const std::int64_t count = product.blocks * tiles * 2 * TILE_VALUES;
    Bf16* target = scratch.lend<Bf16>(count);
    product.prepared = target;
    std::memset(target, 0, count * sizeof(Bf16));
    for (int index = 0; index < product.blocks; ++index) {
        const std::int64_t begin = product.first_row(index), end = product.first_row(index + 1);
        for (std::int64_t row = begin; row < end; ++row) {
            const float* weights = product.weight + row * product.inner;
            for (std::int64_t k = 0; k < product.inner; ++k) {
                const float weight = weights[k];
                const Bf16 upper = narrowed(weight);
                const float rest = weight - widened(upper);
                Bf16* tile = target + (index * tiles + k / TILE_INNER) * 2 * TILE_VALUES;
                Bf16* place = tile + (row - begin) * TILE_INNER + k % TILE_INNER;
                place[0] = upper;
                place[TILE_VALUES] = narrowed(rest - rest == 0.0f ? rest : 0.0f);
            }
        }
    }
}

template <bool PARTIAL>
TARGET inline __m512i load(const Bf16* source, int count) {
    if (!PARTIAL) return _mm512_loadu_si512(source);
    return _mm512_maskz_loadu_epi16((1u << count) - 1, source);
}

// Interleave two neighbouring rows as the matrix unit wants them. Of each eight columns, the
// first four go into one tile and the last four into the other.
template <bool PARTIAL>
TARGET inline void interleave(const Bf16* upper, const Bf16* lower, int count,
                              std::uint32_t* target) {
    const __m512i a = load<PARTIAL>(upper, count);
    const __m512i b = lower != nullptr ? load<PARTIAL>(lower, count) : _mm512_setzero_si512();
    _mm512_store_si512(target, _mm512_unpacklo_epi16(a, b));
    _mm512_store_si512(target + COLUMNS / 2, _mm512_unpackhi_epi16(a, b));
}

// Add the bias, apply ReLU and mask, and store one row of both tiles.
template <bool PARTIAL>
TARGET inline void finish(const float* sums, const Product<Bf16>& product, std::int64_t row,
                          std::int64_t column, int count) {
    const __m512 bias = _mm512_set1_ps(product.bias != nullptr ? product.bias[row] : 0.0f);
    const __m512 least = _mm512_set1_ps(product.relu ? 0.0f : -INFINITY);
    // Of two operands, one of them NaN, the second is taken.
    __m512 first = _mm512_max_ps(least, _mm512_add_ps(_mm512_load_ps(sums), bias));
    __m512 second =
        _mm512_max_ps(least, _mm512_add_ps(_mm512_load_ps(sums + COLUMNS / 2), bias));
    if (product.mask != nullptr) {
        const __m512i zero = _mm512_setzero_si512();
        const __m512i mask =
            load<PARTIAL>(product.mask + row * product.mask_stride + column, count);
        first = _mm512_mul_ps(first, _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, mask)));
        second = _mm512_mul_ps(second, _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, mask)));
    }
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    __m512i values = _mm512_permutexvar_epi64(
        order, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
    if (product.least_kept != 0) {
        const auto words =
            reinterpret_cast<__m512i>(avx512::random_words(product, row, column));
        const __m512i least = _mm512_set1_epi16(static_cast<short>(product.least_kept));
        values = _mm512_maskz_mov_epi16(_mm512_cmpge_epu16_mask(words, least), values);
    }
    Bf16* target = product.out + row * product.out_stride + column;
    if (PARTIAL) {
        _mm512_mask_storeu_epi16(target, (1u << count) - 1, values);
    } else {
        _mm512_storeu_si512(target, values);
    }
}

template <bool PARTIAL>
TARGET void block(const Product<Bf16>& product, std::int64_t column, int count,
                  std::uint32_t* panel, float* sums) {
    const std::int64_t tiles = tiles_of(product.inner);
    const std::int64_t pairs = product.inner / 2;
    const Bf16* source = product.rows + column;
    std::uint32_t* target = panel;
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
        const Bf16* lower = source + product.rows_stride;
        prefetch(source);
        prefetch(lower);
        interleave<PARTIAL>(source, lower, count, target);
        source = lower + product.rows_stride;
        target += COLUMNS;
    }
    if (product.inner % 2 != 0) {
        prefetch(source);
        interleave<PARTIAL>(source, nullptr, count, target);
    }
    for (int index = 0; index < product.blocks; ++index) {
        const Bf16* weights =
            static_cast<const Bf16*>(product.prepared) + index * tiles * 2 * TILE_VALUES;
        // The compiler does not know that the tile instructions read memory.
        asm volatile("" ::: "memory");
        _tile_zero(0);
        _tile_zero(1);
        for (std::int64_t tile = 0; tile < tiles; ++tile) {
            const std::uint32_t* values = panel + tile * TILE_ROWS * COLUMNS;
            _tile_loadd(2, weights, TILE_BYTES);
            _tile_loadd(4, values, COLUMNS * sizeof(std::uint32_t));
            _tile_dpbf16ps(0, 2, 4);
            _tile_loadd(5, values + COLUMNS / 2, COLUMNS * sizeof(std::uint32_t));
            _tile_dpbf16ps(1, 2, 5);
            _tile_loadd(3, weights + TILE_VALUES, TILE_BYTES);
            _tile_dpbf16ps(0, 3, 4);
            _tile_dpbf16ps(1, 3, 5);
            weights += 2 * TILE_VALUES;
        }
        _tile_stored(0, sums, COLUMNS * sizeof(float));
        _tile_stored(1, sums + COLUMNS / 2, COLUMNS * sizeof(float));
        asm volatile("" ::: "memory");
        const std::int64_t begin = product.first_row(index), end = product.first_row(index + 1);
        for (std::int64_t row = begin; row < end; ++row) {
            finish<PARTIAL>(sums + (row - begin) * COLUMNS, product, row, column, count);
        }
    }
}

// Compute the columns from `begin` to before `end`.
TARGET void compute(const Product<Bf16>& product, std::int64_t begin, std::int64_t end) {
    thread_local Scratch scratch;
    const std::int64_t size = tiles_of(product.inner) * TILE_ROWS * COLUMNS;
    float* sums = scratch.lend<float>(TILE_ROWS * COLUMNS + size);
    std::uint32_t* panel = reinterpret_cast<std::uint32_t*>(sums + TILE_ROWS * COLUMNS);
    std::memset(panel, 0, size * sizeof *panel);

    // Another library may rely on its own configuration.
    TileConfiguration before, tiles;
    _tile_storeconfig(&before);
    const std::int64_t most = (product.out_rows + product.blocks - 1) / product.blocks;
    for (int tile = 0; tile < 6; ++tile) {
        tiles.row_bytes[tile] = TILE_BYTES;
        tiles.rows[tile] = static_cast<std::uint8_t>(tile < 4 ? most : TILE_ROWS);
    }
    asm volatile("" ::: "memory");
    _tile_loadconfig(&tiles);
    std::int64_t column = begin;
    for (; column + COLUMNS <= end; column += COLUMNS) {
        block<false>(product, column, COLUMNS, panel, sums);
    }
    if (column < end) {
        block<true>(product, column, static_cast<int>(end - column), panel, sums);
    }
    if (before.palette == 0) {
        _tile_release();
    } else {
        _tile_loadconfig(&before);
    }
}

#undef TARGET

// Ask the system for leave to use the matrix unit; false if there is none.
bool allowed() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(d >> 22 & 1) || !(d >> 24 & 1)) return false;  // amx-bf16, amx-tile
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

}  // namespace amx

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

}  // namespace

extern "C" {

// The version of these functions: row_product.py refuses any other.
int row_product_interface() { return 2; }

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

}  // extern "C"
