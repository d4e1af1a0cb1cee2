"""The convolutional GAN on the 60,000 training images of Fashion-MNIST.

    python benchmarks/fashion_mnist.py          (some minutes of one CPU core)

Runs `ganlib train conv --dataset fashion_mnist` with the options below in a temporary folder, and
writes book/results/08_fashion_mnist.json (provenance, and the class shares of 1,000 samples by
their nearest neighbor among 10,000 training images) and .png (64 real images, 64 samples). All of
it at torch's matmul precision "medium": bfloat16 factors on a CPU with AMX.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import RESULTS, new_record, write_grids

from ganlib.data import load_images
from ganlib.metrics import nearest_neighbors
from ganlib.records import write_record
from ganlib.runs.cli import main as ganlib
from ganlib.runs.evaluation import draw_samples
from ganlib.runs.folder import load_run

OPTIONS = (
    "train conv --dataset fashion_mnist --steps 4000 --batch-size 64 --latent-dim 64 --lr 2e-3 "
    "--beta1 0 --beta2 0.99 --average 0.995 --loss r1 --seed 0 --device cpu --bf16"
)


def train_one() -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        ganlib([*OPTIONS.split(), "--out", folder], standalone_mode=False)
        return load_run(Path(folder))


def main() -> None:
    torch.set_num_threads(1)
    images, labels = load_images("fashion_mnist")
    x_test, y_test = load_images("fashion_mnist", "test")
    start = time.process_time()
    contents = train_one()
    record = new_record("fashion_mnist.py", training=f"ganlib {OPTIONS}")
    record |= {"seed": contents["settings"].seed, "cpu_seconds": round(time.process_time() - start)}
    x_fake = draw_samples(contents, 1000, seed=1)
    known = images[:10_000].float() / 255
    verdicts = labels[nearest_neighbors(x_fake, known)[1]]
    judged = labels[nearest_neighbors(x_test[:1000].float() / 255, known)[1]]
    record["shares"] = (torch.bincount(verdicts, minlength=10) / len(verdicts)).tolist()
    record["judge_accuracy"] = (judged == y_test[:1000]).double().mean().item()
    write_grids(RESULTS / "08_fashion_mnist.png", [known[:64], x_fake[:64]], 2)
    write_record(RESULTS / "08_fashion_mnist.json", record)


if __name__ == "__main__":
    main()
