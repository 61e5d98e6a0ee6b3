// SPDX-License-Identifier: Apache-2.0
// Evaluates a shape predictor of dlib: cascades of forests of regression trees that move a mean
// shape onto a face (Kazemi and Sullivan 2014). Plain C functions for ctypes; shape_predictor.py
// describes and checks the arguments.
//
// A fit reads one leaf of each of some thousand trees: little of it is arithmetic, most of it is
// waiting for memory that other work has pushed out of the caches. So the splits are small (4
// bytes each), all lies in the order in which it is read, leaves are fetched ahead, and all fits
// of an image go through a forest together, as they mostly reach the same leaves.
//
// Sums are made in dlib's order, one number after the other, so that the shapes are dlib's, and
// neither the other fits of a call nor the number of threads has any influence on them. A shape
// that is off by a thousandth of a pixel may look at other pixels and reach other leaves: with
// leaves rounded to 16 bits a third of a face's points came out on other pixels than dlib's.
//
// The file is not trusted: no size in it is believed before as many bytes were read. A model takes
// less memory than its file, and twice that while it is read; one of few points some times more,
// as each leaf starts at an even place.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

// A function that the library holds in two forms, one for processors with AVX2, and takes the best
// of when it is loaded. Both make the same sums: only how many at once differs.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define TWO_FORMS 1
#define IN_TWO_FORMS __attribute__((target_clones("avx2", "default")))
#else
#define TWO_FORMS 0
#define IN_TWO_FORMS
#endif

namespace {

constexpr std::uint64_t LARGEST_DEPTH = 12;  // of a tree: levels of splits
constexpr std::uint64_t LARGEST_TREES = 100000;  // of a forest
constexpr std::uint64_t LARGEST_CASCADE = 1000;  // forests
constexpr std::uint64_t LARGEST_POINTS = 4096;
constexpr int PIXEL_BITS = 11;  // of the number of a pixel in a split
constexpr std::uint64_t LARGEST_PIXELS = 1 << PIXEL_BITS;  // of a forest
constexpr float LARGEST_VALUE = 1000.0f;  // in sides of the box; faces stay near 1
constexpr int LARGEST_THREADS = 64;

constexpr int BLOCK_COLUMNS = 48;  // of a leaf, whose sums stay in registers
constexpr std::size_t BLOCK_PIXELS = 64;  // that are looked up together
constexpr int BLOCK_TREES = 128;  // whose leaves are fetched before they are added
constexpr std::size_t LINE = 64;  // bytes of the cache
constexpr std::size_t LARGE_PAGE = std::size_t{1} << 21;  // bytes

struct Freed {
    void operator()(void* memory) const { std::free(memory); }
};

// Numbers from the start of a cache line on, all 0 at first. Many lie in large pages, where the
// system has them: of the leaves each fit reads a few lines all over, and to look up where a small
// page lies takes as long as to read it.
template <typename Value>
class Lines {
public:
    Lines() = default;

    explicit Lines(std::size_t count) {
        const std::size_t bytes = count * sizeof(Value);
        const std::size_t unit = bytes < LARGE_PAGE ? LINE : LARGE_PAGE;
        const std::size_t size = (bytes / unit + 1) * unit;
        values_.reset(static_cast<Value*>(std::aligned_alloc(unit, size)));
        if (!values_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (unit == LARGE_PAGE) madvise(values_.get(), size, MADV_HUGEPAGE);
#endif
        std::memset(values_.get(), 0, size);
    }

    Value* data() const { return values_.get(); }

private:
    std::unique_ptr<Value, Freed> values_;
};

struct Offset {
    float x, y;
};

struct Forest {
    std::uint64_t trees = 0;
    // Of each pixel: the point that it goes with, and how far it is from it in the mean shape.
    // Pixels without a use fill up the last block.
    std::size_t pixels = 0;
    std::vector<std::uint32_t> anchors;
    std::vector<Offset> deltas;
    Lines<std::uint32_t> splits;  // (trees, leaves); the last of each tree is not used
    const float* leaves = nullptr;  // (trees * leaves, columns), within the model's
};

struct Model {
    std::uint64_t points = 0;
    std::size_t columns = 0;  // of a leaf: x and y of each point, and zeros
    int depth = 0;
    std::vector<float> mean;  // (points, 2), in sides of the box
    std::vector<Forest> forests;
    Lines<float> all_leaves;  // of all forests, one after the other

