"""What training minimises. One file per objective, one line per objective in the table."""

from empssl.objectives.barlow_twins import BarlowTwins
from empssl.objectives.emp import EMP
from empssl.objectives.frossl import FroSSL
from empssl.objectives.mmcr import MMCR
from empssl.objectives.simclr import SimCLR
from empssl.objectives.spectral_contrastive import SpectralContrastive
from empssl.objectives.ssl_ey import SSLEY
from empssl.objectives.tcr import TCR
from empssl.objectives.vicreg import VICReg
from empssl.objectives.vne import VNE
from empssl.objectives.wmse import WMSE

OBJECTIVES = {
    "barlow_twins": BarlowTwins,
    "emp": EMP,
    "frossl": FroSSL,
    "mmcr": MMCR,
    "simclr": SimCLR,
    "spectral_contrastive": SpectralContrastive,
    "ssl_ey": SSLEY,
    "tcr": TCR,
    "vicreg": VICReg,
    "vne": VNE,
    "wmse": WMSE,
}

__all__ = ["OBJECTIVES"]
