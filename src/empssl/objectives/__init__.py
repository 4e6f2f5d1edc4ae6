"""What training minimises. One file per objective, one line per objective in the table."""

import inspect

from empssl.config import ObjectSpec, Spec, Table, build
from empssl.objectives.barlow_twins import BarlowTwins
from empssl.objectives.base import Loss, ModuleObjective, Objective
from empssl.objectives.byol import BYOL
from empssl.objectives.emp import EMP
from empssl.objectives.frossl import FroSSL
from empssl.objectives.mmcr import MMCR
from empssl.objectives.ressl import ReSSL
from empssl.objectives.simclr import SimCLR
from empssl.objectives.simsiam import SimSiam
from empssl.objectives.spectral_contrastive import SpectralContrastive
from empssl.objectives.ssl_ey import SSLEY
from empssl.objectives.supcon import SupCon
from empssl.objectives.swav import SwAV
from empssl.objectives.tcr import TCR
from empssl.objectives.vicreg import VICReg
from empssl.objectives.vne import VNE
from empssl.objectives.wmse import WMSE

OBJECTIVES: Table = {
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "emp": EMP,
    "frossl": FroSSL,
    "mmcr": MMCR,
    "ressl": ReSSL,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "spectral_contrastive": SpectralContrastive,
    "ssl_ey": SSLEY,
    "supcon": SupCon,
    "swav": SwAV,
    "tcr": TCR,
    "vicreg": VICReg,
    "vne": VNE,
    "wmse": WMSE,
}

__all__ = [
    "BYOL", "EMP", "MMCR", "OBJECTIVES", "SSLEY", "TCR", "VNE", "WMSE", "BarlowTwins", "FroSSL",
    "Loss", "ModuleObjective", "Objective", "ReSSL", "SimCLR", "SimSiam", "SpectralContrastive",
    "SupCon", "SwAV", "VICReg", "build_objective",
]  # fmt: skip


def build_objective(spec: Spec, *, dim: int) -> Objective:
    """An objective for projections of `dim` coordinates.

    What it draws at random is drawn from torch's global generator.
    """
    if isinstance(spec, ObjectSpec):
        return spec.made if isinstance(spec.made, Objective) else ModuleObjective(spec.made)
    entry = OBJECTIVES.get(str(spec.get("name")))
    wants = entry is not None and "dim" in inspect.signature(entry).parameters
    made: Objective = build(OBJECTIVES, spec, **({"dim": dim} if wants else {}))
    return made
