"""PNG files whose texts are longer than Pillow reads: the image without them."""

TEXT_LIMIT = "MAX_TEXT"
"""In Pillow's errors about texts and colour profiles: PngImagePlugin.MAX_TEXT_CHUNK or MAX_TEXT_MEMORY."""

LONG_BYTES = 1 << 20
"""Uncompressed texts up to this stay: Pillow looks for the orientation in them."""

_COMPRESSED = (b"zTXt", b"iCCP")


def without_long_text(content: bytes) -> bytes:
    """A PNG file without its long and its compressed texts and without its colour profile, none of which
    is used here."""
    kept, start = [content[:8]], 8
    while start + 8 <= len(content):
        size, kind = int.from_bytes(content[start : start + 4], "big"), content[start + 4 : start + 8]
        chunk = content[start : start + size + 12]
        if not _is_long_text(kind, chunk[8:-4]):
            kept.append(chunk)
        start += size + 12
    return b"".join(kept)


def _is_long_text(kind: bytes, data: bytes) -> bool:
    if kind == b"iTXt":
        _, _, rest = data.partition(b"\0")  # after the keyword: whether it is compressed
        return rest[:1] == b"\1" or len(data) > LONG_BYTES
    return kind in _COMPRESSED or (kind == b"tEXt" and len(data) > LONG_BYTES)
