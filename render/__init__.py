"""Tensors to pixels: the splat rasteriser and per-Gaussian statistics."""
