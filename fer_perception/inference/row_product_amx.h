// SPDX-License-Identifier: Apache-2.0
// The product of a few weights with wide rows of bf16, by the matrix unit AMX. A part of
// row_product.cpp, which includes it behind the kernels of the vector units.

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
