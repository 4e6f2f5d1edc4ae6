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

    def check(self, specs: Sequence[RunSpec], protocol: EvalProtocol) -> None:
        """See that a table of these runs shows all that this one does, before anything is done.

        Raises:
            UsageError: it would lack scored runs or probes, or be of another protocol.
        """
        if lost := self._left_out(specs):
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

    def lost(self, statuses: Sequence[RunStatus]) -> list[str]:
        """The runs whose scores it shows, and which have none any more."""
        scored = {spec["name"] for spec in self._scored}
        return [o.spec.name for o in statuses if o.spec.name in scored and not o.scores]

    @property
    def _scored(self) -> list[dict[str, Any]]:
        return [spec for spec in self.kept.get("cells", []) if spec.get("scores")]

    def _left_out(self, specs: Sequence[RunSpec]) -> list[str]:
        """Names of scored runs that are not among these, by their names or else their settings."""
        names = {spec["name"] for spec in self._scored}
        others = [(decisive(c.settings), c.seed) for c in specs if c.name not in names]
        asked, lost = {spec.name for spec in specs}, []
        for spec in self._scored:
            same = (spec.get("settings"), spec.get("seed"))
            if spec["name"] in asked:
                continue
            if same in others:  # a run that is called otherwise beside one of the same name
                others.remove(same)
            else:
                lost.append(spec["name"])
        return lost

    def _refuse(self, what: str) -> None:
        raise UsageError(
            f"{self.folder.page_path} shows {what}; it is kept. Ask for all that it shows, choose "
            f"another --out, or remove {self.folder.record_path} first: the runs keep their scores"
        )