    std::size_t leaves() const { return std::size_t{1} << depth; }  // of a tree
};

// What is wrong with a file.
struct Damage : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Reads the numbers of a file in dlib's format.
//
// A whole number is a byte that says how many bytes follow and, by its highest bit, whether it is
// negative; then its magnitude, lowest byte first. A float is a mantissa and a power of two, both
// whole numbers.
class Reader {
public:
    explicit Reader(const char* path) : file_(std::fopen(path, "rb")) {
        if (!file_) throw Damage("the file cannot be opened");
        buffer_.resize(BUFFER);
    }

    ~Reader() { std::fclose(file_); }

    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    // Read a number of 0 to `largest`.
    std::uint64_t number(std::uint64_t largest, const char* what) {
        const std::int64_t value = whole();
        if (value < 0 || static_cast<std::uint64_t>(value) > largest) throw Damage(what);
        return static_cast<std::uint64_t>(value);
    }

    // Read a number that is any.
    float real() {
        const std::int64_t mantissa = whole();
        const std::int64_t power = whole();
        constexpr std::int64_t LARGEST_POWER = 1000;  // beyond are marks of infinity and NaN
        if (power > LARGEST_POWER || power < -LARGEST_POWER) {
            throw Damage("it has a number that is infinite or no number");
        }
        // Nearly all mantissas have 24 bits and powers that a float has as well.
        if (power >= -126 && power <= 127) {
            const std::uint32_t bits = static_cast<std::uint32_t>(power + 127) << 23;
            float factor;
            std::memcpy(&factor, &bits, sizeof factor);
            return static_cast<float>(mantissa) * factor;
        }
        return std::ldexp(static_cast<float>(mantissa), static_cast<int>(power));
    }

    // Read a number of a shape, in sides of the box.
    float coordinate() {
        const float value = real();
        if (!(std::fabs(value) <= LARGEST_VALUE)) {
            throw Damage("it has a coordinate that is no number or far outside of a face");
        }
        return value;
    }

    // Read the head of a column vector and return its length.
    std::uint64_t column(std::uint64_t largest) {
        const std::int64_t rows = whole();
        const std::int64_t columns = whole();
        // Both are negative since dlib 17.
        if ((columns != -1 || rows > 0) && (columns != 1 || rows < 0)) {
            throw Damage("it has a matrix where a column was expected");
        }
        const std::uint64_t length = rows < 0 ? -static_cast<std::uint64_t>(rows) : rows;
        if (length > largest) throw Damage("it has a column that is too long");
        return length;
    }

    bool at_end() {
        if (begin_ == end_) fill();
        return begin_ == end_;
    }

private:
    static constexpr std::size_t BUFFER = std::size_t{1} << 18;
    static constexpr std::size_t LONGEST = 9;  // bytes of a number

    std::int64_t whole() {
        if (end_ - begin_ < LONGEST) fill();
        const std::size_t held = end_ - begin_;
        if (held == 0) throw Damage("it ends too early");
        const unsigned char* bytes = buffer_.data() + begin_;
        const unsigned head = bytes[0];
        const std::size_t size = head & 0x0fu;
        if (size == 0 || size > 8 || (head & 0x70u) != 0) {
            throw Damage("it has other bytes where a number was expected");
        }
        if (held <= size) throw Damage("it ends too early");
        std::uint64_t value = 0;
        for (std::size_t place = size; place > 0; --place) value = value << 8 | bytes[place];
        if (value >> 62 != 0) throw Damage("it has a number that is too large");
        begin_ += size + 1;
        const std::int64_t magnitude = static_cast<std::int64_t>(value);
        return (head & 0x80u) != 0 ? -magnitude : magnitude;
    }

    void fill() {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
        end_ += std::fread(buffer_.data() + end_, 1, BUFFER - end_, file_);
    }

