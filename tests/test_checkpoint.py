"""Checkpoints: whole or absent, verified, and never a wrong number."""

import json
import random

import numpy as np
import pytest

from kleiber.train.checkpoints import checkpoint

STATE = {
    "params": {"embedding": np.arange(12, dtype=np.float32).reshape(3, 4), "mix": np.float32([0.5, 0.25])},
    "opt_state": (np.int32(7), {"mu": np.linspace(0, 1, 5, dtype=np.float32)}),
}


def assert_equal_trees(a, b):
    left, right = checkpoint.named_leaves(a), checkpoint.named_leaves(b)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
        assert np.asarray(left[name]).dtype == np.asarray(right[name]).dtype


def test_what_is_saved_comes_back_bit_for_bit_with_its_position(tmp_path):
    checkpoint.save(tmp_path, 12, STATE, {"data": {"position": 48}})
    restored = checkpoint.restore_newest(tmp_path, STATE)
    assert (restored.step, restored.extra) == (12, {"data": {"position": 48}})
    assert_equal_trees(restored.state, STATE)


def test_no_checkpoint_is_none_and_not_an_error(tmp_path):
    assert checkpoint.restore_newest(tmp_path / "missing", STATE) is None


def test_only_the_asked_number_is_kept_and_the_newest_is_chosen(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, STATE, {}, keep=2)
    assert checkpoint.steps(tmp_path) == [2, 3]
    assert checkpoint.restore_newest(tmp_path, STATE).step == 3


def test_a_half_written_folder_is_never_listed_and_is_removed_by_the_next_save(tmp_path):
    leftover = tmp_path / "partial_5_1"
    leftover.mkdir()
    (leftover / "manifest.json").write_text("{}")
    assert checkpoint.steps(tmp_path) == []
    checkpoint.save(tmp_path, 5, STATE, {})
    assert not leftover.exists() and checkpoint.steps(tmp_path) == [5]


def test_no_flipped_bit_is_ever_restored_silently(tmp_path):
    folder = checkpoint.save(tmp_path, 1, STATE, {})
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    draw = random.Random(0)
    for trial in range(60):
        path = files[trial % len(files)]
        content = path.read_bytes()
        if not content:
            continue
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            restored = checkpoint.restore(tmp_path, 1, STATE)
        except checkpoint.CheckpointError:
            pass  # named
        else:
            assert_equal_trees(restored.state, STATE)  # harmless, such as a space in the manifest
        path.write_bytes(content)
    assert_equal_trees(checkpoint.restore(tmp_path, 1, STATE).state, STATE)


@pytest.mark.parametrize("damage", ["truncate", "zero", "delete"])
def test_damage_to_any_file_falls_back_to_the_older_healthy_step(tmp_path, damage, caplog):
    checkpoint.save(tmp_path, 1, STATE, {}, keep=2)
    folder = checkpoint.save(tmp_path, 2, STATE, {}, keep=2)
    path = max(
        (file for file in (folder / "arrays").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
    )
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "truncate" else b"\0" * 100)
    restored = checkpoint.restore_newest(tmp_path, STATE)
    assert restored.step == 1
    assert path.name in caplog.text
    assert_equal_trees(restored.state, STATE)


def test_when_nothing_can_be_trusted_the_error_names_the_file(tmp_path):
    folder = checkpoint.save(tmp_path, 1, STATE, {})
    (folder / "manifest.json").write_text("{")
    with pytest.raises(checkpoint.CheckpointError, match=r"manifest\.json"):
        checkpoint.restore_newest(tmp_path, STATE)


def test_another_model_is_refused_with_every_difference(tmp_path):
    checkpoint.save(tmp_path, 1, STATE, {})
    other = {"params": {"embedding": np.zeros((3, 5), np.float32), "gain": np.zeros(2, np.float32)}}
    with pytest.raises(checkpoint.CheckpointError) as problem:
        checkpoint.restore(tmp_path, 1, other)
    for part in ("params/gain is missing", "params/mix is not expected", "[3, 4], expected float32[3, 5]"):
        assert part in str(problem.value)


def test_a_notebook_reads_plain_arrays_without_model_or_mesh(tmp_path):
    arrays, manifest = checkpoint.load_arrays(checkpoint.save(tmp_path, 4, STATE, {"note": 1}))
    np.testing.assert_array_equal(arrays["params/embedding"], STATE["params"]["embedding"])
    assert manifest["step"] == 4 and json.dumps(manifest)
