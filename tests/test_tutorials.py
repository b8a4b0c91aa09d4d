"""Claims about the tutorials: who types what stands there, from top to bottom, sees what stands there."""

import pytest
from tutorial import PAGES, Different, check, play, renewed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_says(page, tmp_path):
    found = play(page.read_text(encoding="utf-8"), tmp_path)
    assert found
    for block, printed in found:
        check(block.text, printed)


def test_other_words_other_numbers_and_lines_not_told_are_seen():
    printed = "one run in 3.2 s\nloss 1.234\nend\n"
    for said in ("one run in 99 s\nloss 1.235\nend", "...\nloss 1.234\n...", "one run in 3.2 s\n..."):
        check(said, printed)
    wrong = "two runs in 3.2 s\n...", "...\nloss 2.234\n...", "...\nend\nmore", "...\nloss 1.234", "loss 1.234\n..."
    for said in wrong:
        with pytest.raises(Different):
            check(said, printed)


def test_a_block_that_fails_is_seen(tmp_path):
    with pytest.raises(Different, match="exit code 3"):
        play("```sh\nexit 3\n```\n", tmp_path)
    with pytest.raises(Different, match="exit code 1"):
        play("```sh\nfalse\ntrue\n```\n", tmp_path)


def test_lines_are_renewed_where_they_stand():
    assert renewed("...\nloss 1.0\n...\n", "begin\nloss 2.5\nend\n") == "...\nloss 2.5\n...\n"
    assert renewed("", "all of it\n\n") == "all of it\n"
