"""How views are drawn from images, by name."""

from empssl.config import Table
from empssl.views.base import Policy
from empssl.views.patches import Patches
from empssl.views.random_crops import RandomCrops

POLICIES: Table = {"crops": RandomCrops, "patches": Patches}

__all__ = ["POLICIES", "Patches", "Policy", "RandomCrops"]
