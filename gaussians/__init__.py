"""3D Gaussians: the model, its interchange formats, pruning, and the codec."""

from .model import SplatModel as SplatModel
