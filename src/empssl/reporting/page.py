"""The page: one HTML file that needs nothing else."""

import base64
import hashlib
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from empssl.console import visible
from empssl.reporting.numerals import duration, numeral


def render(template: str = "page.html.jinja", **content: Any) -> str:
    """A page as HTML. All values are escaped; the template says what it needs."""
    loader = PackageLoader("empssl", "reporting")
    environment = Environment(
        loader=loader,
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"numeral": numeral, "duration": duration}
    style, _, _ = loader.get_source(environment, "page.css")
    script, _, _ = loader.get_source(environment, "sort.js.jinja")
    # The page names its only script by its hash, so that a browser runs no other.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=Markup(style), script=Markup(script), script_hash=f"sha256-{digest}", **content
    )


def _shown(value: Any) -> Any:
    """A value that can be seen: names hold all kinds of characters."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
