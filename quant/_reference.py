"""Plain twins of the native operations of `quant`, for tests and for reading."""

from __future__ import annotations

_CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reflected


def _crc32c_row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_CRC32C_POLYNOMIAL if byte & 1 else 0)
    return byte


_CRC32C_TABLE = tuple(_crc32c_row(byte) for byte in range(256))


def crc32c(data: bytes) -> int:
    """CRC-32C of `data` (Castagnoli, reflected, initial value and final xor 0xFFFFFFFF)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
