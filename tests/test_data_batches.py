"""Claims about batches: what a window is, which come in which order, and that stopping never changes it."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from kleiber.model.config import ModelConfig
from kleiber.train.config import DataConfig
from kleiber.train.data.batches import TrainBatches, check_enough
from kleiber.train.data.tokens import TokenFile
from kleiber.train.data.windows import TokenSource, check_vocabulary, open_tokens, validation_windows

SEQ_LEN = 8
LENGTHS = (5, 1, 30, 8, 200, 2, 2, 2, 60, 7)  # of documents, separators included: 317 tokens, 39 windows


def make_source(lengths=LENGTHS, groups=None, seq_len=SEQ_LEN, num_text_bytes=None) -> TokenSource:
    """Returns a source whose token at position p is p modulo 251, so that a window shows where it came from."""
    total = sum(lengths)
    file = TokenFile(
        tokens=(np.arange(total) % 251).astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        groups=np.array(groups or range(len(lengths)), np.int32),
        tokenizer="bytes",
        vocab_size=256,
        num_text_bytes=num_text_bytes or total,
        fingerprint="test/bytes/0",
    )
    return TokenSource(file, seq_len, "test", "train")


def digest(indices: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(indices).tobytes()).hexdigest()


def global_batches(source, num_steps, batch_size=5, seed=3, **options) -> list[str]:
    batches = TrainBatches(source, batch_size, seed, **options)
    return [digest(batches.next_indices(1)[0]) for _ in range(num_steps)]


def test_windows_make_every_token_but_the_first_a_target_once():
    source = make_source()
    windows = source.windows(np.arange(source.num_sequences))
    assert np.array_equal(windows[1:, 0], windows[:-1, -1])
    targets = windows[:, 1:].ravel()
    assert np.array_equal(targets, np.arange(1, 39 * SEQ_LEN + 1) % 251)


def test_an_epoch_holds_each_window_once_even_when_the_batch_does_not_divide_it():
    batches = TrainBatches(make_source(), batch_size=5, seed=0, max_epochs=10)
    drawn = batches.next_indices(39).ravel()  # 39 windows, batches of 5: five epochs exactly
    for epoch in np.split(drawn, 5):
        assert sorted(epoch) == list(range(39))


def test_epochs_and_seeds_have_different_orders():
    def epochs(seed):
        drawn = TrainBatches(make_source(), 39, seed, max_epochs=3).next_indices(3)
        return [tuple(row) for row in drawn]

    orders = [order for seed in range(4) for order in epochs(seed)]  # grain adds the epoch to its seed
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("stop", [0, 1, 7, 8, 15, 16, 19])
def test_resuming_gives_the_same_batches_as_never_stopping(stop):
    source = make_source()
    whole = global_batches(source, 20, max_epochs=3)  # 100 sequences: two epoch edges, one in the middle of a batch
    first = TrainBatches(source, 5, 3, max_epochs=3)
    before = [digest(first.next_indices(1)[0]) for _ in range(stop)]
    saved = json.loads(json.dumps(first.state()))
    second = TrainBatches(source, 5, 3, max_epochs=3)
    second.restore(saved)
    assert before + [digest(second.next_indices(1)[0]) for _ in range(20 - stop)] == whole


def test_how_many_steps_are_drawn_at_a_time_does_not_change_the_batches():
    source = make_source()
    one_by_one = TrainBatches(source, 5, 3, max_epochs=3)
    several = TrainBatches(source, 5, 3, max_epochs=3)
    singles = np.concatenate([one_by_one.next_indices(1) for _ in range(12)])
    assert np.array_equal(singles, np.concatenate([several.next_indices(n) for n in (7, 1, 4)]))


def test_a_position_of_another_run_is_refused():
    source = make_source()
    state = TrainBatches(source, 5, 3).state()
    for other in (
        TrainBatches(source, 5, 4),
        TrainBatches(source, 5, 3, 160),
        TrainBatches(make_source(seq_len=4), 5, 3),
    ):
        with pytest.raises(ValueError, match="of another run: (seed 3|num_unique 39)"):
            other.restore(state)


def test_a_subset_repeats_only_its_own_windows_and_a_larger_one_holds_it():
    def windows_of(num_unique_tokens, seed):
        batches = TrainBatches(make_source(), 10, seed, num_unique_tokens, max_epochs=9)
        return set(batches.next_indices(2 * batches.num_unique // 10).ravel().tolist())

    small = windows_of(10 * SEQ_LEN, 0)
    assert len(small) == 10
    assert small == windows_of(10 * SEQ_LEN, 1)
    assert small < windows_of(20 * SEQ_LEN, 0)


def test_more_epochs_than_allowed_are_refused():
    batches = TrainBatches(make_source(), 5, 0, max_epochs=1.5)
    batches.next_indices(11)  # 55 of ceil(58.5) sequences
    with pytest.raises(ValueError, match="max_epochs"):
        batches.next_indices(1)


def test_a_short_corpus_says_how_many_epochs_the_plan_takes_and_what_allows_them():
    source = make_source()  # 39 windows of 8: 312 tokens
    assert check_enough(source, 156, max_epochs=1) == 0.5
    assert check_enough(source, 780, max_epochs=2.5) == 2.5
    with pytest.raises(ValueError, match=r"2\.50 epochs of its 312 tokens.*max_epochs=2\.5"):
        check_enough(source, 780, max_epochs=1)
    with pytest.raises(ValueError, match=r"num_unique_tokens=80"):
        check_enough(source, 156, max_epochs=1, num_unique_tokens=80)


def test_an_impossible_subset_or_batch_is_refused():
    with pytest.raises(ValueError, match=r"num_unique_tokens is 320, expected from 8 .* to 312"):
        TrainBatches(make_source(), 5, 0, num_unique_tokens=320)
    with pytest.raises(ValueError, match="num_unique_tokens is 7"):
        TrainBatches(make_source(), 5, 0, num_unique_tokens=7)
    with pytest.raises(ValueError, match="batch_size is 0"):
        TrainBatches(make_source(), 0, 0)


def test_segment_ids_count_the_documents_of_a_window():
    source = make_source()
    owner = [document for document, length in enumerate(LENGTHS) for _ in range(length)]
    expected = []
    for window in range(source.num_sequences):
        own = owner[window * SEQ_LEN : (window + 1) * SEQ_LEN + 1]
        expected.append([document - own[0] for document in own])
    assert np.array_equal(source.segment_ids(np.arange(source.num_sequences)), expected)
    block = source.segment_ids(np.array([[0, 3], [5, 1]]))
    assert block.shape == (2, 2, SEQ_LEN + 1) and np.array_equal(block[1, 1], expected[1])


def test_validation_windows_are_spread_evenly_and_always_the_same():
    source = make_source()
    chosen = validation_windows(source, 13 * SEQ_LEN)
    assert chosen.indices.tolist() == list(range(0, 39, 3))
    assert np.array_equal(chosen.tokens, validation_windows(source, 13 * SEQ_LEN).tokens)
    assert validation_windows(source, 10**9).indices.tolist() == list(range(39))


def test_a_validation_window_belongs_to_the_group_in_its_middle():
    source = make_source(lengths=(6, 20, 14), groups=(4, 7, 4))  # middles of the windows: positions 4, 12, 20, 28
    assert validation_windows(source, 4 * SEQ_LEN).groups.tolist() == [4, 7, 7, 4]


def test_bytes_per_token_turns_nats_into_bits_per_byte():
    source = make_source(num_text_bytes=2 * sum(LENGTHS))  # two bytes a token; a uniform model of 256 ids costs 8 bits
    assert np.log(256) / np.log(2) / source.bytes_per_token == pytest.approx(4)


def test_vocabulary_and_model_must_agree():
    model = ModelConfig(d_model=8, num_layers=1, num_heads=1, vocab_size=512)
    with pytest.raises(ValueError, match=r"256 ids, ModelConfig.vocab_size is 512; set ModelConfig.vocab_size=256"):
        check_vocabulary(make_source(), model)


def test_prepared_tokens_open_without_tfds_grain_or_jax(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Paragraph {number} says: {number * 7919}." * 8 for number in range(40)))
    data = DataConfig(corpus=str(text))
    fingerprint = open_tokens(data, "train", 16).fingerprint
    code = (
        "import sys; from kleiber.train.config import DataConfig; from kleiber.train.data.batches import TrainBatches\n"
        "from kleiber.train.data.windows import open_tokens\n"
        f"print(open_tokens(DataConfig(corpus={str(text)!r}), 'train', 16).fingerprint)\n"
        "print([name for name in ('tensorflow_datasets', 'grain', 'jax', 'sentencepiece') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == [fingerprint, "[]"]
