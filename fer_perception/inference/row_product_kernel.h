// SPDX-License-Identifier: Apache-2.0
// The product of a few weights with wide rows, for one kind of vector unit. Compiled several times
// by row_product.cpp, which defines for each: KERNEL (a namespace), TARGET (the attribute of every
// function), VECTOR_BYTES, and BLOCK_ROWS, the rows of `out` whose sums fit into the registers.

namespace KERNEL {

constexpr int LANES = VECTOR_BYTES / 4;
constexpr int COLUMNS = 2 * LANES;  // of a block: two vectors of sums for each row

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef std::uint32_t Words __attribute__((vector_size(VECTOR_BYTES)));

// COLUMNS neighbouring values as two vectors; all that matters of their order is that `store`
// undoes it. Of bf16, `first` has the even columns and `second` the odd ones: a shift and a mask
// each, no permutation. The memory need not be aligned.
struct Pair {
    Floats first, second;
};

TARGET static inline Pair load(const float* source) {
    Pair pair;
    std::memcpy(&pair.first, source, VECTOR_BYTES);
    std::memcpy(&pair.second, source + LANES, VECTOR_BYTES);
    return pair;
}

TARGET static inline Pair load(const Bf16* source) {
    Words words;
    std::memcpy(&words, source, VECTOR_BYTES);
    return {(Floats)(words << 16), (Floats)(words & 0xffff0000u)};
}

TARGET static inline void store(float* target, const Pair& pair) {
    std::memcpy(target, &pair.first, VECTOR_BYTES);
    std::memcpy(target + LANES, &pair.second, VECTOR_BYTES);
}

// Round to nearest, ties to even, as bits in the upper half of each word; NaN stays NaN.
TARGET static inline Words rounded(Floats values) {
    const Words bits = (Words)values;
    const Words nearest = bits + 0x7fffu + ((bits >> 16) & 1u);
    return values == values ? nearest : bits | 0x00400000u;
}

TARGET static inline void store(Bf16* target, const Pair& pair) {
    const Words words = (rounded(pair.first) >> 16) | (rounded(pair.second) & 0xffff0000u);
    std::memcpy(target, &words, VECTOR_BYTES);
}

// The first `count` columns only, where PARTIAL; the others are 0.
template <bool PARTIAL, typename Value>
TARGET static inline Pair load_columns(const Value* source, int count) {
    if (!PARTIAL) return load(source);
    Value values[COLUMNS] = {};
    std::memcpy(values, source, count * sizeof(Value));
    return load(values);
}

// Random words for a block of columns of a row: the lower half of each is for `first` of a Pair,
// the upper half for `second`. A counter of the places, hashed with the two halves of the seed
// (the rounds of Wellons' lowbias32).
template <typename Value>
TARGET static inline Words random_words(const Product<Value>& product, std::int64_t row,
                                        std::int64_t column) {
    const std::int64_t words_of_row = product.columns / 2 + LARGEST_LANES;
    const auto start = static_cast<std::uint32_t>(row * words_of_row + column / 2);
    Words words;
    for (int lane = 0; lane < LANES; ++lane) words[lane] = start + lane;
    words = words * 0x9e3779b1u ^ static_cast<std::uint32_t>(product.seed);
    words = (words ^ words >> 16) * 0x7feb352du;
    words ^= static_cast<std::uint32_t>(product.seed >> 32);
    words = (words ^ words >> 15) * 0x846ca68bu;
    return words ^ words >> 16;
}

// Apply ReLU and mask to sums, and store them.
template <bool PARTIAL, typename Value>
TARGET static inline void finish(Pair sums, const Product<Value>& product, std::int64_t row,
                                 std::int64_t column, int count) {
    if (product.relu) {  // so that NaN stays NaN
        sums.first = sums.first < 0.0f ? Floats{} : sums.first;
        sums.second = sums.second < 0.0f ? Floats{} : sums.second;
    }
    if (product.mask != nullptr) {
        const Pair mask =
            load_columns<PARTIAL>(product.mask + row * product.mask_stride + column, count);
        sums.first *= mask.first;
        sums.second *= mask.second;
    }
    if (product.least_kept != 0) {
        const Words words = random_words(product, row, column);
        sums.first = (words & 0xffffu) >= product.least_kept ? sums.first : Floats{};
        sums.second = words >> 16 >= product.least_kept ? sums.second : Floats{};
    }
    Value* target = product.out + row * product.out_stride + column;
    if (PARTIAL) {
        Value values[COLUMNS];
        store(values, sums);
        std::memcpy(target, values, count * sizeof(Value));
    } else {
        store(target, sums);
    }
}

// Compute ROWS rows of one block of columns. `weights` holds ROWS of each k, one k after another.
template <int ROWS, bool PARTIAL, typename Value>
TARGET static void block(const Product<Value>& product, const float* weights, std::int64_t row,
                         std::int64_t column, int count) {
    Floats first[ROWS], second[ROWS];
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m) {
        const float bias = product.bias != nullptr ? product.bias[row + m] : 0.0f;
        first[m] = second[m] = Floats{} + bias;
    }
    const Value* source = product.rows + column;
    for (std::int64_t k = 0; k < product.inner; ++k) {
        const Pair values = load_columns<PARTIAL>(source, count);
        prefetch(source);
#pragma GCC unroll 16
        for (int m = 0; m < ROWS; ++m) {
            first[m] += weights[m] * values.first;
            second[m] += weights[m] * values.second;
        }
        source += product.rows_stride;
        weights += ROWS;
    }
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; ++m) {
        finish<PARTIAL>({first[m], second[m]}, product, row + m, column, count);
    }
}

