"""Numbers to bytes and back: transforms, quantisers, entropy coding, the container."""
