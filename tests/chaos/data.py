"""Failure tests of data and meshes: damaged corpora, the position after a stop, another mesh, a device that errs."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaos.trial import Bench, Result, Tally, call, tiny, write_corpus
from kleiber.train.config import DataConfig


def bad_data(bench: Bench) -> Result:
    """R10: damaged records and token files, and text that is no text."""
    tally = Tally(
        "R10", "records and token files cut, flipped, emptied, gone; bad UTF-8, NUL, a 50 MB line", bench.seed
    )
    for what, problem in call(bench, _damage_data, str(bench.place("R10")), bench.seed, bench.scale >= 1).items():
        tally.check(problem == "", f"{what}: {problem}")
    return tally.result("each a named error with the file (and the place in it), or read as what it is; none silent")


def _damage_data(folder: str, seed: int, is_long: bool) -> dict[str, str]:
    """Returns, for each kind of damage, what went wrong with telling it; nothing when all is well."""
    from kleiber.train.data.tokens import tokens_folder
    from kleiber.train.data.windows import open_tokens

    os.environ["KLEIBER_CACHE"] = f"{folder}/cache"
    logging.disable(logging.CRITICAL)
    text = write_corpus(Path(folder) / "own.txt", seed + 1)
    data, found = DataConfig(str(text)), {}
    before = open_tokens(data, "train", 16).file.tokens.tobytes()
    from kleiber.train.data.corpora.catalogue import find_corpus, prepared_folder

    home = prepared_folder(find_corpus(str(text)))
    assert home is not None
    tokens = tokens_folder(home, "bytes")
    records = max(home.rglob("*.array_record*"), key=lambda path: path.stat().st_size)
    for path, remakes in ((tokens / "train.tokens.npy", False), (tokens / "tokens.json", False), (records, True)):
        content = path.read_bytes()
        for kind, damage in _DAMAGES.items():
            damage(path, content)
            found[f"{kind} {path.name}"] = _told(data, tokens if remakes else None, path, before, home)
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            open_tokens(data, "train", 16)
    for name, made in _texts(50_000_000 if is_long else 3_000_000).items():
        path = Path(folder) / f"{name}.txt"
        path.write_bytes(made)
        found[name] = _told_text(path)
    return found


def _reopen(data: DataConfig, remake: Path | None) -> bytes:
    """Returns the training tokens; with remake, of token files made again from the records."""
    import shutil

    from kleiber.train.data import tokens as token_files
    from kleiber.train.data.windows import open_tokens

    token_files._verified.clear()
    if remake:
        shutil.rmtree(remake)
    return open_tokens(data, "train", 16).file.tokens.tobytes()


_DAMAGES: dict[str, Callable[[Path, bytes], Any]] = {
    "cut": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "flipped": lambda path, content: path.write_bytes(
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 16]) + content[len(content) // 2 + 1 :]
    ),
    "empty": lambda path, content: path.write_bytes(b""),
    "gone": lambda path, content: path.unlink(),
}


def _told(data: DataConfig, remake: Path | None, path: Path, before: bytes, home: Path) -> str:
    try:
        found = _reopen(data, remake)
    except (ValueError, OSError) as problem:
        return "" if path.name in str(problem) or str(home) in str(problem) else f"not named: {problem}"
    except Exception as problem:
        return f"{type(problem).__name__} is none of ours: {problem}"
    return "" if found == before else "silently other tokens"


def _texts(long: int) -> dict[str, bytes]:
    words = b" ".join(b"word %d" % n for n in range(20_000))
    return {
        "bad-utf8": words + b"\xff\xfe" + words,
        "nul": words + b"\x00\x00" + words,
        "one-long-line": (words * (long // len(words) + 1))[:long],
        "empty": b"",
    }


def _told_text(path: Path) -> str:
    from kleiber.train.data.windows import open_tokens

    try:
        source = open_tokens(DataConfig(str(path)), "train", 16)
    except (ValueError, OSError) as problem:
        return "" if path.name in str(problem) or path.stem in str(problem) else f"not named: {problem}"
    except Exception as problem:
        return f"{type(problem).__name__} is none of ours: {problem}"
    whole = path.read_bytes()
    part = source.file.tokens[:1000].tobytes()
    return "" if part[:200] in whole.replace(b"\r", b"") or b"\n" in part[:200] else "tokens that are not in the text"


def data_position(bench: Bench) -> Result:
    """R11: stop after every possible step; compare the digests of all batches."""
    tally = Tally("R11", "stop after k steps, epoch edges included", bench.seed)
    for what, good in call(bench, _positions, str(bench.corpus), bench.number(60, 12)).items():
        tally.check(good, what)
    return tally.result("the same digest of every batch; each window once an epoch, none left out")


def _positions(corpus: str, stops: int) -> dict[str, bool]:
    import hashlib

    from kleiber.train.data.batches import TrainBatches
    from kleiber.train.data.windows import open_tokens

    source = open_tokens(DataConfig(corpus), "train", 16)
    unique = 250 * 16  # 250 windows, batches of 8: an epoch ends inside the 32nd batch

    def batches() -> TrainBatches:
        return TrainBatches(source, 8, 3, unique, 3.0)

    def digests(batches: TrainBatches, steps: int) -> list[str]:
        return [hashlib.sha256(rows.tobytes()).hexdigest() for rows in source.windows(batches.next_indices(steps))]

    steps = 90
    whole = digests(batches(), steps)
    found = {}
    for stop in range(1, steps, max(1, steps // stops)):
        first, second = batches(), batches()
        head = digests(first, stop)
        second.restore(first.state())
        found[f"stop after {stop}"] = head + digests(second, steps - stop) == whole
    order = batches().next_indices(31).ravel().tolist() + batches().next_indices(32)[31].tolist()[:2]
    found["each window once"] = len(set(order)) == 250 == len(order)
    return found


MESHES: tuple[dict[str, int], ...] = ({"fsdp": 8}, {"data": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}, {})


def other_mesh(bench: Bench) -> Result:
    """R17: a state saved on one mesh, restored and trained on under another."""
    tally = Tally("R17", "save on 8 devices, restore on 4x2, 2x2x2 and one", bench.seed)
    found = call(bench, _meshes, bench)
    for what, good in found["checks"].items():
        tally.check(good, what)
    return tally.result(
        f"the state equal element by element, the same batches; loss within {found['largest']:.1e} after 20 steps "
        "(limit 1e-5)"
    )


def _meshes(bench: Bench) -> dict[str, Any]:
    import jax
    import numpy as np

    jax.config.update("jax_num_cpu_devices", 8)
    from kleiber.parallel.config import MeshConfig
    from kleiber.train.checkpoints import checkpoint
    from kleiber.train.data.run_data import open_run_data
    from kleiber.train.trunk import Stopped, Trunk, TrunkIO

    place, checks, losses = bench.place("R17"), {}, []
    base = tiny(bench, batch_size=8, num_tokens=(40 * 128,), steps_per_call=4, checkpoint_seconds=1e9)
    base = replace(base, model=replace(base.model, d_model=32, num_heads=2))
    data = open_run_data(base)

    def trunk(sizes: dict[str, int], folder: Path, stop_at: int | None = None) -> Trunk:
        rows: list[dict[str, Any]] = []
        config = replace(base, mesh=MeshConfig(**sizes))
        io = TrunkIO(
            folder,
            [folder],
            rows.append,  # type: ignore[arg-type]
            lambda n: False,
            should_stop=lambda: stop_at is not None and _steps(folder) >= stop_at,
        )
        return Trunk([config], data, io)

    first = place / "first"
    try:
        trunk(MESHES[0], first, 12).run()
    except Stopped:
        pass
    saved = {p.parent.name: p for p in first.glob("checkpoints/*/step_*")}
    (at,) = saved.values()
    arrays, _ = checkpoint.load_arrays(at)
    for sizes in MESHES if bench.scale >= 1 else MESHES[::3]:
        folder = place / ("-".join(f"{k}{v}" for k, v in sizes.items()) or "one")
        import shutil

        shutil.copytree(first, folder)
        again = trunk(sizes, folder)
        fresh = again._fresh()
        resumed = again.saved.take_up(at.parent.name, fresh, again.totals)
        state = {name: np.asarray(leaf) for name, leaf in checkpoint.named_leaves(resumed.state).items()}
        same = state.keys() == arrays.keys() and all(np.array_equal(state[n], arrays[n]) for n in arrays)
        checks[f"state on {sizes}"] = same and resumed.step == int(at.name[5:])
        again.run()
        losses.append(_losses(folder))
    largest = max(abs(a - b) / b for other in losses[1:] for a, b in zip(other[:8], losses[0][:8], strict=True))
    checks[f"loss within {largest}"] = largest < 1e-5
    return {"checks": checks, "largest": largest}


def _steps(folder: Path) -> int:
    rows = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    return len(rows) * 4


def _losses(folder: Path) -> list[float]:
    import json

    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def silent_corruption(bench: Bench) -> Result:
    """R20: one mantissa bit of one replica."""
    tally = Tally("R20", "one mantissa bit of one replica flipped on 8 devices", bench.seed)
    for what, good in call(bench, _corruption, bench.seed, bench.number(50, 8)).items():
        tally.check(good, what)
    return tally.result("found before the next save each time, with array and device; nothing found in a sound state")


def _corruption(seed: int, trials: int) -> dict[str, bool]:
    import jax
    import numpy as np

    jax.config.update("jax_num_cpu_devices", 8)
    from jax.sharding import NamedSharding, PartitionSpec

    from kleiber.train.checkpoints.replicas import SilentCorruption, check_replicas, differing_replicas

    mesh = jax.make_mesh((4, 2), ("data", "model"))
    draw, found = np.random.default_rng(seed), {}
    whole = {"w": draw.standard_normal((8, 16), np.float32), "b": draw.standard_normal(16, np.float32)}
    specs = {"w": PartitionSpec(None, "model"), "b": PartitionSpec()}
    state = {n: jax.device_put(a, NamedSharding(mesh, specs[n])) for n, a in whole.items()}
    found["a sound state"] = differing_replicas(state) == []
    for trial in range(trials):
        name = ("w", "b")[trial % 2]
        shards = [np.array(shard.data) for shard in state[name].addressable_shards]
        which = int(draw.integers(len(shards)))
        bits = shards[which].reshape(-1).view(np.uint32)
        bits[draw.integers(len(bits))] ^= np.uint32(1) << np.uint32(draw.integers(0, 23))
        devices = [shard.device for shard in state[name].addressable_shards]
        pieces = [jax.device_put(shard, device) for shard, device in zip(shards, devices, strict=True)]
        bad = jax.make_array_from_single_device_arrays(state[name].shape, state[name].sharding, pieces)
        differing = differing_replicas({**state, name: bad})
        try:
            check_replicas({**state, name: bad}, 7)
            told = False
        except SilentCorruption as problem:
            told = str(devices[which]) in str(problem) and name in str(problem)
        found[f"bit {trial} of {name} on {devices[which]}"] = told and differing == [(name, str(devices[which]))]
    return found
