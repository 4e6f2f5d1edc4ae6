"""The table that a comparison's directory has already: a poorer one does not replace it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empssl.errors import UsageError
from empssl.experiments.folder import Folder, KeptTable
from empssl.experiments.grid import decisive
from empssl.experiments.protocol import EvalProtocol
from empssl.experiments.run_spec import RunSpec, RunStatus


@dataclass(frozen=True)
class PreviousTable:
    """The table before this one.

    Attributes:
        folder: where it is.
        kept: what it holds; empty if there is none.
    """

    folder: Folder
    kept: KeptTable

    @classmethod
    def of(cls, folder: Folder) -> "PreviousTable":
        return cls(folder, folder.kept_table() or KeptTable())

    def check(self, cells: Sequence[RunSpec], protocol: EvalProtocol) -> None:
        """See that a table of these cells shows all that this one does, before anything is done.

        Raises:
            UsageError: it would lack scored runs or probes, or be of another protocol.
        """
        if lost := self._left_out(cells):
            self._refuse(f"{', '.join(lost)}, which this command leaves out")
        before = self.kept.get("protocol", {})
        if not self._scored or not before:
            return
        if lost := [probe for probe in before["probes"] if probe not in protocol.probes]:
            self._refuse(f"scores by {', '.join(lost)}, which this command leaves out")
        now = {"data": Path(protocol.data).name, "crops": protocol.crops,
               "train_size": protocol.train_size}  # fmt: skip
        was = before | {"data": Path(self.kept["data"]).name}
        for name, value in now.items():
            if was.get(name) != value:
                self._refuse(f"scores with {name} {was.get(name)}, and this command has {value}")

    def lost(self, outcomes: Sequence[RunStatus]) -> list[str]:
        """The cells whose scores it shows, and which have none any more."""
        scored = {cell["name"] for cell in self._scored}
        return [o.cell.name for o in outcomes if o.cell.name in scored and not o.scores]

    @property
    def _scored(self) -> list[dict[str, Any]]:
        return [cell for cell in self.kept.get("cells", []) if cell.get("scores")]

    def _left_out(self, cells: Sequence[RunSpec]) -> list[str]:
        """Names of scored cells that are not among these, by their names or else their settings."""
        names = {cell["name"] for cell in self._scored}
        others = [(decisive(c.settings), c.seed) for c in cells if c.name not in names]
        asked, lost = {cell.name for cell in cells}, []
        for cell in self._scored:
            same = (cell.get("settings"), cell.get("seed"))
            if cell["name"] in asked:
                continue
            if same in others:  # a run that is called otherwise beside one of the same name
                others.remove(same)
            else:
                lost.append(cell["name"])
        return lost

    def _refuse(self, what: str) -> None:
        raise UsageError(
            f"{self.folder.page_path} shows {what}; it is kept. Ask for all that it shows, choose "
            f"another --out, or remove {self.folder.record_path} first: the runs keep their scores"
        )
