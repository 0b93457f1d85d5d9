"""The captured truth: cameras, scenes, metrics, and evaluation against them."""

from .cameras import Cameras as Cameras
from .cameras import Scene as Scene
