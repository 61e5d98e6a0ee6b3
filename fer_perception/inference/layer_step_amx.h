// SPDX-License-Identifier: Apache-2.0
// One step of a streaming layer in bf16 by the matrix unit AMX, a few Monte Carlo streams at a
// time: what passes between its products stays in the second cache, and while the matrix unit
// multiplies with the topology, the ring of the layer is fetched from memory. A part of
// row_product.cpp, which includes it behind row_product_amx.h; layer_step.py describes the arguments.

namespace amx {

#define TARGET                                                                                  \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,"    \
                          "amx-bf16")))

constexpr std::int64_t EDGES = 32;  // of a pair of tiles: the edges are a multiple of it
constexpr std::int64_t LINE_BYTES = 64;
constexpr std::int64_t SCRATCH_BYTES = 256 * 1024;  // that the streams of a part may take
constexpr std::int64_t RING_BYTES = 384 * 1024;

struct Layer {
    std::int64_t streams, edges;
    std::int64_t in_channels, out_channels;
    std::int64_t frames, position;  // of the ring, and the newest in it
    std::int64_t subsets;
    bool mixes_first, is_due;
    const Bf16* topology;  // packed
    Bf16* buffer;  // the ring, (frames * out_channels, streams * edges), and below it X
    Product<Bf16> mixing, temporal;  // prepared; rows and out of mixing are set for each part
    std::int64_t part_streams = 0;

    std::int64_t columns() const { return streams * edges; }
    std::int64_t ring_rows() const { return frames * out_channels; }
    Bf16* input() const { return buffer + ring_rows() * columns(); }
    Bf16* slot() const { return buffer + position * out_channels * columns(); }
    std::int64_t scratch_rows() const {  // for each stream
        return (1 + subsets) * (mixes_first ? out_channels : in_channels);
    }
    std::int64_t parts() const { return (streams + part_streams - 1) / part_streams; }

    void choose_parts() {
        const std::int64_t row = edges * sizeof(Bf16);
        const std::int64_t most = std::min(SCRATCH_BYTES / (scratch_rows() * row),
                                           RING_BYTES / (ring_rows() * row));
        const std::int64_t bounded = std::min(std::max<std::int64_t>(most, 1), streams);
        const std::int64_t count = (streams + bounded - 1) / bounded;
        part_streams = (streams + count - 1) / count;
    }
};

// Fetches the columns of many rows into the second cache, a little at every call.
class RowsAhead {
public:
    RowsAhead(const Bf16* rows, std::int64_t stride, std::int64_t count, std::int64_t width,
              std::int64_t calls)
        : next_(reinterpret_cast<const char*>(rows)),
          stride_(stride * static_cast<std::int64_t>(sizeof(Bf16))),
          width_(width * static_cast<std::int64_t>(sizeof(Bf16))),
          left_(count * (width_ / LINE_BYTES)),
          each_((left_ + calls - 1) / std::max<std::int64_t>(calls, 1)) {}

    inline __attribute__((always_inline)) void fetch() {
        for (std::int64_t line = 0; line < each_ && left_ > 0; ++line, --left_) {
            __builtin_prefetch(next_ + offset_, 0, 2);
            offset_ += LINE_BYTES;
            if (offset_ == width_) {
                offset_ = 0;
                next_ += stride_;
            }
        }
    }

private:
    const char* next_;
    std::int64_t offset_ = 0;
    const std::int64_t stride_, width_;
    std::int64_t left_;
    const std::int64_t each_;
};

// Lay out topologies (matrices, edges, edges) as pairs of tiles: for each 32 edges of the result,
// for each 32 edges of the input, one tile for the first 16 of the result and one for the others.
void pack_topology(const float* topology, std::int64_t matrices, std::int64_t edges,
                   Bf16* packed) {
    for (std::int64_t matrix = 0; matrix < matrices; ++matrix) {
        const float* values = topology + matrix * edges * edges;
        for (std::int64_t pair = 0; pair < edges; pair += EDGES) {
            for (std::int64_t inner = 0; inner < edges; inner += TILE_INNER) {
                for (std::int64_t half = 0; half < EDGES; half += TILE_ROWS) {
                    for (std::int64_t index = 0; index < TILE_VALUES; ++index) {
                        const std::int64_t row = index / TILE_INNER * 2 + index % 2;
                        const std::int64_t column = index % TILE_INNER / 2;
                        *packed++ =
                            narrowed(values[(inner + row) * edges + pair + half + column]);
                    }
                }
            }
        }
    }
}

