"""The packages that a report is drawn and executed with, which a plain installation does not bring."""

import importlib.util
from pathlib import Path

PACKAGES = ("ipykernel", "jupytext", "matplotlib", "nbformat", "jinja2", "jupyter_client", "nbclient", "nbconvert")
"""What report/build.py imports."""


def no_report(directory: Path | str) -> str:
    """Returns why no report can be written of a sweep, and what to type; nothing where it can.

    Args:
      directory: of the sweep.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    are = "is" if len(missing) == 1 else "are"
    return (
        f"no report can be written, as {', '.join(missing)} {are} not installed: pip install {' '.join(missing)}, then "
        f"kleiber report {directory} (--no-report says none of this)"
    )
