"""Claims about files that are whole or not there, and about the collector that is paused while many are read."""

import gc
import json
import os

import pytest
from blake3 import blake3

from kleiber.collector import collector_paused
from kleiber.files import _indented, read_json, replacing, write_json, write_whole


@pytest.mark.parametrize("write", [write_whole, write_json])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, write):
    path = tmp_path / "folder" / "file"
    write(path, "old")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, object())
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_reader_never_sees_a_file_half_written(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")
    with replacing(path) as partial:
        partial.write_text("ne")
        assert path.read_text() == "old" and str(os.getpid()) in partial.name
        partial.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, is_durable):
    path, done = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (done.append(os.fstat(number).st_size), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("named"), replace(*names)))
    with replacing(path, is_durable) as partial:
        partial.write_text("four")
    assert done[:2] == ([4, "named"] if is_durable else ["named"])  # and then the folder


def test_json_comes_back_and_damage_names_the_file(tmp_path):
    path = tmp_path / "folder" / "data.json"
    write_json(path, {"a": [1, None]})
    seal = blake3(b'{"a":[1,null]}').hexdigest()
    written = '{\n "sealed": "blake3",\n "a": [\n  1,\n  null\n ],\n "seal": "' + seal + '"\n}\n'
    assert read_json(path) == {"a": [1, None]} and path.read_text() == written
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path} is not whole JSON .* remove it"):
        read_json(path)


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_off_inside_and_as_it_was_after_even_when_that_fails(was_on):
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(KeyError), collector_paused():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == was_on
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "data",
    [
        *({}, [], 3, "x", None, True),
        {"a": [], "b": {}, "c": [1, 2.5, None, True, 'x, "y"\n', float("nan")]},
        [1, {"b": [[], [1, [2]], ()], 'q"': "\u00e9\u2028"}, (1, 2)],
        {1: [[1.0] * 3, ("a",)], None: [{}], 2.5: {"x": [-1]}},
    ],
)
def test_a_sealed_text_is_laid_out_as_json_is(data):
    assert _indented(data, "\n") == json.dumps(data, indent=1)
