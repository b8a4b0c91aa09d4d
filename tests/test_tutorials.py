"""Claims about the tutorials: who types what stands there, from top to bottom, sees what stands there."""

import pytest
from tutorial import PAGES, Different, check, play, renewed, tolerance_of

LONG = {"fine_tuning"}
"""Run by `make tutorials` alone: it compiles four programs."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem not in LONG], ids=lambda page: page.stem)
def test_a_tutorial_prints_what_it_says(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    found = play(text, tmp_path)
    assert found
    for block, printed in found:
        check(block.text, printed, tolerance_of(text))


def test_other_words_other_numbers_and_lines_not_told_are_seen():
    printed = "one run in 3.2 s\nloss 1.234\nend\n"
    for said in ("one run in 99 s\nloss 1.235\nend", "...\nloss 1.234\n...", "one run in 3.2 s\n..."):
        check(said, printed)
    check("a by 0.20 ± 0.03", "a by 0.20 ± 0.05")
    with pytest.raises(Different):
        check("a by 0.20 ± 0.03", "a by 0.20 ± 0.07")
    wrong = "two runs in 3.2 s\n...", "...\nloss 2.234\n...", "...\nend\nmore", "...\nloss 1.234", "loss 1.234\n..."
    for said in wrong:
        with pytest.raises(Different):
            check(said, printed)


def test_numbers_of_a_text_that_each_python_has_another_of_are_held_where_the_page_was_written():
    page = "<!-- numbers within 30 % -->\n```python\nfrom pydoc_data.topics import topics\n```\n"
    assert tolerance_of(page, (3, 11)) == 0.3 and tolerance_of("", (3, 13)) == 0.05
    check("loss 1.0\n", "loss 2.0\n", tolerance_of(page, (3, 13)))
    with pytest.raises(Different):
        check("loss 1.0\n", "lost 1.0\n", tolerance_of(page, (3, 13)))


def test_a_block_that_fails_is_seen(tmp_path):
    with pytest.raises(Different, match="exit code 3"):
        play("```sh\nexit 3\n```\n", tmp_path)
    with pytest.raises(Different, match="exit code 1"):
        play("```sh\nfalse\ntrue\n```\n", tmp_path)


def test_lines_are_renewed_where_they_stand():
    assert renewed("...\nloss 1.0\n...\n", "begin\nloss 2.5\nend\n") == "...\nloss 2.5\n...\n"
    assert renewed("", "all of it\n\n") == "all of it\n"
