"""How views are drawn from images, by name."""

from empssl.spec import Table
from empssl.views.crops import RandomCrops
from empssl.views.patches import Patches
from empssl.views.policy import Policy

POLICIES: Table = {"crops": RandomCrops, "patches": Patches}

__all__ = ["POLICIES", "Patches", "Policy", "RandomCrops"]
