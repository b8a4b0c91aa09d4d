"""The page docs/reliability.md: its table is written by the failure tests themselves."""

from pathlib import Path

from chaos.trial import Result

START, END = "<!-- table: written by make chaos -->", "<!-- end of table -->"


def write_page(path: Path, results: list[Result], order: list[str]) -> None:
    """Puts results into the table between the marks of a page, in place of older rows of the same tests.

    Args:
      path: of the page, which must hold both marks.
      results: new ones.
      order: names of all tests.
    """
    text = path.read_text()
    before, _, rest = text.partition(START)
    old, _, after = rest.partition(END)
    rows = {line.split("|")[1].strip(): line for line in old.strip().splitlines()[2:]}
    rows |= {result.name: row(result) for result in results}
    lines = [HEAD, RULE, *(rows[name] for name in order if name in rows)]
    partial = path.with_suffix(".partial")
    partial.write_text(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}")
    partial.replace(path)


HEAD = "| test | what was done | passed | what was seen | plain Orbax or JAX | seconds |"
RULE = "|---|---|---|---|---|---|"


def row(result: Result) -> str:
    """Returns a result as a row of a Markdown table."""
    passed, seconds = f"{result.passed} of {result.trials}", f"{result.seconds:.0f}"
    cells = [result.name, result.title, passed, result.detail, result.orbax or "-", seconds]
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
