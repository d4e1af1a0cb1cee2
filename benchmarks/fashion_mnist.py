"""The convolutional GAN on the 60,000 training images of Fashion-MNIST.

    python benchmarks/fashion_mnist.py          (about 3 minutes of one CPU core)

Runs `ganlib train conv --dataset fashion_mnist` with the options below in a temporary folder, and
writes book/results/08_fashion_mnist.json (provenance, and the class shares of 1,000 samples by
their nearest neighbor among 10,000 training images) and .png (64 real images, 64 samples). All of
it at torch's matmul precision "medium": bfloat16 factors on a CPU with AMX.
"""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from ganlib import runs
from ganlib.cli import main as ganlib
from ganlib.data import load_images
from ganlib.metrics import nearest_neighbors
from ganlib.plotting import image_array
from ganlib.trainer import replacing

OPTIONS = (
    "train conv --dataset fashion_mnist --steps 5000 --batch-size 32 --latent-dim 16 "
    "--lr-g 2e-3 --lr-d 5e-4 --average 0.999 --seed 0 --device cpu --bf16"
)
RESULTS = Path(__file__).parents[1] / "book" / "results"


def main() -> None:
    torch.set_num_threads(1)
    images, labels = load_images("fashion_mnist")
    x_test, y_test = load_images("fashion_mnist", "test")
    start = time.process_time()
    with TemporaryDirectory() as folder:
        ganlib([*OPTIONS.split(), "--out", folder], standalone_mode=False)
        contents = runs.load_run(Path(folder))
    seconds = round(time.process_time() - start)
    x_fake = runs.draw_samples(contents, 1000, seed=1)
    known = images[:10_000].float() / 255
    verdicts = labels[nearest_neighbors(x_fake, known)[1]]
    judged = labels[nearest_neighbors(x_test[:1000].float() / 255, known)[1]]
    record = {
        "command": "python benchmarks/fashion_mnist.py",
        "training": f"ganlib {OPTIONS}",
        **runs.provenance(torch.device("cpu")),
        "seed": contents["settings"].seed,
        "cpu_seconds": seconds,
        "shares": (torch.bincount(verdicts, minlength=10) / len(verdicts)).tolist(),
        "judge_accuracy": (judged == y_test[:1000]).double().mean().item(),
    }
    grids = [image_array(x, columns=8) for x in (images[:64].float() / 255, x_fake[:64])]
    array = image_array(torch.tensor([g.tolist() for g in grids])[:, None], columns=2, pad=12)
    picture = Image.fromarray((255 * array + 0.5).astype("uint8")).quantize(24)
    with replacing(RESULTS / "08_fashion_mnist.png") as file:
        picture.save(file, "PNG", optimize=True)
    with replacing(RESULTS / "08_fashion_mnist.json") as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
