"""The laws there are, as a mapping that prints."""

import html
from collections.abc import Iterator, Mapping

from kleiber.scaling.law import Law
from kleiber.scaling.laws import get_law, registry


class Laws(Mapping[str, Law]):
    """The registry of laws by id; prints as a table. kb.laws["chinchilla"] shows formula, symbols, units and source."""

    def __getitem__(self, name: str) -> Law:
        """Returns the law of that id; ValueError with the nearest id if there is none."""
        return get_law(name)

    def __contains__(self, name: object) -> bool:
        return name in registry()

    def __iter__(self) -> Iterator[str]:
        return iter(registry())

    def __len__(self) -> int:
        return len(registry())

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{law.id:<{width}}  {law.formula}\n{'':<{width}}  {law.title}" for law in self.values())

    def _repr_html_(self) -> str:
        cells = [map(html.escape, (law.id, law.formula, law.title)) for law in self.values()]
        return "<table>" + "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in cells) + "</table>"


laws = Laws()
