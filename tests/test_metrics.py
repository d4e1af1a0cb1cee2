"""ganlib.metrics: exact on a classifier made by hand, and the shipped classifier on real digits."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from scipy import stats
from torch import Tensor, nn

import ganlib
from ganlib.data import gaussian_mixture, load_images, ring_of_gaussians, sample_mixture
from ganlib.metrics import (
    DigitClassifier,
    classifier_features,
    frechet_distance,
    judge_digits,
    load_digit_classifier,
    mode_coverage,
    nearest_neighbors,
    parzen_log_likelihood,
    parzen_score,
    precision_and_recall,
    wasserstein_1d,
)

WEIGHTS = Path(ganlib.__file__).with_name("digit_classifier.safetensors")


class Told(DigitClassifier):
    """A classifier told its answer: pixel 0 of an image names the digit, pixel 1 how sure."""

    def forward(self, x: Tensor) -> Tensor:
        digit = (x[:, 0, 0, 0] * 10).round().long()
        logits = torch.zeros(len(x), 10)
        return logits.scatter(1, digit[:, None], x[:, 0, 0, 1:2] * 10)


def told(*answers: tuple[int, float]) -> Tensor:
    images = torch.zeros(len(answers), 1, 28, 28)
    for image, (digit, logit) in zip(images, answers, strict=True):
        image[0, 0, 0], image[0, 0, 1] = digit / 10, logit / 10
    return images


def test_confidence_is_the_mean_of_the_largest_probability_and_shares_count_the_digits():
    report = judge_digits(told((3, 2.0), (3, 5.0), (9, 1.0), (0, 4.0)), Told())
    sure = [math.exp(a) / (math.exp(a) + 9) for a in (2.0, 5.0, 1.0, 4.0)]
    assert report.confidence == pytest.approx(sum(sure) / 4, abs=1e-6)
    assert report.shares.tolist() == [0.25, 0, 0, 0.5, 0, 0, 0, 0, 0, 0.25]


def test_classifier_features_are_what_its_last_layer_reads_also_in_parts():
    images, classifier = load_images("mnist5k", "test")[0].float() / 255, load_digit_classifier()
    features = classifier_features(images.repeat(3, 1, 1, 1)[:1001], classifier)
    assert features.shape == (1001, 64)
    assert not features.requires_grad
    assert torch.allclose(classifier.output(features[:500]), classifier(images), atol=1e-5)
    assert torch.allclose(features[1000], features[0], atol=1e-5)  # the second part


def test_an_undecided_classifier_has_confidence_one_tenth():
    assert judge_digits(told((4, 0.0)), Told()).confidence == pytest.approx(0.1, abs=1e-6)


def test_more_images_than_one_part_are_all_judged():
    report = judge_digits(told(*[(i % 3, float(i % 7)) for i in range(2100)]), Told())
    sure = sum(math.exp(i % 7) / (math.exp(i % 7) + 9) for i in range(2100)) / 2100
    # A logit of 0 is a tie, which goes to digit 0: 1 image in 7 of the digits 1 and 2.
    assert report.shares[:3].tolist() == pytest.approx([3 / 7, 2 / 7, 2 / 7], abs=1e-6)
    assert report.confidence == pytest.approx(sure, abs=1e-5)


@pytest.mark.parametrize(
    ("images", "shown"),
    [
        (torch.zeros(2, 28, 28), r"got torch.float32 \(2, 28, 28\)"),
        (torch.zeros(2, 3, 28, 28), r"got torch.float32 \(2, 3, 28, 28\)"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), r"got torch.uint8 \(2, 1, 28, 28\)"),
    ],
)
def test_other_images_are_refused_and_quoted(images, shown):
    with pytest.raises(ValueError, match=shown):
        judge_digits(images, Told())


def test_the_shipped_classifier_is_small_and_says_where_it_comes_from():
    assert WEIGHTS.stat().st_size < 1_000_000
    with safe_open(WEIGHTS, "pt") as file:
        provenance = file.metadata()
    script = provenance["command"].removeprefix("python ")
    assert (Path(ganlib.__file__).parents[1] / script).exists()
    assert float(provenance["test_accuracy"]) >= 0.99
    assert {"torch", "date", "device", "seconds"} <= set(provenance)


def test_the_shipped_classifier_comes_in_evaluation_mode():
    classifier = load_digit_classifier()
    x = torch.rand(4, 1, 28, 28)
    assert not any(m.training for m in classifier.modules())
    assert any(isinstance(m, nn.Dropout) for m in classifier.modules())
    assert torch.equal(classifier(x), classifier(x))


def test_the_classifier_is_its_layers_written_out(digits):
    classifier = load_digit_classifier()
    x = digits["test"][0][::50].float() / 255
    w = [p.detach() for p in classifier.parameters()]
    for weight, bias in ((w[0], w[1]), (w[2], w[3])):
        padded = nn.functional.pad(x, (1, 1, 1, 1))
        x = nn.functional.conv2d(padded, weight, bias).relu()
        x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    logits = (x.flatten(1) @ w[4].T + w[5]).relu() @ w[6].T + w[7]
    found = classifier(digits["test"][0][::50].float() / 255)
    assert torch.allclose(found, logits, rtol=0, atol=1e-4)
    assert [m.p for m in classifier.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]


def test_a_classifier_in_training_mode_judges_without_dropout_and_stays_in_it(digits):
    images = digits["test"][0][:30] / 255
    classifier = load_digit_classifier()
    calm = judge_digits(images, classifier)
    features = classifier_features(images, classifier)
    again = judge_digits(images, classifier.train())
    assert again.confidence == calm.confidence
    assert torch.equal(again.shares, calm.shares)
    assert torch.equal(classifier_features(images, classifier), features)
    assert all(module.training for module in classifier.modules())


def test_real_digits_are_judged_confident_and_balanced_and_noise_is_not_balanced(digits):
    classifier = load_digit_classifier()
    real = judge_digits(digits["test"][0] / 255, classifier)
    noise = judge_digits(torch.rand(500, 1, 28, 28), classifier)
    assert real.confidence > 0.97
    assert real.shares.tolist() == pytest.approx([0.1] * 10, abs=0.01)
    assert noise.shares.min() < 0.02


def test_the_shipped_classifier_knows_99_percent_of_the_10000_test_digits(full_data):
    images, labels = load_images("mnist", "test", full_data, download=False)
    classifier = load_digit_classifier()
    with torch.no_grad():
        guesses = torch.cat([classifier(part / 255).argmax(1) for part in images.split(1000)])
    accuracy = (guesses == labels).double().mean().item()
    assert accuracy >= 0.99
    with safe_open(WEIGHTS, "pt") as file:
        assert accuracy == pytest.approx(float(file.metadata()["test_accuracy"]), abs=5e-4)


def test_wasserstein_of_four_numbers_is_the_mean_of_sorted_differences():
    x, y = torch.tensor([0.0, 1.0, 5.0, 6.0]), torch.tensor([8.0, 2.0, 7.5, 3.0])
    assert wasserstein_1d(x, y).item() == pytest.approx((2 + 2 + 2.5 + 2) / 4, rel=1e-6)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_wasserstein_is_scipys(seed):
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 57, generator=rng, dtype=torch.float64)
    found = wasserstein_1d(x, 2 * y + 1).item()
    assert found == pytest.approx(stats.wasserstein_distance(x, 2 * y + 1), rel=1e-12)


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((3, 1), (3, 1)), ((0,), (0,))])
def test_wasserstein_refuses_other_shapes(shapes):
    with pytest.raises(ValueError, match="of equal size expected, got"):
        wasserstein_1d(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_mode_coverage_counts_modes_near_good_samples_only():
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    samples = torch.tensor([[0.0, 0.029], [0.02, 0.0], [1.0, 0.031], [0.5, 0.5]])
    assert mode_coverage(samples, centers, std=0.01) == (1, 0.5)


def test_a_sample_at_exactly_three_standard_deviations_is_of_high_quality():
    centers, samples = torch.zeros(1, 2), torch.tensor([[0.75, 0.0], [0.0, 0.7501]])
    assert mode_coverage(samples, centers, std=0.25) == (1, 0.5)


def test_a_perfect_sampler_has_all_modes_and_98_9_percent():
    ring = ring_of_gaussians()
    centers = ring.component_distribution.mean
    samples = sample_mixture(ring, 100_000, torch.Generator().manual_seed(0))
    modes, high_quality = mode_coverage(samples, centers, 0.01)
    assert modes == 8
    assert high_quality == pytest.approx(1 - math.exp(-4.5), abs=0.002)


def test_mode_coverage_refuses_other_dimensions():
    with pytest.raises(ValueError, match=r"expected, got \(5, 2\) and \(3, 1\)"):
        mode_coverage(torch.zeros(5, 2), torch.zeros(3, 1), 0.1)


def test_parzen_is_a_mixture_of_gaussians_around_the_samples():
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(7, 1, 2, 3, generator=rng, dtype=torch.float64)
    samples = torch.rand(5, 1, 2, 3, generator=rng, dtype=torch.float64)
    density = gaussian_mixture(
        samples.flatten(1), torch.full((5, 6), 0.3, dtype=torch.float64), torch.full((5,), 0.2)
    )
    found = parzen_log_likelihood(x, samples, 0.3, batch_size=3)
    assert torch.allclose(found, density.log_prob(x.flatten(1)), atol=1e-12)


def test_parzen_of_one_sample_on_a_line_is_the_normal_density():
    found = parzen_log_likelihood(torch.tensor([[1.5]]), torch.tensor([[1.0]]), 0.5).item()
    assert found == pytest.approx(stats.norm.logpdf(1.5, 1.0, 0.5), rel=1e-6)


def test_parzen_far_from_every_sample_stays_finite():
    assert parzen_log_likelihood(torch.full((1, 784), 1e3), torch.zeros(2, 784), 0.1).isfinite()


def test_parzen_refuses_a_bandwidth_of_zero():
    with pytest.raises(ValueError, match=r"bandwidth from 1e-75 to 1e\+75 expected, got 0"):
        parzen_log_likelihood(torch.zeros(1, 2), torch.zeros(1, 2), 0)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(300, 4, generator=rng, dtype=torch.float64) @ torch.randn(4, 4).double()
    b = torch.randn(200, 4, generator=rng, dtype=torch.float64) * 3 + 1
    c_a, c_b = np.cov(a.T), np.cov(b.T)
    root = np.real(np.asarray(scipy.linalg.sqrtm(c_a @ c_b)))
    shift = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    expected = shift + np.trace(c_a + c_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_on_a_line_is_difference_of_means_and_of_deviations():
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [11.0]])
    expected = (8 - 1) ** 2 + (18**0.5 - 2**0.5) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shapes", [((5,), (5,)), ((4, 2), (4, 3)), ((4, 2), (4,))])
def test_frechet_distance_refuses_and_quotes_other_shapes(shapes):
    with pytest.raises(ValueError, match=r"\(n, d\) and \(m, d\).* expected, got") as caught:
        frechet_distance(*(torch.zeros(shape) for shape in shapes))
    assert f"{shapes[0]} and {shapes[1]}" in str(caught.value)


def test_frechet_distance_to_itself_is_zero_even_with_fewer_points_than_dimensions():
    a = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_precision_and_recall_of_a_small_case():
    # Balls reach to the nearest other point (k = 1): radius 1 around 0 and 1, 2 around 3.
    real = torch.tensor([[0.0], [1.0], [3.0]])
    # Balls around the fakes: radius 0.5 around 0.5 and 1.0, 99 around 100.
    fake = torch.tensor([[0.5], [1.0], [100.0]])
    precision, recall = precision_and_recall(real, fake, k=1)
    assert precision == pytest.approx(2 / 3)
    assert recall == pytest.approx(3 / 3)


def test_balls_reach_to_the_nearest_neighbor_and_no_farther():
    real = torch.tensor([[0.0], [1.0], [10.0]])  # radii 1, 1 and 9
    fake = torch.tensor([[-3.0], [0.5], [12.0]])
    assert precision_and_recall(real, fake, k=1).precision == pytest.approx(2 / 3)


def test_a_generator_of_one_good_point_is_precise_without_recall():
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(400, 2, generator=rng)
    fake = 0.01 * torch.randn(400, 2, generator=rng)
    precision, recall = precision_and_recall(real, fake)
    assert precision > 0.95
    assert recall < 0.05


def test_precision_and_recall_swap_with_their_arguments():
    rng = torch.Generator().manual_seed(1)
    a, b = torch.randn(60, 3, generator=rng), 0.7 * torch.randn(50, 3, generator=rng)
    assert precision_and_recall(a, b) == precision_and_recall(b, a)[::-1]


def test_precision_and_recall_refuse_a_k_out_of_range():
    a, b = torch.zeros(4, 2), torch.zeros(5, 2)
    with pytest.raises(ValueError, match="k >= 1 expected, got 0"):
        precision_and_recall(a, b, 0)
    with pytest.raises(ValueError, match="real_features >= 5 expected, got 4"):
        precision_and_recall(a, b, 4)
    with pytest.raises(ValueError, match="fake_features >= 5 expected, got 4"):
        precision_and_recall(b, a, 4)


def test_nearest_neighbors_find_a_copy():
    rng = torch.Generator().manual_seed(0)
    training = torch.rand(30, 1, 4, 4, generator=rng)
    distance, index = nearest_neighbors(training[[7, 3]] + 0.01, training)
    assert index.tolist() == [7, 3]
    assert distance.tolist() == pytest.approx([0.04, 0.04], rel=1e-4)


def test_a_parzen_score_takes_the_bandwidth_that_suits_the_images_to_choose_by():
    rng = torch.Generator().manual_seed(0)
    samples = torch.rand(40, 3, generator=rng, dtype=torch.float64)
    near, far = samples[:10] + 0.01, samples[:7] * 3 + 2
    for x_choose, x_score, expected in ((near, far, 0.1), (far, near, 1.0)):
        nats, error, bandwidth = parzen_score(x_choose, x_score, samples)
        assert bandwidth == pytest.approx(expected)
        values = parzen_log_likelihood(x_score, samples, bandwidth)
        assert nats == pytest.approx(values.mean().item(), rel=1e-9)
        assert error == pytest.approx(values.numpy().std(ddof=1) / len(x_score) ** 0.5, rel=1e-6)


def test_a_parzen_score_chooses_among_ten_bandwidths_of_equal_ratio():
    rng = torch.Generator().manual_seed(0)
    samples = torch.randn(60, 4, generator=rng, dtype=torch.float64)
    x_choose = samples[:20] + 0.3 * torch.randn(20, 4, generator=rng, dtype=torch.float64)
    grid = [10 ** (i / 9 - 1) for i in range(10)]
    means = [parzen_log_likelihood(x_choose, samples, b).mean().item() for b in grid]
    best = grid[int(np.argmax(means))]
    assert 0.2 < best < 0.8
    assert parzen_score(x_choose, samples, samples).bandwidth == pytest.approx(best, rel=1e-5)