TARGET inline __m512i joined(__m512 first, __m512 second) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}

// Multiply features with topologies and sum up: features (matrices, count, edges), `distance`
// values from one matrix to the next. Calls finish(row, edge, first 16 sums, other 16 sums).
// Reads up to 31 rows behind the last.
template <typename Finish>
TARGET inline __attribute__((always_inline)) void multiply_topology(
    const Bf16* features, std::int64_t count, std::int64_t distance, const Bf16* topology,
    std::int64_t matrices, std::int64_t edges, RowsAhead& ahead, const Finish& finish) {
    alignas(64) float sums[2 * TILE_ROWS * EDGES];
    const std::int64_t row_bytes = edges * sizeof(Bf16);
    const std::int64_t sum_bytes = EDGES * sizeof(float);
    const std::int64_t inner_tiles = edges / TILE_INNER;
    for (std::int64_t edge = 0; edge < edges; edge += EDGES) {
        for (std::int64_t begin = 0; begin < count; begin += 2 * TILE_ROWS) {
            const bool has_lower = begin + TILE_ROWS < count;
            asm volatile("" ::: "memory");
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (std::int64_t matrix = 0; matrix < matrices; ++matrix) {
                const Bf16* upper = features + matrix * distance + begin * edges;
                const Bf16* lower = upper + TILE_ROWS * edges;
                const Bf16* weights = topology + matrix * edges * edges + edge * edges;
                for (std::int64_t tile = 0; tile < inner_tiles; ++tile) {
                    _tile_loadd(4, upper + tile * TILE_INNER, row_bytes);
                    _tile_loadd(6, weights, TILE_BYTES);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_loadd(7, weights + TILE_VALUES, TILE_BYTES);
                    _tile_dpbf16ps(1, 4, 7);
                    if (has_lower) {
                        _tile_loadd(5, lower + tile * TILE_INNER, row_bytes);
                        _tile_dpbf16ps(2, 5, 6);
                        _tile_dpbf16ps(3, 5, 7);
                    }
                    weights += 2 * TILE_VALUES;
                    ahead.fetch();
                }
            }
            _tile_stored(0, sums, sum_bytes);
            _tile_stored(1, sums + TILE_ROWS, sum_bytes);
            if (has_lower) {
                _tile_stored(2, sums + TILE_ROWS * EDGES, sum_bytes);
                _tile_stored(3, sums + TILE_ROWS * EDGES + TILE_ROWS, sum_bytes);
            }
            asm volatile("" ::: "memory");
            const std::int64_t rows = std::min<std::int64_t>(count - begin, 2 * TILE_ROWS);
            for (std::int64_t row = 0; row < rows; ++row) {
                const float* values = sums + row * EDGES;
                finish(begin + row, edge, _mm512_load_ps(values),
                       _mm512_load_ps(values + TILE_ROWS));
            }
        }
    }
}

// The newest spatial output of some streams, U before W: ReLU(mixing @ [X; U_1 X; ...]).
TARGET void mix_last(const Layer& layer, std::int64_t begin, std::int64_t width, Bf16* scratch,
                     RowsAhead& ahead) {
    const std::int64_t rows = layer.in_channels * (width / layer.edges);
    for (std::int64_t channel = 0; channel < layer.in_channels; ++channel) {
        std::memcpy(scratch + channel * width,
                    layer.input() + channel * layer.columns() + begin, width * sizeof(Bf16));
    }
    for (std::int64_t subset = 0; subset < layer.subsets; ++subset) {
        Bf16* mapped = scratch + (1 + subset) * rows * layer.edges;
        multiply_topology(
            scratch, rows, 0, layer.topology + subset * layer.edges * layer.edges, 1,
            layer.edges, ahead,
            [&](std::int64_t row, std::int64_t edge, __m512 first, __m512 second) TARGET {
                _mm512_store_si512(mapped + row * layer.edges + edge, joined(first, second));
            });
    }
    Product<Bf16> mixing = layer.mixing;
    mixing.rows = scratch;
    mixing.rows_stride = width;
    mixing.out = layer.slot() + begin;
    mixing.out_stride = layer.columns();
    mixing.columns = width;
    mixing.relu = true;
    compute(mixing, 0, width);
}

