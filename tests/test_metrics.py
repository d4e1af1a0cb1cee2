"""ganlib.metrics: exact on a classifier made by hand, and the shipped classifier on real digits."""

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import ganlib
from ganlib.data import load_images
from ganlib.metrics import judge_digits, load_digit_classifier
from ganlib.models import DigitClassifier

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
