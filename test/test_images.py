# SPDX-License-Identifier: Apache-2.0
"""Image messages become the image that was put in, and damaged ones a clear error."""

from __future__ import annotations

import array
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_perception.image_headers import JPEG_START, PNG_SIGNATURE, PNG_START, claimed_size
from fer_perception.images import ENCODINGS, MAX_PIXELS, ImageError, compressed_to_bgr, to_bgr


@dataclass
class Image:
    """The fields of sensor_msgs/Image."""

    height: int
    width: int
    encoding: str
    step: int
    data: Any
    is_bigendian: int = 0


@dataclass
class CompressedImage:
    """The fields of sensor_msgs/CompressedImage."""

    data: Any
    format: str = 'jpeg'


# Encoding: OpenCV's conversion from BGR, or None for none.
FROM_BGR = {
    'bgr8': None,
    '8UC3': None,
    'rgb8': cv2.COLOR_BGR2RGB,
    'bgra8': cv2.COLOR_BGR2BGRA,
    'rgba8': cv2.COLOR_BGR2RGBA,
    'mono8': cv2.COLOR_BGR2GRAY,
    '8UC1': cv2.COLOR_BGR2GRAY,
    'yuv422': cv2.COLOR_BGR2YUV_UYVY,
    'uyvy': cv2.COLOR_BGR2YUV_UYVY,
    'yuv422_yuy2': cv2.COLOR_BGR2YUV_YUY2,
    'yuyv': cv2.COLOR_BGR2YUV_YUY2,
}
GREY_ENCODINGS = {'mono8', '8UC1'}
LOSSLESS = {'bgr8', '8UC3', 'rgb8', 'bgra8', 'rgba8'}

sizes = st.tuples(st.integers(1, 20), st.integers(1, 10).map(lambda half: 2 * half))


def message_of(
    image: np.ndarray, encoding: str, *, padding: int = 0, big_endian: int = 0
) -> Image:
    """Make the message that a camera driver would make of a BGR image."""
    height, width = image.shape[:2]
    conversion = FROM_BGR[encoding]
    pixels = image if conversion is None else cv2.cvtColor(image, conversion)
    rows = pixels.reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return Image(height, width, encoding, rows.shape[1], rows.tobytes(), big_endian)