// The same, W before U: ReLU(Y_0 + U_1 Y_1 + ...), Y = mixing @ X.
TARGET void mix_first(const Layer& layer, std::int64_t begin, std::int64_t width, Bf16* scratch,
                      RowsAhead& ahead) {
    Product<Bf16> mixing = layer.mixing;
    mixing.rows = layer.input() + begin;
    mixing.rows_stride = layer.columns();
    mixing.out = scratch;
    mixing.out_stride = width;
    mixing.columns = width;
    compute(mixing, 0, width);
    const std::int64_t streams = width / layer.edges;
    const std::int64_t rows = layer.out_channels * streams;
    const __m512 zero = _mm512_setzero_ps();
    multiply_topology(
        scratch + rows * layer.edges, rows, rows * layer.edges, layer.topology, layer.subsets,
        layer.edges, ahead,
        [&](std::int64_t row, std::int64_t edge, __m512 first, __m512 second) TARGET {
            const Bf16* residual = scratch + row * layer.edges + edge;
            const auto half = [&](const Bf16* source) TARGET {
                const __m256i narrow = _mm256_load_si256(reinterpret_cast<const __m256i*>(source));
                return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
            };
            // Of two operands, one of them NaN, the second is taken.
            first = _mm512_max_ps(zero, _mm512_add_ps(first, half(residual)));
            second = _mm512_max_ps(zero, _mm512_add_ps(second, half(residual + TILE_ROWS)));
            Bf16* target = layer.slot() + row / streams * layer.columns() + begin +
                           row % streams * layer.edges + edge;
            _mm512_store_si512(target, joined(first, second));
        });
}

// Step some of the streams.
TARGET void step_part(const void* argument, std::int64_t part) {
    const Layer& layer = *static_cast<const Layer*>(argument);
    const std::int64_t first = part * layer.part_streams;
    const std::int64_t streams = std::min(layer.part_streams, layer.streams - first);
    const std::int64_t begin = first * layer.edges, width = streams * layer.edges;
    thread_local Scratch memory;
    constexpr std::int64_t ROWS_BEHIND = 2 * TILE_ROWS;
    Bf16* scratch =
        memory.lend<Bf16>((layer.scratch_rows() * streams + ROWS_BEHIND) * layer.edges);

    TileConfiguration before, tiles;
    _tile_storeconfig(&before);
    for (int tile = 0; tile < 8; ++tile) {
        tiles.row_bytes[tile] = TILE_BYTES;
        tiles.rows[tile] = TILE_ROWS;
    }
    asm volatile("" ::: "memory");
    _tile_loadconfig(&tiles);
    const std::int64_t rows =
        (layer.mixes_first ? layer.out_channels : layer.in_channels) * streams;
    const std::int64_t blocks = (rows + 2 * TILE_ROWS - 1) / (2 * TILE_ROWS);
    const std::int64_t tile_steps = layer.subsets * blocks * (layer.edges / EDGES) *
                                    (layer.edges / TILE_INNER);
    RowsAhead ahead(layer.buffer + begin, layer.columns(), layer.is_due ? layer.ring_rows() : 0,
                    width, tile_steps);
    if (layer.mixes_first) {
        mix_first(layer, begin, width, scratch, ahead);
    } else {
        mix_last(layer, begin, width, scratch, ahead);
    }
    if (layer.is_due) compute(layer.temporal, begin, begin + width);
    if (before.palette == 0) {
        _tile_release();
    } else {
        _tile_loadconfig(&before);
    }
}

#undef TARGET

}  // namespace amx
