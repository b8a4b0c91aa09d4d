"""The page docs/reliability.md: its table is written by the failure tests themselves."""

from pathlib import Path

from kleiber.experiments.chaos.trial import Result

START, END = "<!-- table: written by make chaos -->", "<!-- end of table -->"


def write_page(path: Path, results: list[Result]) -> None:
    """Puts the table of results between the marks of a page, which must hold them."""
    text = path.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n{table(results)}\n{END}{after}")


def table(results: list[Result]) -> str:
    """Returns the results as a Markdown table."""
    rows = [
        "| test | what was done | passed | what was seen | plain Orbax or JAX | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        cells = [r.name, r.title, f"{r.passed} of {r.trials}", r.detail, r.orbax or "-", f"{r.seconds:.0f}"]
        rows.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(rows)