def smooth_image(height: int, width: int, seed: int) -> np.ndarray:
    """Return a colour gradient, which halving the colour resolution hardly changes."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3)).astype(np.float32)
    image = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    return image.astype(np.uint8)


def test_all_encodings_are_tested() -> None:
    assert FROM_BGR.keys() == ENCODINGS.keys()


@pytest.mark.parametrize('encoding', sorted(LOSSLESS | GREY_ENCODINGS))
@given(size=sizes, padding=st.integers(0, 9), big_endian=st.sampled_from([0, 1]),
       seed=st.integers(0, 2**32 - 1))
def test_images_come_back_unchanged(
    encoding: str, size: tuple[int, int], padding: int, big_endian: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    result = to_bgr(message_of(image, encoding, padding=padding, big_endian=big_endian))
    if encoding in GREY_ENCODINGS:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    assert result.dtype == np.uint8
    assert result.flags['C_CONTIGUOUS']
    np.testing.assert_array_equal(result, image)


@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'])
@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('colour', [(0, 0, 0), (255, 255, 255), (30, 200, 90), (200, 60, 20)])
def test_video_encodings_keep_the_colour(
    encoding: str, padding: int, colour: tuple[int, int, int]
) -> None:
    image = np.full((4, 6, 3), colour, np.uint8)
    result = to_bgr(message_of(image, encoding, padding=padding))
    assert result.shape == image.shape
    assert np.abs(result.astype(int) - image).max() <= 4


def test_video_encodings_differ_in_their_byte_order() -> None:
    # Two pixels, one bright and one dark, without colour: luma is at odd or at even places.
    data = bytes([128, 235, 128, 16])
    np.testing.assert_array_equal(to_bgr(Image(1, 2, 'yuv422', 4, data))[0, :, 0], [255, 0])
    data = bytes([235, 128, 16, 128])
    np.testing.assert_array_equal(to_bgr(Image(1, 2, 'yuv422_yuy2', 4, data))[0, :, 0], [255, 0])


@pytest.mark.parametrize('wrap', [
    bytes, bytearray, memoryview, lambda data: array.array('B', data),
    lambda data: np.frombuffer(data, np.uint8),
], ids=['bytes', 'bytearray', 'memoryview', 'array', 'numpy'])
def test_any_kind_of_bytes_will_do(wrap: Any) -> None:
    image = smooth_image(5, 8, 1)
    message = message_of(image, 'bgr8')
    message.data = wrap(message.data)
    np.testing.assert_array_equal(to_bgr(message), image)


def test_bgr_without_padding_is_not_copied() -> None:
    message = message_of(smooth_image(5, 8, 1), 'bgr8')
    message.data = np.frombuffer(message.data, np.uint8)
    assert np.shares_memory(to_bgr(message), message.data)


@pytest.mark.parametrize('encoding', sorted(ENCODINGS))
@given(size=sizes, padding=st.integers(0, 9), data=st.data())
def test_truncated_images_are_refused(
    encoding: str, size: tuple[int, int], padding: int, data: st.DataObject
) -> None:
    message = message_of(smooth_image(*size, 0), encoding, padding=padding)
    kept = data.draw(st.integers(0, len(message.data) - 1))
    message.data = message.data[:kept]
    with pytest.raises(ImageError, match='truncated'):
        to_bgr(message)


@given(
    height=st.integers(0, 2**32 - 1), width=st.integers(0, 2**32 - 1),
    step=st.integers(0, 2**32 - 1), encoding=st.sampled_from([*ENCODINGS, 'bayer_rggb8', '']),
    data=st.binary(max_size=300),
)
def test_any_fields_give_an_image_or_an_image_error(
    height: int, width: int, step: int, encoding: str, data: bytes
) -> None:
    try:
        result = to_bgr(Image(height, width, encoding, step, data))
    except ImageError:
        return
    assert result.shape == (height, width, 3)


@pytest.mark.parametrize(('changes', 'text'), [
    ({'encoding': 'bayer_rggb8'}, 'bayer_rggb8.*bgr8'),
    ({'encoding': ''}, 'unknown encoding'),
    ({'width': 0}, 'empty: 0x4'),
    ({'height': 0}, 'empty: 6x0'),
    ({'width': 100_000, 'height': 100_000}, '100000x100000'),
    ({'step': 17}, 'step of 17 bytes'),
    ({'step': 0}, 'step of 0 bytes'),
    ({'data': b''}, 'truncated: 0 bytes'),
    ({'data': array.array('B')}, 'truncated: 0 bytes'),
    ({'data': [1, 2, 3]}, 'must be bytes, not list'),
    ({'encoding': 'yuv422', 'width': 5}, 'even width, not 5'),
])
def test_the_error_says_what_is_wrong(changes: dict[str, Any], text: str) -> None:
    message = message_of(smooth_image(4, 6, 0), 'bgr8')
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(ImageError, match=text):
        to_bgr(message)
    assert issubclass(ImageError, ValueError)


@pytest.mark.parametrize(('suffix', 'tolerance'), [('.png', 0), ('.jpg', 12)])
def test_compressed_images_are_decoded(suffix: str, tolerance: int) -> None:
    image = smooth_image(40, 60, 3)
    ok, data = cv2.imencode(suffix, image)
    assert ok
    for wrap in (bytes, lambda data: array.array('B', data)):
        result = compressed_to_bgr(CompressedImage(wrap(data.tobytes())))
        assert result.shape == image.shape
        assert np.abs(result.astype(int) - image).max() <= tolerance


def test_a_grey_compressed_image_gets_three_channels() -> None:
    ok, data = cv2.imencode('.png', smooth_image(40, 60, 3)[:, :, 0])
    assert ok
    assert compressed_to_bgr(CompressedImage(data)).shape == (40, 60, 3)


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
@pytest.mark.parametrize('part', [0.02, 0.3, 0.7, 0.95])
def test_truncated_compressed_images_are_refused(suffix: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    ok, data = cv2.imencode(suffix, noise)
    assert ok
    with pytest.raises(ImageError):
        compressed_to_bgr(CompressedImage(data[: int(len(data) * part)]))


def test_bytes_after_the_end_of_a_jpeg_do_no_harm() -> None:
    ok, data = cv2.imencode('.jpg', smooth_image(40, 60, 3))
    assert ok
    padded = data.tobytes() + bytes(100)
    assert compressed_to_bgr(CompressedImage(padded)).shape == (40, 60, 3)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        compressed_to_bgr(CompressedImage(data, format='nonsense'))


@pytest.mark.parametrize('suffix', ['.bmp', '.tiff', '.webp'])
def test_other_formats_reach_no_decoder(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ok, data = cv2.imencode(suffix, smooth_image(40, 60, 3))
    assert ok
    monkeypatch.setattr(cv2, 'imdecode', forbidden)
    with pytest.raises(ImageError, match="no whole JPEG or PNG: .* format 'any'"):
        compressed_to_bgr(CompressedImage(data, format='any'))


def forbidden(*_: Any) -> None:
    pytest.fail('decoded')


JPEG_KINDS: list[list[int]] = [
    [],
    [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
    [cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_QUALITY, 100],
]


def jpeg_of(image: np.ndarray, kind: int = 0) -> bytes:
    ok, data = cv2.imencode('.jpg', image, JPEG_KINDS[kind])
    assert ok
    return bytes(data)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack('>BBH', 0xFF, marker, 2 + len(content)) + content


@given(
    size=sizes, kind=st.integers(0, len(JPEG_KINDS) - 1),
    before=st.lists(
        st.one_of(
            # A thumbnail of another size, in the segment where Exif has it; comments; filling.
            st.just(segment(0xE1, b'Exif\0\0' + jpeg_of(np.zeros((8, 8, 3), np.uint8)))),
            st.binary(max_size=20).map(lambda content: segment(0xFE, content)),
            st.just(b'\xff\xff'),
        ),
        max_size=3,
    ),
)
def test_the_size_in_a_header_is_that_of_the_image(
    size: tuple[int, int], kind: int, before: list[bytes]
) -> None:
    image = smooth_image(*size, 0)
    whole = jpeg_of(image, kind)
    jpeg = whole[:2] + b''.join(before) + whole[2:]
    ok, png = cv2.imencode('.png', image)
    assert ok
    for data in (jpeg, png.tobytes()):
        assert claimed_size(data) == (size[1], size[0])
        assert compressed_to_bgr(CompressedImage(data)).shape == image.shape


@given(data=st.binary(max_size=60), start=st.sampled_from([b'', JPEG_START, PNG_START]))
def test_bytes_have_a_size_or_none(data: bytes, start: bytes) -> None:
    size = claimed_size(start + data)
    assert size is None or (len(size) == 2 and min(size) >= 0)


@settings(max_examples=200)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)),
                     min_size=1, max_size=4),
    suffix=st.sampled_from(['.jpg', '.png']), kind=st.integers(0, len(JPEG_KINDS) - 1),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_flipped_compressed_images_are_an_image_or_an_image_error(
    changes: list[tuple[float, int]], suffix: str, kind: int, kept: float
) -> None:
    image = smooth_image(24, 32, 1)
    data = bytearray(
        jpeg_of(image, kind) if suffix == '.jpg' else cv2.imencode('.png', image)[1].tobytes()
    )
    for place, value in changes:
        data[int(place * len(data))] = value
    if suffix == '.png':
        mend_png(data)
    try:
        result = compressed_to_bgr(CompressedImage(data[: round(kept * len(data))]))
    except ImageError:
        return
    assert result.dtype == np.uint8 and result.ndim == 3 and result.shape[2] == 3
    assert 0 < result.shape[0] * result.shape[1] <= MAX_PIXELS


def mend_png(data: bytearray) -> None:
    """Write the right checksums, so that what was changed is read."""
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from('>I', data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            return
        struct.pack_into('>I', data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4


@pytest.mark.parametrize('size', [(20_000, 20_000), (100_000, 100_000), (2**31 - 1, 1)])
def test_a_png_claiming_to_be_huge_is_refused_before_it_is_decoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    header = struct.pack('>IIBBBBB', *size, 8, 2, 0, 0, 0)
    data = (PNG_SIGNATURE + chunk(b'IHDR', header)
            + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b''))
    monkeypatch.setattr(cv2, 'imdecode', forbidden)
    with pytest.raises(ImageError, match=f'{size[0]}x{size[1]} pixels are more than'):
        compressed_to_bgr(CompressedImage(data, format='png'))


@pytest.mark.parametrize('name', [b'IDAT', b'IEND'])
def test_a_png_with_a_chunk_that_is_not_there_is_refused_before_it_is_decoded(
    name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV would take 2 GB of memory for the chunk first."""
    data = bytearray(cv2.imencode('.png', smooth_image(40, 60, 3))[1].tobytes())
    struct.pack_into('>I', data, data.index(name) - 4, 2**31 - 1)
    monkeypatch.setattr(cv2, 'imdecode', forbidden)
    with pytest.raises(ImageError, match='no whole JPEG or PNG'):
        compressed_to_bgr(CompressedImage(data, format='png'))


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack('>I', zlib.crc32(name + content))
    return struct.pack('>I', len(content)) + name + content + checksum


