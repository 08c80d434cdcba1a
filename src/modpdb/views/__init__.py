"""Plain data into rich tables and trees. They know no torch."""

from __future__ import annotations

import sys


def import_rich() -> None:
    """Import rich without changing the script's random numbers: while it is imported it draws one
    for the ids of links (rich 14 and 15). To be called before the first of the other views is."""
    if "rich.style" in sys.modules:
        return
    import random

    state = random.getstate()
    try:
        import rich.style  # noqa: F401
    finally:
        random.setstate(state)
