"""Maps the top-level rooms into the package `kleiber`, so nothing generic lands in site-packages."""

import re
from pathlib import Path

from setuptools import setup

ROOMS = ("model", "train", "parallel", "scaling", "experiments")
HERE = Path(__file__).parent


def packages() -> list[str]:
    """Returns kleiber and every package of every room, as `kleiber.<room>[.<folder> ...]`."""
    folders = (init.parent for room in ROOMS for init in (HERE / room).rglob("__init__.py"))
    return ["kleiber", *sorted("kleiber." + ".".join(folder.relative_to(HERE).parts) for folder in folders)]


def description() -> str:
    """Returns README.md for a package index, which has no other file of the repository: without pictures and their
    captions, and with the paths of pages in place of links to them."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^]]*\]\((?!https:)[^)]*\)\n+(\*[^*]+\*\n+)?", "", text)
    text = re.sub(r"\[([^]]+)\]\(\1\)", r"\1", text)
    text = re.sub(r"\[([^]]+)\]\((?!https:|#)([^)]+)\)", r"\1 (\2)", text)
    return text + "\nPages that are named by their path lie in the repository of the source.\n"


DATA = ["botocore==1.44.5"]
IMAGES = ["scikit-learn==1.9.1"]  # for the digits that ship inside it
NOTEBOOK = ["matplotlib>=3.9", "jupytext>=1.16", "nbclient>=0.10", "nbconvert>=7.16", "ipykernel>=6.29"]
TRACK = ["tensorboardX>=2.6.2"]
QUERY = ["duckdb>=1.2"]
PRUNE = ["optuna>=4"]
SLURM = ["submitit>=1.5.2"]
SERVE = ["starlette>=1.0", "uvicorn>=0.40"]
TRANSLATION = ["sacrebleu>=2.4,<3"]  # its counts of a sentence have no public name
LM_EVAL = ["lm_eval>=0.4.9"]
DEV = ["pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.7", "hypothesis>=6.100", "ruff>=0.14", "mypy>=1.15"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "ruff>=0.14"]
DEV += ["pandas>=2.2"]  # of tests alone: any table that speaks Arrow is read

setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    packages=packages(),
    package_dir={"kleiber": "kleiber"} | {f"kleiber.{room}": room for room in ROOMS},
    package_data={"kleiber": ["py.typed"], "kleiber.experiments": ["report/*.css", "report/*.html", "watching/*.html"]},
    extras_require={
        "data": DATA,
        "images": IMAGES,
        "notebook": NOTEBOOK,
        "track": TRACK,
        "query": QUERY,
        "prune": PRUNE,
        "slurm": SLURM,
        "serve": SERVE,
        "translation": TRANSLATION,
        "dev": DEV,
        "all": DATA + IMAGES + NOTEBOOK + TRACK + QUERY + PRUNE + SLURM + SERVE + TRANSLATION + DEV,
        "docs": DOCS,  # of `make docs` alone: no test needs it
        "bench": ["torch>=2.6"],  # the peer of `kleiber bench`; nothing else imports it
        "ray": ["ray>=2.50"],  # of `--launch ray` alone
        "lm-eval": LM_EVAL,  # of `kleiber eval --task lm-eval:NAME`
        "huggingface": [
            "transformers>=5",
            "torch>=2.6",
            "peft>=0.17",
            *LM_EVAL,
        ],  # of tests beside them: make huggingface
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        # The compiler for TPUs alone (about 140 MB), as jax[tpu] of each release pins it: `kleiber compile --topology`.
        "aot": [
            "libtpu==0.0.42.*; python_version < '3.12'",
            "libtpu==0.0.50.*; python_version >= '3.12'",
        ],
    },
)