template <bool PARTIAL, typename Value>
TARGET static void block_of(int rows, const Product<Value>& product, const float* weights,
                            std::int64_t row, std::int64_t column, int count) {
    switch (rows) {
#define ROWS_CASE(ROWS)                                                            \
    case ROWS:                                                                     \
        if constexpr (ROWS <= BLOCK_ROWS)                                          \
            block<ROWS, PARTIAL>(product, weights, row, column, count);            \
        break;
        ROWS_CASE(1) ROWS_CASE(2) ROWS_CASE(3) ROWS_CASE(4) ROWS_CASE(5)
        ROWS_CASE(6) ROWS_CASE(7) ROWS_CASE(8) ROWS_CASE(9) ROWS_CASE(10)
        ROWS_CASE(11) ROWS_CASE(12) ROWS_CASE(13) ROWS_CASE(14) ROWS_CASE(15)
#undef ROWS_CASE
    }
}

// Arrange the weights for `compute`: blocks of rows of nearly equal size, k by k in each.
template <typename Value>
TARGET static void prepare(Product<Value>& product, Scratch& scratch) {
    product.blocks = static_cast<int>((product.out_rows + BLOCK_ROWS - 1) / BLOCK_ROWS);
    float* target = scratch.lend<float>(product.out_rows * product.inner);
    product.prepared = target;
    for (int index = 0; index < product.blocks; ++index) {
        const std::int64_t begin = product.first_row(index), end = product.first_row(index + 1);
        for (std::int64_t k = 0; k < product.inner; ++k) {
            for (std::int64_t row = begin; row < end; ++row) {
                *target++ = product.weight[row * product.inner + k];
            }
        }
    }
}

// Compute the columns from `begin` to before `end`.
template <typename Value>
TARGET static void compute(const Product<Value>& product, std::int64_t begin, std::int64_t end) {
    for (std::int64_t column = begin; column < end; column += COLUMNS) {
        const int count = static_cast<int>(end - column < COLUMNS ? end - column : COLUMNS);
        for (int index = 0; index < product.blocks; ++index) {
            const std::int64_t row = product.first_row(index);
            const int rows = static_cast<int>(product.first_row(index + 1) - row);
            const float* weights =
                static_cast<const float*>(product.prepared) + row * product.inner;
            if (count == COLUMNS) {
                block_of<false>(rows, product, weights, row, column, count);
            } else {
                block_of<true>(rows, product, weights, row, column, count);
            }
        }
    }
}

// Write each of `rows` `repeats` times, every copy with its own mask.
template <typename Value>
TARGET static void repeat(const Product<Value>& product, std::int64_t repeats) {
    for (std::int64_t row = 0; row < product.out_rows; ++row) {
        const Value* source = product.rows + row / repeats * product.rows_stride;
        std::int64_t column = 0;
        for (; column + COLUMNS <= product.columns; column += COLUMNS) {
            finish<false>(load(source + column), product, row, column, COLUMNS);
        }
        if (column < product.columns) {
            const int count = static_cast<int>(product.columns - column);
            finish<true>(load_columns<true>(source + column, count), product, row, column, count);
        }
    }
}

}  // namespace KERNEL
