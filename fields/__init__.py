"""Neural fields: encodings, image, SDF, NeRF and video models (issue 7 onwards)."""
