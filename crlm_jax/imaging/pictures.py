"""Detects JPEG and BMP pictures that are cut off, of which ITK shows grey or foreign memory."""

from pathlib import Path

from crlm_jax.imaging.geometry import VolumeError

_SCAN, _END = b"\xff\xda", b"\xff\xd9"  # JPEG: where compressed pixels begin, and the end


def check_picture(path: Path) -> None:
    """Checks that a JPEG or BMP goes on to its end; any other file is skipped.

    Raises:
      VolumeError: the picture is cut off.
    """
    ending = path.suffix.lower()
    if ending not in (".jpg", ".jpeg", ".bmp"):
        return
    content = path.read_bytes()
    if ending == ".bmp":  # its header says how long the file is
        cut = content[:2] == b"BM" and len(content) < int.from_bytes(content[2:6], "little")
    else:  # a preview in its header has an end of its own, before the pixels
        cut = content[:2] == b"\xff\xd8" and content.rfind(_END) < content.rfind(_SCAN)
    if cut:
        raise VolumeError(f"{path}: the picture is cut off; copy it again, or save it as PNG")
