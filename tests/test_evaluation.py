"""ganlib.runs.evaluation: what the measures say of copies of real images, and of noise."""

import pytest
import torch
from torch import Tensor

from ganlib.metrics import DigitClassifier, load_digit_classifier
from ganlib.runs.evaluation import evaluate_images


def compared(x_fake: Tensor, digits, classifier: DigitClassifier | None = None) -> dict:
    x_train, x_test = (digits[split][0].float() / 255 for split in ("train", "test"))
    rng = torch.Generator().manual_seed(0)
    rows = evaluate_images(x_train, x_test, x_fake, classifier, rng=rng)
    return {row.measure: (row.real, row.fake) for row in rows}


def test_copies_of_training_images_are_as_good_as_real_ones_and_are_found_out(digits):
    copies = digits["train"][0][::15].float() / 255
    rows = compared(copies, digits, load_digit_classifier())
    assert rows["distance to nearest image"][0] > 4
    assert rows["distance to nearest image"][1] < 0.05
    for measure, tolerance in (
        ("classifier confidence", 0.02), ("smallest class share", 0.06), ("precision, k = 3", 0.15),
        ("recall, k = 3", 0.15), ("Parzen log-likelihood, nats", 30),
    ):  # fmt: skip
        real, fake = rows[measure]
        assert fake == pytest.approx(real, abs=tolerance), measure
    assert rows["smallest class share"][0] > 0.04  # the digits come sorted by class


def test_without_a_classifier_its_measures_are_left_out_and_noise_scores_below_real_images(digits):
    rows = compared(torch.rand(30, 1, 28, 28), digits)
    assert list(rows) == ["Parzen log-likelihood, nats", "its standard error", "its bandwidth",
                          "distance to nearest image"]  # fmt: skip
    real, fake = rows["Parzen log-likelihood, nats"]
    assert real > fake + 300
    real, fake = rows["distance to nearest image"]
    assert real < fake - 5
