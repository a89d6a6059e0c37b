"""DeLong's interval and paired test, within strata and for clusters, against counting every pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from open_set_fer.benchmark.evaluation.delong import Estimate, area, difference


def textbook(is_open, *scores):
    """DeLong, DeLong and Clarke-Pearson (1988) by their formulas: areas and covariance of scores of the same faces."""
    wins = [
        (s[is_open][:, None] > s[~is_open][None]) + 0.5 * (s[is_open][:, None] == s[~is_open][None]) for s in scores
    ]
    by_open, by_closed = (np.array([w.mean(axis=axis) for w in wins]) for axis in (1, 0))
    covariance = np.cov(by_open) / is_open.sum() + np.cov(by_closed) / (~is_open).sum()
    return np.array([w.mean() for w in wins]), np.atleast_2d(covariance)


def by_pairs(is_open, score, strata, clusters):
    """Area and Obuchowski's (1997) variance within strata, from the matrix of all pairs."""
    opened, closed = np.flatnonzero(is_open), np.flatnonzero(~is_open)
    inside = (strata[opened][:, None] == strata[closed][None]).astype(float)
    a, b = score[opened][:, None], score[closed][None]
    wins = inside * ((a > b) + 0.5 * (a == b))
    value = wins.sum() / inside.sum()
    of_open, of_closed = ((wins - value * inside).sum(axis=axis) / inside.sum() for axis in (1, 0))
    groups = np.unique(clusters)
    x = np.array([of_open[clusters[opened] == g].sum() for g in groups])
    y = np.array([of_closed[clusters[closed] == g].sum() for g in groups])
    n, m, both = len(set(clusters[opened])), len(set(clusters[closed])), len(groups)
    variance = n / (n - 1) * (x**2).sum() + m / (m - 1) * (y**2).sum() + 2 * both / (both - 1) * (x * y).sum()
    return value, variance


@st.composite
def faces(draw):
    n, rng = draw(st.integers(8, 80)), np.random.default_rng(draw(st.integers(0, 2**32)))
    is_open = rng.random(n) < draw(st.floats(0.2, 0.8))
    is_open[:4] = [True, True, False, False]
    levels = draw(st.sampled_from([2, 6, 0]))
    score = rng.integers(0, levels, n).astype(float) if levels else rng.normal(size=n)
    strata, clusters = rng.integers(0, draw(st.integers(1, 6)), n), rng.integers(0, draw(st.integers(9, 200)), n)
    strata[[0, 1, 2, 3]], clusters[[0, 1, 2, 3]] = 0, [1000, 1001, 1002, 1003]
    return is_open, score, strata, clusters


@settings(max_examples=100, deadline=None)
@given(faces())
def test_one_stratum_of_single_faces_is_delongs_textbook(case):
    is_open, score, _, _ = case
    other = np.roll(score, 1)
    values, covariance = textbook(is_open, score, other)
    first, second = area(is_open, score), area(is_open, other)
    assert (first.value, first.error**2) == pytest.approx((values[0], covariance[0, 0]), abs=1e-12)
    paired = difference(first, second)
    assert paired.value == pytest.approx(values[0] - values[1], abs=1e-12)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert paired.error**2 == pytest.approx(variance, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(faces())
def test_strata_and_clusters_against_every_pair(case):
    is_open, score, strata, clusters = case
    found = area(is_open, score, np.array(list("abcdef"))[strata], clusters)
    value, variance = by_pairs(*case)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.error**2 == pytest.approx(max(variance, 0), abs=1e-12)
    weights, areas = [], []
    for stratum in np.unique(strata):
        part = strata == stratum
        if (alone := area(is_open[part], score[part])) is not None:
            weights.append(is_open[part].sum() * (~is_open[part]).sum())
            areas.append(alone.value)
    assert found.value == pytest.approx(np.average(areas, weights=weights), abs=1e-12), "S as the review defines it"


def test_known_values():
    # Three of four pairs in order; placements 1/2, 1 of open and 1, 1/2 of closed faces: variance 2 * (1/8) / 2.
    found = area(np.array([False, False, True, True]), np.array([0.1, 0.4, 0.3, 0.8]))
    assert (found.value, found.error**2) == pytest.approx((0.75, 0.125))
    assert found.interval() == (pytest.approx(0.75 - 1.959964 * 0.125**0.5), 1.0), "cut at 1"
    assert found.lower() == pytest.approx(0.75 - 1.644854 * 0.125**0.5)
    assert Estimate(0.7, 0.1).p(0.5) == pytest.approx(2 * norm.sf(2))
    assert (Estimate(0.5, 0.0).p(0.5), Estimate(1.0, 0.0).p(0.5)) == (1, 0)


def test_the_order_of_the_faces_and_strata_without_a_pair_change_nothing():
    rng = np.random.default_rng(0)
    is_open, score, strata = rng.random(60) < 0.4, rng.normal(size=60), rng.integers(0, 3, 60)
    order = rng.permutation(60)
    one, other = area(is_open, score, strata), area(is_open[order], score[order], strata[order])
    assert (one.value, one.error) == pytest.approx((other.value, other.error))
    assert np.allclose(one.contributions[order], other.contributions)
    more = area(np.r_[is_open, True], np.r_[score, 9.0], np.r_[strata, 7])
    assert more.value == one.value
    assert area(is_open, score, np.arange(60)) is None, "no stratum has both kinds"
    assert np.isnan(area(np.array([True, False, False]), np.arange(3.0)).error), "one open face"
    assert area(is_open, is_open.astype(float)).interval() == (1, 1)
    assert area(is_open, np.zeros(60)).interval() == (0.5, 0.5), "ties count half"


def test_a_face_that_is_copied_widens_nothing_but_a_cluster_of_the_copies_does():
    rng = np.random.default_rng(1)
    is_open = np.arange(200) < 80
    score = rng.normal(size=200) + is_open
    once = area(is_open, score)
    twice, ids = (np.tile(is_open, 2), np.tile(score, 2)), np.tile(np.arange(200), 2)
    assert area(*twice).error < 0.8 * once.error, "copies taken for faces of their own"
    assert area(*twice, clusters=ids).error == pytest.approx(once.error)


def test_a_paired_difference_is_of_the_same_faces():
    is_open, score = np.array([True, True, False, False]), np.arange(4.0)
    with pytest.raises(ValueError, match="the same faces"):
        difference(area(is_open, score), area(~is_open, score))
    same = difference(area(is_open, score), area(is_open, score))
    assert (same.value, same.error, same.p(0.0)) == (0, 0, 1)


@pytest.mark.parametrize("effect", [0.0, 0.7])
def test_intervals_cover_as_often_as_they_say(effect):
    """Faces in five strata of other levels: 95 % two-sided and one-sided, of 600 samples."""
    rng, truth = np.random.default_rng(2), norm.cdf(effect / 2**0.5)
    inside, above = [], []
    for _ in range(600):
        strata, is_open = rng.integers(0, 5, 300), rng.random(300) < 0.3
        found = area(is_open, rng.normal(size=300) + effect * is_open + 3 * strata, strata)
        low, high = found.interval()
        inside.append(low <= truth <= high)
        above.append(found.lower() <= truth)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)
    assert np.mean(above) == pytest.approx(0.95, abs=0.025)


def test_many_faces_are_sorted_and_not_paired():
    """Of 60,000 faces the pairs alone would take 7 GB."""
    rng = np.random.default_rng(0)
    is_open, score = rng.random(60_000) < 0.5, rng.normal(size=60_000)
    found = area(is_open, score, rng.integers(0, 60, 60_000))
    assert found.interval()[0] < 0.5 < found.interval()[1]
