"""Claims about output: nobody need read it for the work to go on, any text can be shown, and no link is followed."""

import io
import os
import sys

import pytest

from kleiber.experiments.cli import main
from kleiber.experiments.report.build import scratch_place
from kleiber.experiments.sweeping.compiled import remove_damaged, seal_new
from kleiber.experiments.terminal import accept_all_text, tell
from kleiber.files import open_to_append


def broken_pipe():
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


@pytest.mark.parametrize("make", [broken_pipe, lambda: open("/dev/full", "w")])
def test_a_line_that_nobody_can_take_ends_nothing_and_nor_does_closing_the_stream(make):
    stream = make()
    tell("first", stream)
    tell("second", stream)
    stream.close()


def test_an_encoding_that_lacks_a_character_shows_its_code_and_a_closed_stream_takes_all(monkeypatch):
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", None)
    accept_all_text()
    tell("1.25 \u00b1 0.1")
    print("nowhere", file=sys.stderr)
    assert taken.getvalue() == b"1.25 \\xb1 0.1\n"
    sys.stderr.close()


def test_control_characters_of_a_line_reach_no_terminal(capsys):
    tell("larger\x1b]0;owned\x07")
    assert capsys.readouterr().out == "larger\\x1b]0;owned\\x07\n"


def test_a_log_is_not_written_through_a_link_and_takes_any_text(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "log.txt").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        open_to_append(tmp_path / "log.txt")
    assert (tmp_path / "victim").read_text() == "mine"
    with open_to_append(tmp_path / "other.txt") as log:
        log.write("\u00b1\udcff")
    assert (tmp_path / "other.txt").read_bytes() == b"\xc2\xb1\\udcff"


@pytest.mark.parametrize("length", [20, 69, 116])
def test_the_sockets_of_a_report_fit_into_their_name_whatever_the_temporary_folder(monkeypatch, length):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/" + "t" * (length - 1))
    assert len(f"{scratch_place()}/kleiber-report-12345678/kernel-5") <= 107


@pytest.fixture
def cache(tmp_path):
    """A compilation cache of two entries with their digests."""
    for name in ("jit_a-cache", "jit_b-cache"):
        (tmp_path / name).write_bytes(name.encode() * 9)
    seal_new(tmp_path)
    return tmp_path


def test_whole_entries_of_the_compilation_cache_stay(cache):
    assert remove_damaged(cache, is_ours=True) == [] and len(list(cache.glob("*-cache"))) == 2


@pytest.mark.parametrize("damage", [lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b[:9], lambda b: b""])
def test_a_damaged_entry_is_removed_with_its_digest_before_anything_is_read_of_it(cache, damage):
    path = cache / "jit_a-cache"
    path.write_bytes(damage(path.read_bytes()))
    assert remove_damaged(cache, is_ours=True) == ["jit_a-cache"]
    assert {each.name for each in cache.iterdir()} == {"jit_b-cache", "jit_b-cache.blake3"}


def test_entries_that_were_exchanged_are_removed_even_with_their_digests(cache):
    for end in ("", ".blake3"):
        os.rename(cache / f"jit_a-cache{end}", cache / "kept")
        os.rename(cache / f"jit_b-cache{end}", cache / f"jit_a-cache{end}")
        os.rename(cache / "kept", cache / f"jit_b-cache{end}")
    assert remove_damaged(cache, is_ours=True) == ["jit_a-cache", "jit_b-cache"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_an_entry_without_a_digest_goes_only_where_kleiber_alone_writes(cache, is_ours):
    (cache / "jit_c-cache").write_bytes(b"of a worker that was killed")
    assert remove_damaged(cache, is_ours) == [] and (cache / "jit_c-cache").exists() != is_ours


ESCAPE = "\x1b]0;owned\x07"


@pytest.mark.parametrize(
    "line",
    [
        *(
            f"{verb} {{}}"
            for verb in ("plan", "sweep", "train", "laws", "ledger", "ask", "report", "doctor", "compile")
        ),
        *("fit {}.csv", "forecast {} --num-params 1e6 --num-tokens 1e8", "data prepare {}", "eval {}", "generate {}"),
        *("export {} --to x", "design {} --budget 1e15 --target 1e16", "rewind {} --out y --skip-batches 1:2", "{}"),
        "plan miniature --set {}=1",
    ],
)
def test_no_verb_sends_control_characters_of_its_line_to_the_terminal(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    assert main(line.format(f"nosuch{ESCAPE}").split()) == 2
    told = capsys.readouterr()
    assert ESCAPE[0] not in told.out + told.err and "\\x1b]0;owned" in told.err


def test_control_characters_of_a_table_reach_no_terminal(tmp_path, capsys):
    rows = [f"{n},{d},{1.7 + 400 / n**0.34 + 410 / d**0.28},x" for n in (1e6, 1e7, 1e8) for d in (2e7, 5e8, 1e10)]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([f"num_params_total,num_tokens,loss,State{ESCAPE}", *rows, f"1e6,1e8,2,crashed{ESCAPE}"]))
    assert main(["fit", str(path), "--no-in-depth"]) in (0, 2)
    told = capsys.readouterr()
    assert ESCAPE[0] not in told.out + told.err
