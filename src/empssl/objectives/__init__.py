"""What training minimises. One file per objective, one line per objective in the table."""

import inspect

from empssl.objectives.byol import BYOL
from empssl.objectives.emp import EMP
from empssl.objectives.objective import Objective
from empssl.objectives.ressl import ReSSL
from empssl.objectives.simsiam import SimSiam
from empssl.objectives.supcon import SupCon
from empssl.objectives.swav import SwAV
from empssl.spec import Spec, Table, build

OBJECTIVES: Table = {
    "byol": BYOL,
    "emp": EMP,
    "ressl": ReSSL,
    "simsiam": SimSiam,
    "supcon": SupCon,
    "swav": SwAV,
}

__all__ = ["OBJECTIVES", "build_objective"]


def build_objective(spec: Spec, *, dim: int) -> Objective:
    """An objective for projections of `dim` coordinates.

    What it draws at random is drawn from torch's global generator.
    """
    entry = OBJECTIVES.get(str(spec.get("name")))
    wants = entry is not None and "dim" in inspect.signature(entry).parameters
    made: Objective = build(OBJECTIVES, spec, **({"dim": dim} if wants else {}))
    return made
