"""The page of a comparison: one HTML file that opens offline."""

from empssl._version import __version__
from empssl.experiments.maps import maps
from empssl.experiments.plots import convergence, dashes, marks, panels
from empssl.experiments.results import Comparison
from empssl.experiments.table import EFFORTS, percent, seeds, share
from empssl.reports.charts import numeral
from empssl.reports.html import render
from empssl.reports.sections.embedding_map import COLORS
from empssl.reports.sections.record import entries


def page(comparison: Comparison) -> str:
    """Table, plots, curves and maps as HTML."""
    table = comparison.rows
    shown = [name for name in EFFORTS if any(row.efforts[name] for row in table.rows)]
    return render(
        "compare.html.jinja",
        version=__version__,
        data=comparison.protocol.data,
        name=comparison.folder.path.resolve().name,
        comparison=comparison,
        table=table,
        efforts=shown,
        filled=any(row.coding_rate_ratio for row in table.rows),
        seeds=seeds,
        numeral=numeral,
        percent=percent,
        share=share,
        panels=panels(table) if table.columns else [],
        marks=marks(table),
        dashes=dashes(table),
        curves=convergence(comparison),
        maps=maps(comparison),
        colors=COLORS,
        record=entries("versions", {k: "; ".join(v) for k, v in comparison.versions.items()}),
    )
