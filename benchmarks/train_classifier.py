"""Train the digit classifier that judges samples in the book, on MNIST's 60,000 training images.

    python benchmarks/train_classifier.py        (about 3 minutes of one CPU core)

Needs full MNIST (GANLIB_DATA, or a network). Plain cross-entropy, without label smoothing or
temperature, since the book's thresholds depend on how confident the classifier is. The settings
are common ones, fixed beforehand; the test images are read once, at the end. Writes
ganlib/digit_classifier.safetensors with its provenance as metadata.
"""

import time

import torch
from common import ROOT, new_record
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from ganlib.data import load_images
from ganlib.metrics import DigitClassifier
from ganlib.trainer import generate

EPOCHS, BATCH, LR, SEED = 8, 128, 2e-3, 0
FILE = ROOT / "ganlib" / "digit_classifier.safetensors"


def train(images: Tensor, labels: Tensor) -> DigitClassifier:
    torch.manual_seed(SEED)
    network, steps = DigitClassifier(), EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=steps)
    for _ in tqdm(range(steps)):
        index = torch.randint(len(images), (BATCH,))
        shift = torch.randint(-2, 3, (2,)).tolist()  # in pixels, the same for a batch
        x = torch.roll(images[index].float() / 255, shift, dims=(2, 3))
        loss = cross_entropy(network(x), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def main() -> None:
    torch.set_num_threads(1)
    start = time.time()
    network = train(*load_images("mnist"))
    images, labels = load_images("mnist", "test")
    guesses = generate(network, images.float() / 255).argmax(1)
    accuracy = f"{(guesses == labels).float().mean():.4f}"
    print(f"accuracy on the {len(images):,} test digits: {accuracy}")
    seconds = f"{time.time() - start:.0f}"
    facts = new_record("train_classifier.py", test_accuracy=accuracy, seconds=seconds)
    save_file(network.state_dict(), FILE, metadata=facts)


if __name__ == "__main__":
    main()
