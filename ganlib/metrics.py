"""What the book measures on samples."""

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ganlib.models import DigitClassifier


class DigitReport(NamedTuple):
    """What the digit classifier says about a set of images.

    `confidence` is the mean over images of the largest class probability, in [0.1, 1];
    `shares`, of shape (10,), holds the share of images assigned to each digit.
    """

    confidence: float
    shares: Tensor


def load_digit_classifier(device: torch.device | str = "cpu") -> DigitClassifier:
    """The book's judge of digits, trained on MNIST's 60,000 training images, in evaluation mode.

    `benchmarks/train_classifier.py` made its weights; their file carries its test accuracy.
    """
    classifier = DigitClassifier()
    weights = load_file(Path(__file__).with_name("digit_classifier.safetensors"))
    classifier.load_state_dict(weights)
    return classifier.to(device).eval()


def judge_digits(images: Tensor, classifier: DigitClassifier) -> DigitReport:
    """Mean confidence and class shares of images (n, 1, 28, 28), float in [0, 1].

    Read both: a generator that always draws the same perfect 1 has the highest confidence.
    """
    shape = tuple(images.shape)
    if shape[1:] != (1, 28, 28) or not len(images) or not images.is_floating_point():
        raise ValueError(
            f"float images (n >= 1, 1, 28, 28) in [0, 1] expected, got {images.dtype} {shape}"
        )
    with torch.no_grad():
        logits = torch.cat([classifier(part) for part in images.split(1000)])
    confidence, digits = logits.softmax(1).max(1)
    shares = torch.bincount(digits, minlength=10) / len(images)
    return DigitReport(confidence.mean().item(), shares.cpu())
