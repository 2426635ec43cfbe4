"""Sample sequences: the protocol's rules, even draws from the splits, and distances beside those of chance."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from hf_repgeo import BadInput
from hf_repgeo.downstream import frequency_report, plot_frequencies, sample_sequences


def lines(prefix: str, count: int, words: int = 6) -> list[str]:
    texts = (" ".join(f"{prefix}{(7 * i + 3 * j) % 97:02d}" for j in range(words)) for i in range(count))
    return [f"{text} {prefix}n{i}" for i, text in enumerate(texts)]


def test_words_are_two_letters_or_more_and_case_stays():
    sample = sample_sequences({"a": ["The <unk> , a cat ( Felis ) sat @-@ down ."]}, n=1)
    assert sample.sequences == ["The unk cat Felis sat down"]


@pytest.mark.parametrize("count, kept", [(3, False), (4, True), (49, True), (50, False)])
def test_lengths_from_four_to_forty_nine_words_are_kept_both_included(count, kept):
    given = {"a": [" ".join(["word"] * count), "four words are enough"]}
    assert (" ".join(["word"] * count) in sample_sequences(given, n=1 + kept).sequences) == kept


def test_every_split_is_drawn_equally_often_whatever_its_size():
    sample = sample_sequences({"small": lines("s", 4000), "large": lines("l", 20_000)}, n=1000, seed=3)
    share = Counter(sample.splits)["small"] / 1000
    assert abs(share - 0.5) < 4 * np.sqrt(0.25 / 1000) + 0.03  # a line drawn twice counts once: 500^2 / 2 / 4000 lines


def test_sequences_are_distinct_and_the_same_for_the_same_seed():
    given = {"a": lines("a", 300), "b": lines("b", 300)}
    first, again, other = (sample_sequences(given, n=200, seed=seed) for seed in (1, 1, 2))
    assert first.sequences == again.sequences != other.sequences
    assert len(set(first.sequences)) == 200


def test_a_split_that_is_used_up_leaves_the_rest_to_the_others():
    sample = sample_sequences({"tiny": lines("t", 3), "b": lines("b", 400)}, n=403)
    assert sorted(Counter(sample.splits).values()) == [3, 400]


def test_files_are_read_line_by_line(tmp_path):
    (tmp_path / "ptb.txt").write_text("no it was n't black monday\n\nbut while the new york stock\n")
    assert len(sample_sequences([tmp_path / "ptb.txt"], n=2)) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"corpora": {"a": ["too short"]}, "n": 1}, "'a' without a line of 4 to 49 words"),
        ({"corpora": {"a": lines("a", 5)}, "n": 6}, "`n`: got 6; wanted 1 to 5"),
        ({"corpora": {"a": lines("a", 5)}, "n": 0}, "`n`: got 0"),
        ({"corpora": ["missing.txt"], "n": 1}, "'missing.txt', which is not a file"),
        ({"corpora": {}, "n": 1}, "at least one split"),
        ({"min_words": 9, "max_words": 4}, "9 to 4 words"),
    ],
)
def test_what_cannot_be_sampled_is_refused_with_the_reason(arguments, message):
    with pytest.raises(BadInput, match=message):
        sample_sequences(**arguments)


def test_a_file_that_is_not_utf8_names_the_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good \xff bad")
    with pytest.raises(BadInput, match="not UTF-8 at byte 5"):
        sample_sequences([tmp_path / "a.txt"], n=1)


def test_distances_equal_scipys():
    sample = sample_sequences({"a": lines("a", 90), "b": lines("b", 200, 9)}, n=120, seed=5)
    report = frequency_report(sample, draws=9)
    pool = [s.split() for split in sample.eligible.values() for s in split]
    chosen = [s.split() for s in sample.sequences]
    counts, mine = (Counter(word for words in part for word in words) for part in (pool, chosen))
    p, q = ([counter[word] for word in counts] for counter in (counts, mine))
    assert report.distances["unigrams"].value == pytest.approx(jensenshannon(p, q, base=2))
    lengths = wasserstein_distance([len(w) for w in pool], [len(w) for w in chosen])
    assert report.distances["lengths"].value == pytest.approx(lengths)
    assert report.distances["lengths"].p == 0.1  # the short split is over-drawn: further off than all nine by chance


def test_a_uniform_sample_is_as_far_as_chance_says():
    inside = 0
    for seed in range(20):
        found = frequency_report(sample_sequences({"a": lines("a", 400)}, n=100, seed=seed), draws=39, seed=seed)
        inside += found.distances["bigrams"].p > 0.05
    assert inside >= 16


def test_the_whole_corpus_has_distance_zero():
    report = frequency_report(sample_sequences({"a": lines("a", 50)}, n=50), draws=3)
    assert all(distance.value == pytest.approx(0, abs=1e-7) for distance in report.distances.values())


def test_the_figure_has_the_papers_three_panels():
    report = frequency_report(sample_sequences(n=100), draws=3)
    assert len(plot_frequencies(report).axes) == 3 and "unigrams" in str(report)


def test_a_data_set_of_the_hub_gives_its_lines_and_conversations_are_refused(monkeypatch):
    from hf_repgeo.downstream import sequences

    texts = ["one line of words\nand another such line", "then a third line of words"]
    found = SimpleNamespace(documents=texts)
    monkeypatch.setattr(sequences, "read_dataset", lambda place, limit: found)
    drawn = sample_sequences(["me/texts:main:train"], n=3).sequences
    assert sorted(drawn) == ["and another such line", "one line of words", "then third line of words"]
    found.documents = [[{"role": "user", "content": "a cat"}]]
    with pytest.raises(BadInput, match="'me/texts', a column of conversations; wanted a column of texts"):
        sample_sequences(["me/texts"], n=1)


def test_a_corpus_whose_lines_are_nearly_all_drawn_gives_the_last_ones_too():
    pool = lines("a", 300)
    assert sorted(sample_sequences({"a": pool}, n=300, seed=1).sequences) == sorted(pool)
