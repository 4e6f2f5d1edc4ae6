"""How the page writes numbers: for reading in a column, never more digits than they deserve."""

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def numeral(value: int | float | None) -> str:
    """Three significant digits, or every digit of a whole number, with thousands marked.

    >>> [numeral(x) for x in (1437, 62.9275, 1234.5, 0.00167, 9.4e-06, -257.28, None)]
    ['1,437', '62.9', '1,234', '0.00167', '9.4 × 10⁻⁶', '−257', '–']
    """
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value).replace("-", "−")
    if value == int(value) and abs(value) < 1e15:
        text = f"{int(value):,}"
    else:
        exponent = math.floor(math.log10(abs(value)))
        if exponent < -4:
            text = f"{value / 10**exponent:.3g} × {power_of_ten(exponent)}"
        else:
            text = f"{value:,.{max(0, 2 - exponent)}f}"
    return text.replace("-", "−")


def power_of_ten(exponent: int) -> str:
    """Ten to a whole number.

    >>> [power_of_ten(d) for d in (0, -3, -12)]
    ['1', '10⁻³', '10⁻¹²']
    """
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}" if exponent else "1"


def tick(value: int | float) -> str:
    """A round value of an axis, with no more digits than it has.

    >>> [tick(x) for x in (0.5, 2000.0, -240.0, 0.30000000000000004)]
    ['0.5', '2,000', '−240', '0.3']
    """
    return f"{value:,.10g}".replace("-", "−")


def duration(seconds: int | float) -> str:
    """Seconds as people say them.

    >>> [duration(x) for x in (4.25, 41.93, 200, 5432)]
    ['4.2 s', '42 s', '3 min 20 s', '1 h 30 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
