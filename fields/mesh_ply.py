"""Triangle meshes as binary PLY."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mesh_ply(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> bytes:
    """The file of vertices [V, 3] and triangles [T, 3]."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    rows = np.zeros(len(faces), np.dtype([("corners", "u1"), ("face", "<i4", 3)]))
    rows["corners"], rows["face"] = 3, faces
    return header.encode() + vertices.astype("<f4").tobytes() + rows.tobytes()
