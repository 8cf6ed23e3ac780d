"""Image files that end early and whose markers all look right."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import tifffile
from PIL import Image

WIDTH, HEIGHT = 64, 48

_BLOCKS = np.random.default_rng(0).integers(40, 220, (HEIGHT // 4, WIDTH // 4, 3))
PIXELS = np.kron(_BLOCKS, np.ones((4, 4, 1))).astype(np.uint8)
IMAGE = Image.fromarray(PIXELS)


def encoded(kind: str, image: Image.Image = IMAGE, **options: Any) -> bytes:
    """Return an image as a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(share: float, image: Image.Image = IMAGE, **options: Any) -> bytes:
    """Return a JPEG of which a share of the bytes is there, with an end marker behind them."""
    data = encoded("JPEG", image, quality=90, **options)
    return data if share == 1 else data[: int(len(data) * share)] + b"\xff\xd9"


def png(rows: int, *, interlaced: bool = False, level: int | None = None) -> bytes:
    """Return a PNG with so many of its rows, its checksums right and its end there; of one level, or of the image."""
    pixels = PIXELS if level is None else np.full_like(PIXELS, level)
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = [b"\0" + line.tobytes() for x, y, dx, dy in passes for line in pixels[y::dy, x::dx]]
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, int(interlaced))
    body = zlib.compress(b"".join(lines[: len(lines) * rows // HEIGHT]))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*one) for one in [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")])


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def gif(num_pixels: int) -> bytes:
    """Return a GIF whose data tell so many pixels and then say that they end: plain codes of nine bits."""
    codes = [code for index, value in enumerate(PIXELS[:, :, 0].ravel()[:num_pixels].tolist())
             for code in ([256, value] if index % 200 == 0 else [value])]  # fmt: skip
    bits = sum(code << 9 * place for place, code in enumerate([*codes, 257]))
    data = bits.to_bytes((9 * (len(codes) + 1) + 7) // 8, "little")
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    palette = bytes(level for level in range(256) for _ in range(3))
    size = struct.pack("<HH", WIDTH, HEIGHT)
    return b"GIF89a" + size + b"\xf7\0\0" + palette + b"," + bytes(4) + size + b"\0\x08" + blocks + b"\0;"


def webp(share: float, **options: Any) -> bytes:
    """Return a WebP whose only chunk has a share of its bytes and says so."""
    data = encoded("WEBP", **options)
    name, size = data[12:16], int.from_bytes(data[16:20], "little")
    assert name in (b"VP8 ", b"VP8L")
    body = data[20 : 20 + int(size * share)]
    body += bytes(len(body) % 2)
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBP" + name + struct.pack("<I", len(body)) + body


def bmp(share: float) -> bytes:
    """Return a BMP of runs that says after a share of its rows that it is at its end."""
    rows = b"".join(
        b"".join(bytes([1, level]) for level in line) + b"\0\0" for line in PIXELS[: int(HEIGHT * share), :, 0].tolist()
    )
    body, palette = rows + b"\0\1", bytes(level * (band < 3) for level in range(256) for band in range(4))
    start = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(body), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body


def tiff(share: float, compression: str, mode: str = "RGB", *, missing: bool = False) -> bytes:
    """Return a TIFF whose last strip has a share of its bytes, or which has a share of its strips; its tags say so."""
    data = bytearray(encoded("TIFF", IMAGE.convert(mode), compression=compression, tiffinfo={278: 16}))
    with tifffile.TiffFile(BytesIO(bytes(data))) as file:
        page: Any = file.pages.first
        tags = page.tags
        starts, lengths = tags[273], tags[279]
        letter = {3: "H", 4: "I"}[int(lengths.dtype)]
        if missing:
            for tag in (starts, lengths):
                struct.pack_into("<I", data, tag.offset + 4, max(1, int(tag.count * share)))
            return bytes(data)
        kept = int(lengths.value[-1] * share)
        struct.pack_into("<" + letter, data, lengths.valueoffset + (lengths.count - 1) * struct.calcsize(letter), kept)
        start, end = starts.value[-1] + kept, starts.value[-1] + lengths.value[-1]
    data[start:end] = bytes(end - start)
    if compression == "group4" and share < 1:  # an end marker in the place of the last whole bytes
        data[start - 3 : start] = bytes([0x00, 0x10, 0x01])
    return bytes(data)
