"""Writes docs/config.md from the configs themselves: every field with its type, default and meaning.

Command: python tests/config_page.py > docs/config.md
"""

import ast
import dataclasses
import importlib
import inspect
import textwrap
from pathlib import Path

CONFIGS = (
    ("kleiber.experiments.experiment", ("Experiment", "Target", "Gate")),
    ("kleiber.train.config", None),
    ("kleiber.train.command", ("Command",)),
    ("kleiber.train.ewc", ("EwcConfig",)),
    ("kleiber.model.config", None),
    ("kleiber.model.adapter", ("AdapterConfig",)),
    ("kleiber.model.image", ("ImageConfig",)),
    ("kleiber.model.encoder", ("EncoderConfig",)),
    ("kleiber.parallel.config", None),
)
PAGE = Path(__file__).parents[1] / "docs" / "config.md"
HEAD = """# Every field of a config

An experiment is built of these. A misspelt field, or a value it cannot have, is answered with what was expected. This
page is written from the source by `python tests/config_page.py > docs/config.md`.
"""


def fields_of(config: type) -> list[tuple[str, str, str, str]]:
    """Returns (name, type, default, meaning) of each field, from the source: the text below a field is its meaning."""
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0].body
    rows = []
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            meaning = " ".join(inspect.cleandoc(after.value.value).split()) if is_text else ""
            default = ast.unparse(node.value) if node.value else ""
            default = (
                default.replace("field(default_factory=", "").rstrip(")") + "()" if "factory" in default else default
            )
            rows.append((node.target.id, ast.unparse(node.annotation), default, meaning))
    return rows


def page() -> str:
    """Returns the page."""
    parts = [HEAD]
    for name, wanted in CONFIGS:
        module = importlib.import_module(name)
        found = [each for each in vars(module).values() if dataclasses.is_dataclass(each) and each.__module__ == name]
        for config in (each for each in found if wanted is None or each.__name__ in wanted):
            parts.append(
                f"\n## {config.__name__}\n\n`from {name} import {config.__name__}`\n\n{inspect.getdoc(config)}\n"
            )
            parts.append("\n| field | type | default | |\n|---|---|---|---|\n")
            for row in fields_of(config):
                name_, kind, default, meaning = (cell.replace("|", "\\|") for cell in row)
                parts.append(f"| `{name_}` | `{kind}` | {f'`{default}`' if default else 'needed'} | {meaning} |\n")
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
