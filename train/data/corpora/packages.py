"""Debian packages that hold the text of a corpus: fetched when the user prepares it, and read as archives."""

import shutil
import subprocess
from pathlib import Path


def fetch_packages(corpus: str, names: tuple[str, ...], downloads: Path) -> list[Path]:
    """Returns the .deb of each name in `downloads`, fetched by apt-get if it is not there; nothing is installed.
    Raises ValueError if one cannot be fetched; says how to bring it."""
    downloads.mkdir(parents=True, exist_ok=True)
    for name in names:
        if _newest(downloads, name) is None:
            reason = _fetch(name, downloads)
            if reason:
                raise ValueError(
                    f"corpus {corpus} needs the Debian package {name}, and apt-get could not fetch it: {reason}. Put "
                    f"its .deb into {downloads} by other means, or use another corpus."
                )
    return [path for name in names if (path := _newest(downloads, name))]


def _newest(downloads: Path, name: str) -> Path | None:
    found = sorted(downloads.glob(f"{name}_*.deb"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return found[-1] if found else None


def _fetch(name: str, downloads: Path) -> str:
    """Fetches a package; returns why it could not, nothing if it could."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get here"
    order = ["apt-get", "download", name]
    outcome = subprocess.run(order, cwd=downloads, capture_output=True, text=True, check=False)
    if outcome.returncode == 0 and _newest(downloads, name):
        return ""
    lines = [line for line in outcome.stderr.splitlines() if line.startswith("E:")]
    return lines[0].removeprefix("E:").strip() if lines else "it gave no reason (apt-get update first?)"
