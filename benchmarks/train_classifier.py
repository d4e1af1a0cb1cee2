"""Train the digit classifier that judges samples in the book, on MNIST's 60,000 training images.

    python benchmarks/train_classifier.py        (about 3 minutes of one CPU core)

Needs full MNIST (GANLIB_DATA, or a network). Plain cross-entropy, without label smoothing or
temperature, since the book's thresholds depend on how confident the classifier is. The settings
are common ones, fixed beforehand; the test images are read once, at the end. Writes
ganlib/digit_classifier.safetensors with its provenance as metadata.
"""

import platform
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from ganlib.data import load_images
from ganlib.models import DigitClassifier

EPOCHS, BATCH, LR, SEED = 8, 128, 2e-3, 0


def augment(x: torch.Tensor) -> torch.Tensor:
    """Shift each image of a batch by up to 2 pixels, the same for the batch."""
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    return torch.roll(x, (dy, dx), dims=(2, 3))


def accuracy(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        guesses = torch.cat([network(x / 255).argmax(1) for x in images.split(1000)])
    return (guesses == labels).float().mean().item()


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    images, labels = load_images("mnist", "train")
    network, start = DigitClassifier(), time.time()
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=steps)
    for _ in tqdm(range(steps)):
        index = torch.randint(len(images), (BATCH,))
        loss = cross_entropy(network(augment(images[index].float() / 255)), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    test_accuracy = accuracy(network, *load_images("mnist", "test"))
    print(f"accuracy on the 10,000 test digits: {test_accuracy:.4f}")
    provenance = {
        "command": "python benchmarks/train_classifier.py",
        "test_accuracy": f"{test_accuracy:.4f}",
        "seconds": f"{time.time() - start:.0f}",
        "date": time.strftime("%Y-%m-%d"),
        "device": f"cpu, 1 thread, {platform.machine()}",
        "torch": torch.__version__,
    }
    path = Path(__file__).parents[1] / "ganlib" / "digit_classifier.safetensors"
    save_file(network.state_dict(), path, metadata=provenance)


if __name__ == "__main__":
    main()
