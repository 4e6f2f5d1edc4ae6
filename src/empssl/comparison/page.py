"""The page of a comparison: one HTML file that opens offline."""

import empssl
from empssl.comparison.comparison import Comparison
from empssl.comparison.convergence import convergence
from empssl.comparison.maps import maps
from empssl.comparison.plots import dashes, marks, panels
from empssl.comparison.spread import percent, share
from empssl.comparison.table import EFFORTS, seeds
from empssl.reporting.map import COLORS
from empssl.reporting.numerals import numeral
from empssl.reporting.page import render
from empssl.reporting.record import entries


def page(comparison: Comparison) -> str:
    """Table, plots, curves and maps as HTML."""
    table = comparison.rows
    shown = [name for name in EFFORTS if any(row.efforts[name] for row in table.rows)]
    return render(
        "compare.html.jinja",
        version=empssl.__version__,
        data=comparison.protocol.data,
        name=comparison.folder.path.resolve().name,
        comparison=comparison,
        table=table,
        efforts=shown,
        filled=any(row.fill for row in table.rows),
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
