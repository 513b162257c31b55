"""Metrics of drawn images against real ones: closed forms, brute force, and the same numbers on any ranks."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from tests.tiny import on_ranks
from trainer.distributed import World
from trainer.evaluation.generative import kernel, neighbours
from trainer.evaluation.generative.features.net import FeatureNet, Seen, see_all
from trainer.evaluation.generative.features.resize import Pixels
from trainer.evaluation.generative.frechet import Moments, frechet_distance, frechet_stderr, moments
from trainer.evaluation.generative.inception_score import inception_score
from trainer.evaluation.generative.kernel import kernel_distance
from trainer.evaluation.generative.neighbours import covered
from trainer.evaluation.generative.scores import compare, metric_names


def features_of(count: int, width: int, *, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((width, width))
    return torch.from_numpy(shift + scale * rng.standard_normal((count, width)) @ mixing).float()


# --- Fréchet ---


def test_two_known_gaussians_are_as_far_apart_as_the_closed_form_says() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    first, second = rng.uniform(0.1, 4, 6), rng.uniform(0.1, 4, 6)
    means = rng.standard_normal((2, 6))
    ours, theirs = (
        Moments(torch.from_numpy(mean), torch.from_numpy(turn @ np.diag(variances) @ turn.T))
        for mean, variances in zip(means, (first, second), strict=True)
    )
    expected = ((means[0] - means[1]) ** 2).sum() + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-12)


def test_the_distance_is_that_of_the_product_s_root() -> None:
    ours, theirs = moments(features_of(300, 12, seed=1)), moments(features_of(250, 12, seed=2, shift=0.3, scale=1.4))
    root = linalg.sqrtm((ours.covariance @ theirs.covariance).numpy())
    apart = ours.mean - theirs.mean
    expected = apart @ apart + ours.covariance.trace() + theirs.covariance.trace() - 2 * np.trace(root).real
    assert frechet_distance(ours, theirs) == pytest.approx(float(expected), rel=1e-10)
    assert frechet_distance(theirs, ours) == pytest.approx(float(expected), rel=1e-10)


def test_the_distance_is_that_of_torchmetrics() -> None:
    """Its formula, which takes the eigenvalues of the product; its classes want a network of their own."""
    ours, theirs = moments(features_of(300, 16, seed=1)), moments(features_of(260, 16, seed=2, shift=0.2, scale=1.3))
    expected = float(_compute_fid(ours.mean, ours.covariance, theirs.mean, theirs.covariance))
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_not_apart_from_itself_nor_a_collapsed_one_without_a_distance() -> None:
    theirs = moments(features_of(200, 8, seed=1))
    assert frechet_distance(theirs, theirs) == pytest.approx(0, abs=1e-10)
    same = torch.ones(50, 8)
    collapsed = moments(same)
    apart = collapsed.mean - theirs.mean
    expected = float(apart @ apart + theirs.covariance.trace())
    assert frechet_distance(collapsed, theirs) == pytest.approx(expected, rel=1e-12)
    assert frechet_stderr(same, collapsed, theirs) == 0


def test_a_feature_that_is_always_the_same_adds_what_its_mean_is_off_by() -> None:
    ours, theirs = features_of(200, 5, seed=1), features_of(200, 5, seed=2)
    plain = frechet_distance(moments(ours), moments(theirs))
    more = [torch.cat([each, torch.full((200, 1), level)], 1) for each, level in ((ours, 0.0), (theirs, 2.0))]
    assert frechet_distance(moments(more[0]), moments(more[1])) == pytest.approx(plain + 4, rel=1e-9)
    known = frechet_stderr(ours, moments(ours), moments(theirs))
    assert frechet_stderr(more[0], moments(more[0]), moments(more[1])) == pytest.approx(known, rel=1e-9)


def test_moments_are_numpy_s_even_far_from_zero() -> None:
    features = features_of(5000, 6, seed=3, shift=1e3)
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.double().numpy().T), rtol=1e-9, atol=1e-9)


def test_the_distance_s_error_is_that_of_the_bootstrap() -> None:
    ours, theirs = features_of(800, 4, seed=4, shift=0.2), moments(features_of(4000, 4, seed=5, scale=1.2))
    rng = np.random.default_rng(0)
    resampled = [frechet_distance(moments(ours[rng.integers(0, 800, 800)]), theirs) for _ in range(300)]
    assert frechet_stderr(ours, moments(ours), theirs) == pytest.approx(float(np.std(resampled)), rel=0.15)


# --- the kernel distance ---


def by_pairs(x: Tensor, y: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return float((a.double() @ b.double() / x.shape[1] + 1) ** 3)

    own = [k(a, b) for a, b in itertools.permutations(x, 2)]
    others = [k(a, b) for a, b in itertools.permutations(y, 2)]
    across = [k(a, b) for a in x for b in y]
    return float(np.mean(own) + np.mean(others) - 2 * np.mean(across))


def test_the_kernel_distance_is_that_of_all_pairs_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features_of(9, 5, seed=1), features_of(7, 5, seed=2, shift=0.4)
    value, stderr = kernel_distance(x, y)
    assert value == pytest.approx(by_pairs(x, y), rel=1e-9)
    without = np.array([by_pairs(torch.cat([x[:place], x[place + 1 :]]), y) for place in range(9)])
    assert stderr == pytest.approx(math.sqrt(8 / 9 * np.sum((without - without.mean()) ** 2)), rel=1e-8)
    monkeypatch.setattr(kernel, "_CELLS", 15)
    assert kernel_distance(x, y) == pytest.approx((value, stderr), rel=1e-12)
    assert kernel_distance(x[:2], y)[1] is None


def test_the_kernel_distance_is_that_of_torchmetrics() -> None:
    x, y = features_of(60, 12, seed=1).double(), features_of(60, 12, seed=2, shift=0.4).double()
    assert kernel_distance(x, y)[0] == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)


# --- the Inception score ---


def test_a_distance_of_what_is_no_number_is_none_and_not_perfect() -> None:
    sound = Moments(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    broken = Moments(torch.tensor([math.nan, 0.0], dtype=torch.float64), sound.covariance)
    assert math.isnan(frechet_distance(broken, sound))


def test_the_inception_score_counts_classes_that_are_sure_and_unlike() -> None:
    sure = torch.full((30, 6), -50.0)
    sure[torch.arange(30), torch.arange(30) % 6] = 50.0
    assert inception_score(sure)[0] == pytest.approx(6)
    assert inception_score(torch.zeros(10, 6)) == pytest.approx((1, 0))
    assert inception_score(sure[:1]) == (1.0, None)


def test_the_inception_score_s_error_is_that_of_the_bootstrap() -> None:
    logits = 3 * features_of(600, 5, seed=6)
    rng = np.random.default_rng(0)
    resampled = [inception_score(logits[rng.integers(0, 600, 600)])[0] for _ in range(300)]
    assert inception_score(logits)[1] == pytest.approx(float(np.std(resampled)), rel=0.15)


# --- precision and recall ---


def test_manifolds_are_those_of_brute_force_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    points, centres = features_of(25, 3, seed=1, scale=1.6).double(), features_of(20, 3, seed=2).double()
    own = torch.cdist(centres, centres)
    radii = [sorted(row.tolist())[3] for row in own]  # the first is the centre itself
    expected = [any(math.dist(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
    assert 0 < sum(expected) < 25
    assert covered(points, centres, neighbours=3).tolist() == expected
    monkeypatch.setattr(neighbours, "_CELLS", 45)
    assert covered(points, centres, neighbours=3).tolist() == expected


# --- all of them ---


def net_of(name: str = "tiny", *, standard: bool = False) -> FeatureNet:
    """Sums over parts of an image, and two logits."""

    def see(images: Pixels) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(images).float().flatten(1)
        return torch.stack([pixels[:, ::2].mean(1), pixels[:, 1::2].std(1)], 1), pixels[:, :2] / 255

    return FeatureNet(name, standard, {"net": name}, see)


def seen_of(count: int, **how: Any) -> Seen:
    return Seen(features_of(count, 3, **how), features_of(count, 4, **how))


def test_every_metric_of_a_net_is_named_by_it_and_by_the_literature_only_where_it_may_be() -> None:
    assert metric_names(net_of("lite0"))["frechet"] == "frechet_lite0"
    standard = metric_names(net_of("inception", standard=True))
    assert standard == {
        "frechet": "fid",
        "kid": "kid",
        "inception_score": "inception_score",
        "precision": "precision_inception",
        "recall": "recall_inception",
    }
    result = compare("samples", net_of("lite0"), seen_of(30, seed=1), seen_of(40, seed=2), "p")
    assert [metric.name for metric in result.metrics] == [
        f"samples/{name}_lite0" for name in ("frechet", "kid", "inception_score", "precision", "recall")
    ]
    assert [metric.n for metric in result.metrics] == [30, 30, 30, 30, 40]
    assert all(metric.value is not None and metric.stderr is not None for metric in result.metrics)
    units = result.units["samples/precision_lite0"]
    precision = next(metric for metric in result.metrics if "precision" in metric.name)
    assert units.sums.sum() / units.sizes.sum() == precision.value
    assert precision.interval is not None


@pytest.mark.parametrize(
    ("count", "undefined"),
    [(30, set()), (3, {"frechet", "precision", "recall"}), (1, {"frechet", "kid", "precision", "recall"})],
)
def test_too_few_images_leave_a_metric_undefined_with_both_counts(count: int, undefined: set[str]) -> None:
    result = compare("samples", net_of(), seen_of(count, seed=1), seen_of(40, seed=2), "p")
    without = {
        metric.name.removeprefix("samples/").removesuffix("_tiny"): metric.undefined for metric in result.metrics
    }
    assert {name for name, reason in without.items() if reason} == undefined
    if undefined:
        assert str(without["frechet"]).startswith(f"{count} images against 40: more than the 3 features are needed")


def test_features_that_are_no_numbers_leave_every_metric_undefined() -> None:
    broken = seen_of(30, seed=1)
    broken.features[4, 0] = torch.nan
    result = compare("samples", net_of(), broken, seen_of(40, seed=2), "p")
    assert {metric.undefined for metric in result.metrics} == {"features of 1 of 30 samples images are not finite"}
    assert result.units == {}


def pixels_of(count: int) -> Pixels:
    return np.random.default_rng(8).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)


def share_of(images: Pixels, batch: int) -> Callable[[World], Seen]:
    def look(world: World) -> Seen:
        mine = range(world.rank, len(images), world.size)
        batches = [list(mine[start : start + batch]) for start in range(0, len(mine), batch)]
        return see_all(net_of(), [(places, images[places]) for places in batches], images[:1] * 0, world)

    return look


@pytest.mark.parametrize("count", [17, 2])
def test_a_number_that_does_not_divide_is_seen_alike_on_any_ranks(count: int) -> None:
    """Of 2 images, the third rank has none."""
    images = pixels_of(count)
    alone = on_ranks(1, share_of(images, 5))[0]
    assert len(alone) == count
    for size in (2, 3):
        first, *others = on_ranks(size, share_of(images, 3))
        assert torch.equal(first.features, alone.features)
        assert torch.equal(first.logits, alone.logits)
        assert [len(each) for each in others] == [0] * (size - 1)
