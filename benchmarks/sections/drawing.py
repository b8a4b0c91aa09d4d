"""The figure of kept results: the ratio to each peer by shape with its spread, and over commits once there are two."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kleiber.experiments.bench.one_model import PEERS
from kleiber.scaling.figures.style import INK, QUIET, house_style, new_figure, set_claim
from sections.results import machine_name, read_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"torch": "#0072B2", "torch_compiled": "#CC79A7", "jax": "#E69F00"}
MARKERS = {"torch": "o", "torch_compiled": "s", "jax": "^"}
"""Colours of Okabe and Ito's set, and shapes, so that the peers stay apart in grey."""
SWEEP = "sweep"
"""The whole sweep, which is held to PyTorch alone, as a last place on the axis of shapes."""


def ratios(result: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns {shape: {peer: {"median", "low", "high", "rounds"}}} of one kept result, the sweep as one more shape."""
    steps = result["sections"].get("step", {}).get("detail", {}).get("steps", {})
    found = {shape: dict(measured["ratios"]) for shape, measured in steps.items()}
    if result.get("sweep_ratio_to_pytorch"):
        scale = result["sections"]["sweep"]["detail"].get("scale", 1.0)  # parts of a sweep spend more on its starts
        found[SWEEP if scale == 1 else f"{SWEEP} x {scale:g}"] = {"torch": result["sweep_ratio_to_pytorch"]}
    return found


def draw_results(folder: Path) -> list[Path]:
    """Draws the newest ratios that a folder keeps of each kind of machine, and their history.

    Args:
      folder: holds the results and takes <machine>.svg.

    Returns:
      The paths, one a kind of machine.

    Raises:
      ValueError: no result holds a ratio to a peer.
    """
    import matplotlib

    histories: dict[str, list[dict[str, Any]]] = {}
    for result in read_results(folder):
        if ratios(result):
            histories.setdefault(machine_name(result["machine"]), []).append(result)
    if not histories:
        raise ValueError("no kept result holds a ratio to a peer; `kleiber bench step --out FOLDER` measures them.")
    paths = [folder / f"{name}.svg" for name in histories]
    with house_style(), matplotlib.rc_context({"svg.hashsalt": "kleiber"}):
        for path, history in zip(paths, histories.values(), strict=True):
            results_figure(history).savefig(path, metadata={"Date": None})
    return paths


def results_figure(history: Sequence[dict[str, Any]]) -> "Figure":
    """Returns the figure of the results of one machine, oldest first."""
    newest: dict[str, dict[str, Any]] = {}
    commits: dict[str, str] = {}  # of the newest ratios of each shape
    for result in history:
        newest |= ratios(result)
        commits |= dict.fromkeys(ratios(result), result["machine"]["commit"][:7])
    many = sum(len(ratios(result)) for result in history) > len(newest)
    figure = new_figure(11.0 if many else 7.6, 4.4)
    set_claim(figure, _claim(newest), _detail(history[-1]["machine"], ", ".join(dict.fromkeys(commits.values()))))
    widths = [3, 2] if many else [1]
    axes = figure.subplots(1, len(widths), squeeze=False, sharey=True, width_ratios=widths)[0]
    _draw_shapes(axes[0], newest)
    if many:
        _draw_history(axes[1], history)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=len(PEERS))
    return figure


def _claim(found: dict[str, dict[str, dict[str, float]]]) -> str:
    medians = [row["torch"]["median"] for shape, row in found.items() if "torch" in row and not shape.startswith(SWEEP)]
    if not medians and SWEEP in found:
        return f"A whole sweep takes PyTorch {found[SWEEP]['torch']['median']:.1f} times as long"
    if not medians:
        return "Training speed next to plain JAX"
    low, high = f"{min(medians):.1f}", f"{max(medians):.1f}"
    span = low if low == high else f"{low} to {high}"
    return f"One model trains {span} times as fast as in PyTorch eager"


def _detail(machine: dict[str, Any], commits: str) -> str:
    versions = machine["versions"]
    peers = ", ".join(f"{name} {versions[name]}" for name in ("jax", "torch") if name in versions)
    return f"{machine['processor']}, {machine['cores']} cores; {peers}; {machine['date'][:10]}, {commits}"


def _draw_shapes(axis: "Axes", found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Medians with quartiles, a little apart within a shape; the line at one is `as fast as the peer`."""
    shapes, seen = list(found), set()
    for place, shape in enumerate(shapes):
        peers = [peer for peer in PEERS if peer in found[shape]]
        for index, peer in enumerate(peers):
            x = place + 0.24 * (index - (len(peers) - 1) / 2)
            row = found[shape][peer]
            label = PEERS[peer] if peer not in seen else None
            seen.add(peer)
            _draw_spread(axis, x, row, peer, label)
    _prepare(axis, "speed over the peer's")
    axis.set_xticks(range(len(shapes)), [{"nanogpt": "nanoGPT"}.get(shape, shape) for shape in shapes])
    axis.set_xlim(-0.5, len(shapes) - 0.5)
    axis.set_xlabel("shape (d: width of the model)")
    axis.grid(axis="x", visible=False)


def _draw_history(axis: "Axes", history: Sequence[dict[str, Any]]) -> None:
    """The ratio to PyTorch eager (or plain JAX) over the commits, a line a shape."""
    tables = [ratios(result) for result in history]
    peer = "torch" if any("torch" in row for table in tables for row in table.values()) else "jax"
    shapes = list(dict.fromkeys(shape for table in tables for shape in table if peer in table[shape]))
    for index, shape in enumerate(shapes):
        points = [(x, table[shape][peer]) for x, table in enumerate(tables) if peer in table.get(shape, {})]
        color = f"C{index}"
        axis.plot([x for x, _ in points], [row["median"] for _, row in points], "o-", color=color, markersize=4)
        axis.annotate(f" {shape}", (points[-1][0], points[-1][1]["median"]), va="center", fontsize=9, color=color)
    axis.axhline(1.0, color=QUIET, linewidth=1.0)
    axis.set_xticks(range(len(history)), [result["machine"]["commit"][:7] for result in history], rotation=45)
    axis.set_xlim(-0.3, len(history) - 0.4)
    axis.set_xlabel(f"commit (ratio to {PEERS[peer]})")


def _draw_spread(axis: "Axes", x: float, row: dict[str, float], peer: str, label: str | None) -> None:
    middle = row["median"]
    axis.errorbar(
        x,
        middle,
        yerr=[[middle - row["low"]], [row["high"] - middle]],
        fmt=MARKERS[peer],
        color=COLORS[peer],
        markersize=6.5,
        elinewidth=1.6,
        capsize=3.5,
        label=label,
    )
    axis.annotate(
        f"{middle:.2g}", (x, row["high"]), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8.5,
        color=INK,
    )  # fmt: skip


def _prepare(axis: "Axes", label: str) -> None:
    axis.axhline(1.0, color=QUIET, linewidth=1.0)
    axis.set_ylim(bottom=0.0)
    axis.set_ylabel(label)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * 1.08)