    std::FILE* file_;
    std::vector<unsigned char> buffer_;
    std::size_t begin_ = 0, end_ = 0;
};

// Pack a split: go left if pixel `first` is brighter than pixel `second` by more than `threshold`.
std::uint32_t packed(std::uint64_t first, std::uint64_t second, float threshold) {
    // Differences of pixels are whole numbers of -255 to 255. A NaN is above all of them.
    constexpr float NEVER = 255.0f, ALWAYS = -256.0f;
    const float least = threshold < NEVER ? std::max(std::floor(threshold), ALWAYS) : NEVER;
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(least)) << (2 * PIXEL_BITS) |
           static_cast<std::uint32_t>(first) << PIXEL_BITS | static_cast<std::uint32_t>(second);
}

// Read a tree's splits and leaves, and set the model's depth by the first.
void read_tree(Reader& reader, Model& model, std::vector<std::uint32_t>& splits,
               std::vector<float>& leaves) {
    const std::uint64_t splits_count = reader.number(
        (std::uint64_t{1} << LARGEST_DEPTH) - 1, "it has a tree with too many splits");
    if (model.depth == 0) {
        while ((std::uint64_t{1} << model.depth) <= splits_count) ++model.depth;
    }
    if (model.depth == 0 || splits_count != model.leaves() - 1) {
        throw Damage("its trees are not complete and equally deep");
    }
    for (std::uint64_t split = 0; split < splits_count; ++split) {
        const char* what = "it has a split of a pixel that there is not";
        const std::uint64_t first = reader.number(LARGEST_PIXELS - 1, what);
        const std::uint64_t second = reader.number(LARGEST_PIXELS - 1, what);
        splits.push_back(packed(first, second, reader.real()));
    }
    splits.push_back(0);
    const char* what = "it has a tree with another number of leaves than its splits make";
    if (reader.number(model.leaves(), what) != model.leaves()) throw Damage(what);
    for (std::size_t leaf = 0; leaf < model.leaves(); ++leaf) {
        if (reader.column(2 * model.points) != 2 * model.points) {
            throw Damage("it has a leaf with another number of points than the mean shape");
        }
        for (std::uint64_t place = 0; place < 2 * model.points; ++place) {
            leaves.push_back(reader.coordinate());
        }
    }
}

// Read a forest; the numbers of its leaves go to `leaves`, (trees * leaves, points * 2).
Forest read_forest(Reader& reader, Model& model, std::vector<float>& leaves) {
    Forest forest;
    forest.trees = reader.number(LARGEST_TREES, "it has a forest with too many trees");
    std::vector<std::uint32_t> splits;
    for (std::uint64_t tree = 0; tree < forest.trees; ++tree) {
        read_tree(reader, model, splits, leaves);
    }
    forest.splits = Lines<std::uint32_t>(splits.size());
    std::copy(splits.begin(), splits.end(), forest.splits.data());
    return forest;
}

// Put the leaves of all forests side by side, each from the start of a cache line on.
void store_leaves(Model& model, std::vector<std::vector<float>>& leaves) {
    const std::size_t width = 2 * model.points;
    std::size_t count = 0;
    for (const std::vector<float>& own : leaves) count += own.size() / width;
    model.all_leaves = Lines<float>(count * model.columns);
    float* place = model.all_leaves.data();
    for (std::size_t forest = 0; forest < leaves.size(); ++forest) {
        model.forests[forest].leaves = place;
        const std::vector<float> own = std::move(leaves[forest]);  // freed when copied
        for (std::size_t begin = 0; begin < own.size(); begin += width) {
            std::copy_n(own.data() + begin, width, place);
            place += model.columns;
        }
    }
}

void check_splits(const Model& model, const Forest& forest) {
    constexpr std::uint32_t MASK = LARGEST_PIXELS - 1;
    for (std::size_t place = 0; place < forest.trees * model.leaves(); ++place) {
        if ((place + 1) % model.leaves() == 0) continue;  // not used
        const std::uint32_t split = forest.splits.data()[place];
        if ((split & MASK) >= forest.pixels || (split >> PIXEL_BITS & MASK) >= forest.pixels) {
            throw Damage("it has a split of a pixel that there is not");
        }
    }
}

std::unique_ptr<Model> read_model(const char* path) {
    Reader reader(path);
    auto model = std::make_unique<Model>();
    const char* what = "its version is not 1";
    if (reader.number(1, what) != 1) throw Damage(what);
    const std::uint64_t width = reader.column(2 * LARGEST_POINTS);
    if (width == 0 || width % 2 != 0) throw Damage("its mean shape has no points");
    model->points = width / 2;
    model->columns = (width + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS * BLOCK_COLUMNS;
    for (std::uint64_t place = 0; place < width; ++place) {
        model->mean.push_back(reader.coordinate());
    }
    const std::uint64_t count = reader.number(LARGEST_CASCADE, "it has too many forests");
    std::vector<std::vector<float>> leaves;
    for (std::uint64_t forest = 0; forest < count; ++forest) {
        leaves.emplace_back();
        model->forests.push_back(read_forest(reader, *model, leaves.back()));
    }
    store_leaves(*model, leaves);
    what = "it has pixels for another number of forests";
    if (reader.number(count, what) != count) throw Damage(what);
    for (Forest& forest : model->forests) {
        const std::uint64_t pixels = reader.number(LARGEST_PIXELS, "it has too many pixels");
        for (std::uint64_t pixel = 0; pixel < pixels; ++pixel) {
            forest.anchors.push_back(static_cast<std::uint32_t>(
                reader.number(model->points - 1, "it has a pixel at a point that there is not")));
        }
        forest.pixels = pixels;
        check_splits(*model, forest);
    }
    if (reader.number(count, what) != count) throw Damage(what);
    for (Forest& forest : model->forests) {
        what = "it has another number of offsets than of pixels";
        if (reader.number(forest.pixels, what) != forest.pixels) throw Damage(what);
        for (std::uint64_t pixel = 0; pixel < forest.pixels; ++pixel) {
            const float x = reader.coordinate();
            forest.deltas.push_back({x, reader.coordinate()});
        }
        const std::size_t filled =
            (forest.pixels + BLOCK_PIXELS - 1) / BLOCK_PIXELS * BLOCK_PIXELS;
        forest.anchors.resize(filled, 0);
        forest.deltas.resize(filled, {0.0f, 0.0f});
    }
    if (!reader.at_end()) throw Damage("more follows behind its end");
    return model;
}

// Where a fit starts.
struct Start {
    std::int32_t patch, left, top, right, bottom;  // the rectangle's first and last pixels
};

// Takes points of a patch to the image: its rows are (a, b, c), for a x + b y + c.
struct ToImage {
    double x[3], y[3];
};

// An image, and the patches of it in which faces are upright. No patch is ever made: a fit looks
// at fewer of its pixels than it has.
struct Patches {
    const std::uint8_t* image;  // (height, width)
    std::int64_t height, width;
    const ToImage* to_image;  // (patches)
    std::int64_t side;  // of a patch, pixels
};

// The state of one fit.
struct Fit {
    const ToImage* to_image;
    double left, top, width, height;  // of the rectangle: a shape's (1, 1) is its last pixel
    float* shape;  // (columns): (points, 2), in sides of the box, and zeros
    std::int16_t* pixels;  // (LARGEST_PIXELS), of the forest
    const float* reached[BLOCK_TREES];  // leaves of a block of trees
};

// The linear part of the similarity that takes the mean shape to a shape with the least squared
// distance: ((a, -b), (b, a)).
struct Turn {
    float a, b;
};

Turn turn_of(const Model& model, const float* shape) {
    const std::uint64_t points = model.points;
    if (points == 1) return {1.0f, 0.0f};
    const float* mean = model.mean.data();
    double from_x = 0, from_y = 0, to_x = 0, to_y = 0;
    for (std::uint64_t point = 0; point < points; ++point) {
        from_x += mean[2 * point];
        from_y += mean[2 * point + 1];
        to_x += shape[2 * point];
        to_y += shape[2 * point + 1];
    }
    const double part = 1.0 / static_cast<double>(points);
    from_x *= part, from_y *= part, to_x *= part, to_y *= part;
    double along = 0, across = 0, size = 0;
    for (std::uint64_t point = 0; point < points; ++point) {
        const double x = mean[2 * point] - from_x, y = mean[2 * point + 1] - from_y;
        const double u = shape[2 * point] - to_x, v = shape[2 * point + 1] - to_y;
        along += x * u + y * v;
        across += x * v - y * u;
        size += x * x + y * y;
    }
    if (size == 0) return {1.0f, 0.0f};
    return {static_cast<float>(along / size), static_cast<float>(across / size)};
}

// Where to look up a block of pixels, and how: each between four pixels of the image.
struct Places {
    float x[BLOCK_PIXELS], y[BLOCK_PIXELS];  // of the points that they go with, sides of the box
    float right[BLOCK_PIXELS], below[BLOCK_PIXELS];  // parts of a pixel
    std::int32_t corner[BLOCK_PIXELS];  // index of the upper left one
    std::int32_t next[BLOCK_PIXELS], under[BLOCK_PIXELS];  // steps to the others; 0 at the border
    std::int32_t inside[BLOCK_PIXELS];  // the patch: -1, else 0
    std::int32_t four[4][BLOCK_PIXELS];  // the values
};

// Return a number, but 0 if it is less or a NaN, and `most` if it is more.
inline double within(double number, double most) {
    const double least = number > 0.0 ? number : 0.0;
    return least < most ? least : most;
}

// Find the places of a block of pixels in the image; beyond it its border is repeated.
IN_TWO_FORMS
void place_pixels(const Patches& patches, const Fit& fit, Turn turn, const Offset* deltas,
                  Places& places) {
    const double left = fit.left + 0.5, top = fit.top + 0.5;  // rounded, then cut off
    const double width = fit.width, height = fit.height;
    const double side = static_cast<double>(patches.side);
    const double last_column = static_cast<double>(patches.width - 1);
    const double last_row = static_cast<double>(patches.height - 1);
    const std::int32_t columns = static_cast<std::int32_t>(patches.width);
    const std::int32_t rows = static_cast<std::int32_t>(patches.height);
    const ToImage to = *fit.to_image;
    for (std::size_t index = 0; index < BLOCK_PIXELS; ++index) {
        const Offset delta = deltas[index];
        const float u = turn.a * delta.x - turn.b * delta.y + places.x[index];
        const float v = turn.b * delta.x + turn.a * delta.y + places.y[index];
        const double x = width * u + left, y = height * v + top;
        const double column = static_cast<std::int32_t>(within(x, side));
        const double row = static_cast<std::int32_t>(within(y, side));
        const double at_x = within(to.x[0] * column + to.x[1] * row + to.x[2], last_column);
        const double at_y = within(to.y[0] * column + to.y[1] * row + to.y[2], last_row);
        const std::int32_t whole_x = static_cast<std::int32_t>(at_x);
        const std::int32_t whole_y = static_cast<std::int32_t>(at_y);
        places.right[index] = static_cast<float>(at_x - whole_x);
        places.below[index] = static_cast<float>(at_y - whole_y);
        places.corner[index] = whole_y * columns + whole_x;
        places.next[index] = whole_x + 1 < columns ? 1 : 0;
        places.under[index] = whole_y + 1 < rows ? columns : 0;
        const std::int32_t inside = (x >= 0.0) & (x < side) & (y >= 0.0) & (y < side);
        places.inside[index] = -inside;
    }
}

// Interpolate between the values that were looked up.
IN_TWO_FORMS
void interpolate(const Places& places, std::int16_t* pixels) {
    for (std::size_t index = 0; index < BLOCK_PIXELS; ++index) {
        const float right = places.right[index], below = places.below[index];
        const float corner = static_cast<float>(places.four[0][index]);
        const float next = static_cast<float>(places.four[1][index]);
        const float under = static_cast<float>(places.four[2][index]);
        const float opposite = static_cast<float>(places.four[3][index]);
        const float upper = corner + right * (next - corner);
        const float lower = under + right * (opposite - under);
        const auto value = static_cast<std::int32_t>(upper + below * (lower - upper) + 0.5f);
        pixels[index] = static_cast<std::int16_t>(value & places.inside[index]);
    }
}

// Look up the pixels of a forest around a fit's points; beyond the patch they are 0.
void look(const Model& model, const Patches& patches, const Forest& forest, Fit& fit) {
    const Turn turn = turn_of(model, fit.shape);
    Places places;
    for (std::size_t begin = 0; begin < forest.anchors.size(); begin += BLOCK_PIXELS) {
        const std::uint32_t* anchors = forest.anchors.data() + begin;
        for (std::size_t index = 0; index < BLOCK_PIXELS; ++index) {
            places.x[index] = fit.shape[2 * anchors[index]];
            places.y[index] = fit.shape[2 * anchors[index] + 1];
        }
        place_pixels(patches, fit, turn, forest.deltas.data() + begin, places);
        for (std::size_t index = 0; index < BLOCK_PIXELS; ++index) {
            const std::uint8_t* corner = patches.image + places.corner[index];
            const std::int32_t next = places.next[index], under = places.under[index];
            places.four[0][index] = corner[0];
            places.four[1][index] = corner[next];
            places.four[2][index] = corner[under];
            places.four[3][index] = corner[under + next];
        }
        interpolate(places, fit.pixels + begin);
    }
}

// Find the leaves that a fit reaches in a block of trees, and fetch them. `KNOWN_DEPTH` is the
// trees' depth, or 0 if that is known only at run time.
template <int KNOWN_DEPTH>
void descend(const Model& model, const Forest& forest, std::uint64_t first_tree,
             std::uint64_t trees, Fit& fit) {
    const int depth = KNOWN_DEPTH > 0 ? KNOWN_DEPTH : model.depth;
    constexpr std::uint32_t MASK = LARGEST_PIXELS - 1;
    const std::size_t leaves = std::size_t{1} << depth, columns = model.columns;
    const std::size_t leaf_bytes = columns * sizeof(float);
    const std::int16_t* pixels = fit.pixels;
    for (std::uint64_t tree = 0; tree < trees; ++tree) {
        const std::uint32_t* splits = forest.splits.data() + (first_tree + tree) * leaves;
        std::size_t node = 0;
        for (int level = 0; level < depth; ++level) {
            const std::uint32_t split = splits[node];
            const std::int32_t difference =
                pixels[split >> PIXEL_BITS & MASK] - pixels[split & MASK];
            const std::int32_t least = static_cast<std::int32_t>(split) >> (2 * PIXEL_BITS);
            node = 2 * node + 2 - (difference > least);
        }
        const std::size_t leaf = (first_tree + tree) * leaves + node - (leaves - 1);
        const float* reached = forest.leaves + leaf * columns;
        fit.reached[tree] = reached;
        const char* bytes = reinterpret_cast<const char*>(reached);
        static_assert(BLOCK_COLUMNS * sizeof(float) == 3 * LINE, "a block of columns is 3 lines");
        for (std::size_t ahead = 0; ahead < leaf_bytes; ahead += 3 * LINE) {
            __builtin_prefetch(bytes + ahead, 0, 2);
            __builtin_prefetch(bytes + ahead + LINE, 0, 2);
            __builtin_prefetch(bytes + ahead + 2 * LINE, 0, 2);
        }
    }
}

typedef float Four __attribute__((vector_size(16)));
typedef float Eight __attribute__((vector_size(32)));

// Add the leaves that a fit has reached to its shape.
template <typename Vector>
inline __attribute__((always_inline)) void add_by(const Model& model, std::uint64_t trees,
                                                  Fit& fit) {
    constexpr int LANES = sizeof(Vector) / sizeof(float), VECTORS = BLOCK_COLUMNS / LANES;
    for (std::size_t column = 0; column < model.columns; column += BLOCK_COLUMNS) {
        Vector sums[VECTORS];
        std::memcpy(sums, fit.shape + column, sizeof sums);
        for (std::uint64_t tree = 0; tree < trees; ++tree) {
            const float* leaf = fit.reached[tree] + column;
#pragma GCC unroll 12
            for (int index = 0; index < VECTORS; ++index) {
                Vector values;
                std::memcpy(&values, leaf + index * LANES, sizeof values);
                sums[index] += values;
            }
        }
        std::memcpy(fit.shape + column, sums, sizeof sums);
    }
}

#if TWO_FORMS
__attribute__((target("avx2"))) void add(const Model& model, std::uint64_t trees, Fit& fit) {
    add_by<Eight>(model, trees, fit);
}

__attribute__((target("default")))
#endif
void add(const Model& model, std::uint64_t trees, Fit& fit) {
    add_by<Four>(model, trees, fit);
}

void run_fits(const Model& model, const Patches& patches, Fit* fits, std::size_t count) {
    constexpr int USUAL_DEPTH = 4;  // of dlib's models
    const auto descend_trees = model.depth == USUAL_DEPTH ? descend<USUAL_DEPTH> : descend<0>;
    for (const Forest& forest : model.forests) {
        for (Fit* fit = fits; fit != fits + count; ++fit) look(model, patches, forest, *fit);
        for (std::uint64_t tree = 0; tree < forest.trees; tree += BLOCK_TREES) {
            const std::uint64_t trees =
                std::min<std::uint64_t>(BLOCK_TREES, forest.trees - tree);
            for (Fit* fit = fits; fit != fits + count; ++fit) {
                descend_trees(model, forest, tree, trees, *fit);
            }
            for (Fit* fit = fits; fit != fits + count; ++fit) add(model, trees, *fit);
        }
    }
}

// The memory of the fits of one thread.
class Scratch {
public:
    Scratch(const Model& model, const Patches& patches, const Start* starts, std::size_t count)
        : fits_(count),
          shapes_(count * model.columns),
          pixels_(count * LARGEST_PIXELS) {
        for (std::size_t index = 0; index < count; ++index) {
            const Start& start = starts[index];
            Fit& fit = fits_[index];
            fit.to_image = patches.to_image + start.patch;
            fit.left = start.left;
            fit.top = start.top;
            fit.width = static_cast<double>(start.right) - start.left;
            fit.height = static_cast<double>(start.bottom) - start.top;
            fit.shape = shapes_.data() + index * model.columns;
            fit.pixels = pixels_.data() + index * LARGEST_PIXELS;
            std::copy(model.mean.begin(), model.mean.end(), fit.shape);
        }
    }

    void run(const Model& model, const Patches& patches, float* points) {
        run_fits(model, patches, fits_.data(), fits_.size());
        for (const Fit& fit : fits_) {
            for (std::uint64_t point = 0; point < model.points; ++point) {
                *points++ = static_cast<float>(fit.width * fit.shape[2 * point] + fit.left);
                *points++ = static_cast<float>(fit.height * fit.shape[2 * point + 1] + fit.top);
            }
        }
    }

private:
    std::vector<Fit> fits_;
    Lines<float> shapes_;
    Lines<std::int16_t> pixels_;
};

void fit_all(const Model& model, const Patches& patches, const Start* starts, std::size_t count,
             std::size_t threads, float* points) {
    // Memory is taken before a thread starts, so that nothing can fail in one.
    std::vector<std::unique_ptr<Scratch>> parts;
    std::vector<float*> results;
    for (std::size_t part = 0; part < threads; ++part) {
        const std::size_t begin = part * count / threads, end = (part + 1) * count / threads;
        parts.push_back(
            std::make_unique<Scratch>(model, patches, starts + begin, end - begin));
        results.push_back(points + begin * model.mean.size());
    }
    std::vector<std::thread> helpers;
    helpers.reserve(threads);
    std::size_t part = 1;
    try {
        for (; part < threads; ++part) {
            helpers.emplace_back([&, part] {
                parts[part]->run(model, patches, results[part]);
            });
        }
    } catch (const std::exception&) {  // no more threads: do the rest here
        for (; part < threads; ++part) parts[part]->run(model, patches, results[part]);
    }
    parts[0]->run(model, patches, results[0]);
    for (std::thread& helper : helpers) helper.join();
}

}  // namespace

extern "C" {

// Version of these functions, as shape_predictor.py expects it.
int shape_predictor_interface() { return 2; }

// Read a model; null if that fails, and then a reason in `reason`.
void* shape_predictor_open(const char* path, char* reason, std::size_t reason_size) {
    try {
        return read_model(path).release();
    } catch (const Damage& damage) {
        std::snprintf(reason, reason_size, "%s", damage.what());
        return nullptr;
    } catch (const std::exception&) {
        std::snprintf(reason, reason_size, "there is not enough memory for it");
        return nullptr;
    }
}

void shape_predictor_close(void* model) { delete static_cast<Model*>(model); }

std::int64_t shape_predictor_points(const void* model) {
    return static_cast<std::int64_t>(static_cast<const Model*>(model)->points);
}

// Set `points` (starts, points, 2) to the results of fits. `image` (height, width); `to_image`
// (patches, 2, 3); `starts` (starts, 5): patch, left, top, right, bottom. Returns 0, or 1 if there
// is no memory.
int shape_predictor_fit(const void* model, const std::uint8_t* image, std::int64_t height,
                        std::int64_t width, const double* to_image, std::int64_t side,
                        const std::int32_t* starts, std::int64_t count, std::int64_t threads,
                        float* points) {
    if (count <= 0) return 0;
    try {
        const auto used = std::min({threads, count, std::int64_t{LARGEST_THREADS}});
        static_assert(sizeof(Start) == 5 * sizeof(std::int32_t), "starts are rows of 5 numbers");
        static_assert(sizeof(ToImage) == 6 * sizeof(double), "matrices are 6 numbers");
        const Patches patches{image, height, width,
                              reinterpret_cast<const ToImage*>(to_image), side};
        fit_all(*static_cast<const Model*>(model), patches,
                reinterpret_cast<const Start*>(starts), static_cast<std::size_t>(count),
                static_cast<std::size_t>(used), points);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

}  // extern "C"
