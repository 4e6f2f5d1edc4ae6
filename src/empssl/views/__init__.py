"""How views are drawn from images, by name."""

from empssl.views.policy import Patches

POLICIES = {"patches": Patches}

__all__ = ["POLICIES", "Patches"]
