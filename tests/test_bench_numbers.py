"""Medians, percentiles and intervals, recomputed from the samples by ways that are not ours."""

from __future__ import annotations

import random
import statistics

import pytest

from mycontainer.bench import numbers

SAMPLES = [random.Random(7).lognormvariate(0, 0.5) for _ in range(41)]


def test_the_median_is_the_one_of_the_statistics_module() -> None:
    for values in (SAMPLES, SAMPLES[:40], SAMPLES[:1], [3.0, 1.0]):
        assert numbers.median(values) == pytest.approx(statistics.median(values))


def test_percentiles_are_those_of_the_statistics_module() -> None:
    cuts = statistics.quantiles(SAMPLES, n=20, method="inclusive")
    for share, cut in zip((0.05, 0.5, 0.95), (cuts[0], cuts[9], cuts[18]), strict=True):
        assert numbers.quantile(SAMPLES, share) == pytest.approx(cut)


def test_a_percentile_is_not_made_up_from_a_handful() -> None:
    assert numbers.p95(SAMPLES[:19]) is None
    assert numbers.p95(SAMPLES[:20]) == numbers.quantile(SAMPLES[:20], 0.95)


def test_no_samples_have_no_number() -> None:
    with pytest.raises(ValueError, match="no samples"):
        numbers.median([])


def test_the_interval_of_a_ratio_is_that_of_order_statistics() -> None:
    """The binomial interval of a median, by ranks, needs no drawing of lots: the two are near one another."""
    base = [1.0] * 41  # the ratio is then the median itself
    ratio = numbers.ratio(SAMPLES, base)
    ordered = sorted(SAMPLES)
    assert ratio.value == pytest.approx(statistics.median(SAMPLES))
    # ranks 14 and 28 of 41: 95.6 % of Binomial(41, 1/2) lie between
    assert ratio.low == pytest.approx(ordered[13], rel=0.1)
    assert ratio.high == pytest.approx(ordered[27], rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """95 %, that is; of 100 experiments with a true ratio of 2, between 88 and 100."""
    monkeypatch.setattr(numbers, "RESAMPLES", 200)
    lot, covered = random.Random(3), 0
    for seed in range(100):
        one, two = ([factor * lot.lognormvariate(0, 0.3) for _ in range(25)] for factor in (1, 2))
        ratio = numbers.ratio(two, one, seed)
        covered += ratio.low <= 2 <= ratio.high
    assert 88 <= covered <= 100


def test_the_same_samples_give_the_same_interval() -> None:
    assert numbers.ratio(SAMPLES, SAMPLES[::-1]) == numbers.ratio(SAMPLES, SAMPLES[::-1])


def test_what_cannot_be_told_apart_is_what_chance_makes_of_one_subject() -> None:
    lot = random.Random(1)
    for noise in (0.01, 0.1):
        same, again = ([lot.gauss(1, noise) for _ in range(50)] for _ in range(2))
        assert 0.1 * noise < numbers.visible(same, again) < 2 * noise
    assert not numbers.ratio(same, again).differs
    assert numbers.ratio([2 * value for value in same], again).differs
