"""The places of lesions, packed so that they fit into a message to another process."""

import base64
import dataclasses
import zlib
from typing import Any

import numpy as np
from scipy import ndimage

from crlm_jax.imaging.geometry import Geometry
from crlm_jax.recist.matching import Body, locate_labels


@dataclasses.dataclass(frozen=True)
class LesionPlaces:
    """The label map of an image's lesions, and the grid that it lies on."""

    geometry: Geometry
    corner: tuple[int, ...]  # (z, y, x) of the box around all lesions
    size: tuple[int, ...]  # of the box
    packed: str  # its labels: int32, deflated, base64

    @classmethod
    def pack(cls, labels: np.ndarray, geometry: Geometry) -> "LesionPlaces":
        """Packs a label map (Z, H, W), 1 … n."""
        boxes = ndimage.find_objects((labels > 0).view(np.uint8))
        box = boxes[0] if boxes else (slice(0, 0),) * 3
        part = np.ascontiguousarray(labels[box], "<i4")
        packed = base64.b64encode(zlib.compress(part.tobytes(), 1)).decode()
        return cls(geometry, tuple(edge.start for edge in box), part.shape, packed)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "LesionPlaces":
        """Builds what `dataclasses.asdict` took apart, whose tuples JSON turned into lists."""
        geometry = {name: tuple(each) for name, each in values["geometry"].items()}
        corner, size = tuple(values["corner"]), tuple(values["size"])
        return cls(Geometry(**geometry), corner, size, values["packed"])

    def bodies(self) -> list[Body]:
        """Returns the lesions in label order."""
        flat = np.frombuffer(zlib.decompress(base64.b64decode(self.packed)), "<i4")
        labels = np.zeros(self.geometry.axial_size, np.int32)
        ends = zip(self.corner, self.size, strict=True)
        labels[tuple(slice(low, low + count) for low, count in ends)] = flat.reshape(self.size)
        return locate_labels(labels, self.geometry)
