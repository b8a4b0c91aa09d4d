"""Runs as models of lm-evaluation-harness (github.com/EleutherAI/lm-evaluation-harness), which is imported here and
nowhere else: docs/model_guide.md there says what each kind of request asks for.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from kleiber.experiments.api.continuations import continuations, rolling

if TYPE_CHECKING:
    from kleiber.experiments.api.runs import Run

MOST_TOKENS = 256
"""Generated where a task does not say how many."""


class HarnessModel(LM):
    """A run that answers the harness's requests with its own decoding."""

    def __init__(self, run: "Run") -> None:
        super().__init__()
        self.run = run

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Returns (log-likelihood, whether greedy decoding gives it) of each (context, text)."""
        told = continuations(self.run, [request.args for request in requests])
        return [(each.log_likelihood, each.is_likeliest) for each in told]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Returns the log-likelihood of each text."""
        return rolling(self.run, [request.args[0] for request in requests])

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Returns what follows each context, up to the first of its stops, or to the end of its document."""
        return [self._written(*request.args) for request in requests]

    def _written(self, context: str, asked: dict[str, Any]) -> str:
        stops = asked.get("until") or []
        is_drawn = asked.get("do_sample", asked.get("temperature", 0) > 0)
        text = self.run.generate(
            context,
            num_tokens=int(asked.get("max_gen_toks", MOST_TOKENS)),
            temperature=float(asked.get("temperature", 1.0)) if is_drawn else 0.0,
            top_k=asked.get("top_k") if is_drawn else None,
            top_p=float(asked.get("top_p", 1.0)),
            stops_at_end=True,
        )
        places = [text.find(stop) for stop in ([stops] if isinstance(stops, str) else stops) if stop]
        return text[: min([place for place in places if place >= 0], default=len(text))]


def evaluate_task(run: "Run", name: str, folder: Path | None, limit: int | None) -> dict[str, Any]:
    """Returns the results of a task of the harness.

    Args:
      run: a decoder.
      name: of a task, or a group.
      folder: of further tasks (YAML), which may run code of their own; None has those of the harness alone.
      limit: most documents; None is all.

    Raises:
      ValueError: there is no such task.
    """
    manager = None if folder is None else TaskManager(include_path=str(folder), include_defaults=False)
    if manager is None or name not in manager.all_tasks:  # the harness has thousands, and reads all their files
        manager = TaskManager(include_path=None if folder is None else str(folder))
    if name not in manager.all_tasks:
        import difflib

        near = difflib.get_close_matches(name, manager.all_tasks, n=3)
        raise ValueError(f"lm-evaluation-harness has no task '{name}'; the nearest are {', '.join(near) or 'none'}.")
    found = simple_evaluate(HarnessModel(run), tasks=[name], task_manager=manager, limit=limit, bootstrap_iters=0)
    results = {task: dict(scores) for task, scores in found["results"].items()}
    return {"results": results, "num_documents": {task: each["effective"] for task, each in found["n-samples"].items()}}
