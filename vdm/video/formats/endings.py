"""Finds files that end within a unit of their container, for containers without a duration."""

from pathlib import Path

_SYNC = 0x47  # first byte of a packet of an MPEG transport stream
# Packets have 188 bytes; alone, after 4 bytes of a time (.m2ts), or before 16 bytes of parity.
_PACKET, _DISTANCES = 188, (188, 192, 204)
_PAGE, _PAGE_HEADER, _MAX_PAGE = b"OggS\0", 27, 27 + 255 + 255 * 255


def ends_within_unit(path: Path, container: str) -> bool:
    """Returns whether a file ends within a packet of a transport stream, or within an Ogg page.

    Args:
      path: path of the file.
      container: FFmpeg's name of the container; False for all but 'mpegts' and 'ogg'.
    """
    if container not in ("mpegts", "ogg"):
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * _MAX_PAGE))
        tail = file.read()
    return _ends_within_packet(tail) if container == "mpegts" else _ends_within_page(tail)


def _ends_within_packet(tail: bytes) -> bool:
    """Whether a tail of packets is incomplete; False if its last bytes are no packets."""
    for distance in _DISTANCES:
        part = tail[-16 * distance :]
        for last in range(len(part) - distance, len(part)):
            starts = part[last % distance :: distance]
            if starts.count(_SYNC) == len(starts) > 3:
                return len(part) - last < _PACKET
    return False


def _ends_within_page(tail: bytes) -> bool:
    """Whether the last page of a tail is incomplete; False if there is none."""
    header = tail[tail.rfind(_PAGE) :] if _PAGE in tail else b""
    if not header:
        return False
    if len(header) < _PAGE_HEADER:
        return True
    segments = header[_PAGE_HEADER : _PAGE_HEADER + header[26]]
    return len(header) < _PAGE_HEADER + header[26] + sum(segments)