def frame_control(number: int) -> bytes:
    return chunk(b'fcTL', struct.pack('>IIIIIHHBB', number, 64, 48, 0, 0, 1, 10, 0, 0))


ANIMATION = chunk(b'acTL', struct.pack('>II', 3, 0))  # begins one of three pictures


def test_only_what_pixels_need_of_a_png_reaches_the_decoder(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    image = smooth_image(48, 64, 3)
    plain = cv2.imencode('.png', image)[1].tobytes()
    place = plain.index(b'IDAT') - 4
    text = chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(5_000_000), 9))
    extras = ANIMATION + frame_control(0) + text
    decoded: list[bytes] = []
    decode = cv2.imdecode

    def spy(data: np.ndarray, how: int) -> np.ndarray | None:
        decoded.append(data.tobytes())
        return decode(data, how)

    monkeypatch.setattr(cv2, 'imdecode', spy)
    result = compressed_to_bgr(CompressedImage(plain[:place] + extras + plain[place:]))
    assert decoded == [plain]
    np.testing.assert_array_equal(result, image)


READ_IMAGE = """
import sys
from types import SimpleNamespace
from fer_perception.images import compressed_to_bgr

print(compressed_to_bgr(SimpleNamespace(data=sys.stdin.buffer.read(), format='png')).shape)
"""


def test_a_damaged_animation_does_not_end_the_process() -> None:
    """OpenCV jumps back into a function that has returned: opencv/opencv#27744."""
    row = bytes(1 + 3 * 64)  # a filter's number, and pixels
    pictures = [zlib.compress(first + 47 * row) for first in (row, b'\x07' + row[1:])]
    data = (
        PNG_SIGNATURE + chunk(b'IHDR', struct.pack('>IIBBBBB', 64, 48, 8, 2, 0, 0, 0))
        + ANIMATION + chunk(b'IDAT', pictures[0])
        + frame_control(1) + chunk(b'fdAT', struct.pack('>I', 2) + pictures[1])
        + chunk(b'IEND', b'')
    )
    result = subprocess.run([sys.executable, '-c', READ_IMAGE], input=data, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout == b'(48, 64, 3)\n'


def test_a_jpeg_claiming_to_be_huge_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(jpeg_of(smooth_image(40, 60, 3)))
    struct.pack_into('>HH', data, data.index(b'\xff\xc0') + 5, 40_000, 50_000)
    monkeypatch.setattr(cv2, 'imdecode', forbidden)
    with pytest.raises(ImageError, match='50000x40000 pixels are more than'):
        compressed_to_bgr(CompressedImage(data))
