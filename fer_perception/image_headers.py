# SPDX-License-Identifier: Apache-2.0
"""
What a JPEG or PNG image says of itself, read and put right before anything is decoded.

A decoder takes memory for what an image claims: for its pixels, and OpenCV's for every chunk of a
PNG, up to 4 GB each, whether or not the bytes are there. And it crashes on damaged animated PNGs
(5.0 does; see opencv/opencv#27744), so that only the chunks that pixels need reach it.
"""

import struct
from collections.abc import Iterator

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
PNG_START = PNG_SIGNATURE + b'\x00\x00\x00\x0dIHDR'  # and length and name of the first chunk
PNG_END = b'IEND'
PNG_PIXELS = frozenset({b'IHDR', b'PLTE', b'IDAT', PNG_END})  # the critical chunks
JPEG_START = b'\xff\xd8'
JPEG_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # markers of frame headers
JPEG_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})  # markers without a segment
JPEG_LAST = frozenset({0xD9, 0xDA})  # end, or begin of the pixels: no size has come
MAX_SEGMENTS = 10_000  # before a size


def claimed_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels as the header has them.

    None for what is neither JPEG (ISO/IEC 10918-1) nor PNG (ISO/IEC 15948), a JPEG that ends
    before it tells its size, and a PNG that ends before its last chunk.
    """
    try:
        if data.startswith(PNG_START):
            for _ in _chunks(data):
                pass  # all are there
            width, height = struct.unpack_from('>II', data, len(PNG_START))
        elif data.startswith(JPEG_START):
            height, width = struct.unpack_from('>HH', data, _find_frame_header(data) + 5)
        else:
            return None
    except (IndexError, ValueError, struct.error):
        return None
    return width, height


def without_extras(data: bytes) -> bytes:
    """Return an image that has a size without what its pixels do not need; a JPEG as it is."""
    if not data.startswith(PNG_START):
        return data
    needed = [chunk for name, chunk in _chunks(data) if name in PNG_PIXELS]
    return b''.join([PNG_SIGNATURE, *needed])


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over name and bytes of a PNG's chunks; struct.error if the last is not there."""
    place, name = len(PNG_SIGNATURE), b''
    while name != PNG_END:
        length, name = struct.unpack_from('>I4s', data, place)
        end = place + 12 + length
        struct.unpack_from('>I', data, end - 4)  # the checksum
        yield name, data[place:end]
        place = end


def _find_frame_header(data: bytes) -> int:
    """Return where a JPEG's frame header begins; ValueError or IndexError if it has none."""
    place = len(JPEG_START)
    for _ in range(MAX_SEGMENTS):
        place = data.index(b'\xff', place)  # what lies before it is skipped, as by libjpeg
        while data[place + 1] == 0xFF:
            place += 1
        marker = data[place + 1]
        if marker in JPEG_SIZES:
            return place
        if marker in JPEG_LAST:
            break
        (length,) = (0,) if marker in JPEG_BARE else struct.unpack_from('>H', data, place + 2)
        place += 2 + length
    raise ValueError('there is no frame header')
