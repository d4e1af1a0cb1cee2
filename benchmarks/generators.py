"""Train the two generators that chapter 9 judges, on full MNIST, and judge them by its metrics.

    python benchmarks/generators.py      (1.5 h of one CPU core; needs full MNIST)

Three seeds each of chapter 7's pair and of chapter 8's, by their losses and optimizers, with an
average of G of decay .999, for 12,000 steps. Finished weights lie in --folder and are not trained
again. Writes book/results/09_metrics.json, each generator and each control by all metrics, and
seed 0's averages of G in half precision: ganlib/maxout_generator.safetensors and
ganlib/conv_generator.safetensors.

Training images: MNIST's first 50,000 but for the 500 of mnist5k's test split. Parzen window: 10,000
samples, bandwidth by the next 1,000 training images, then all test images. Fréchet distance: 10,000
samples against 10,000 test images; precision and recall: 3,000 against 3,000, k = 3; nearest
neighbor: mean distance of 1,000 samples to the training images. "real images" and those of five
digits only are training images; the neighbor of "real images" is that of held-out ones instead. The
generators also by the measures of digits.py, 4,500 samples against mnist5k's training images.
Trained at torch's matmul precision "medium", which rounds factors to bfloat16 on a CPU with AMX;
judged at "highest".
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, ROOT, conv_pair, k_means, maxout_pair, new_record, r1_state, seconds_of
from digits import judge as judge_digits
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ganlib import metrics
from ganlib.data import image_sampler, load_images
from ganlib.games import gan_loss_g, r1_loss_d
from ganlib.models import ConvGenerator, MLPGenerator
from ganlib.records import write_record
from ganlib.runs.settings import bare
from ganlib.trainer import State, generate, train

STEPS, LATENT_DIMS = 12_000, {"maxout": 100, "conv": 64}
BATCH, SEEDS, SAMPLES = 64, (0, 1, 2), 10_000
WEIGHTS = ROOT / "ganlib"


def training_images() -> tuple[Tensor, Tensor]:
    images, labels = load_images("mnist")
    held_out = {x.numpy().tobytes() for x in load_images("mnist5k", "test")[0]}
    kept = [i for i, x in enumerate(images[:50_000]) if x.numpy().tobytes() not in held_out]
    return images[kept], labels[kept]


def train_one(name: str, seed: int, images: Tensor) -> State:
    pair, lr = (lambda: maxout_pair(images), 1e-3) if name == "maxout" else (conv_pair, 2e-3)
    state = r1_state(seed, pair, lr, average=0.999)
    draw = image_sampler(images, BATCH, LATENT_DIMS[name])
    train(state, draw, r1_loss_d, gan_loss_g, until=STEPS, log_every=500)
    return state


def new_generator(name: str) -> MLPGenerator | ConvGenerator:
    return MLPGenerator(batch_norm=True) if name == "maxout" else ConvGenerator(channels=16)


def train_and_keep(name: str, seed: int, images: Tensor, file: Path) -> None:
    start = time.process_time()
    average = bare(train_one(name, seed, images).sampling_generator)
    facts = new_record("generators.py", steps=str(STEPS), seed=str(seed))
    facts["cpu_seconds"] = f"{time.process_time() - start:.0f}"
    weights = {key: value.contiguous() for key, value in average.state_dict().items()}
    save_file(weights, file, facts)
    if seed == SEEDS[0]:
        halves = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        save_file(halves, WEIGHTS / f"{name}_generator.safetensors", facts)


def samples(folder: Path, name: str, seed: int) -> Tensor:
    generator = new_generator(name)
    generator.load_state_dict(load_file(folder / f"{name}-{seed}.safetensors"))
    rng = torch.Generator().manual_seed(1000 + seed)
    return generate(generator, torch.randn(SAMPLES, LATENT_DIMS[name], generator=rng))


def sources(folder: Path, train_x: Tensor, labels: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """What is judged: its name, the number of its set or seed, and 10,000 images."""
    order = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(0))
    means = torch.stack([train_x[labels == digit].mean(0) for digit in range(10)])
    for seed in SEEDS:
        for name in LATENT_DIMS:
            yield name, seed, samples(folder, name, seed)
        rng = torch.Generator().manual_seed(seed)
        real = train_x[order[SAMPLES * seed : SAMPLES * (seed + 1)]]
        yield "real images", seed, real
        low = order[labels[order] < 5][torch.randperm(24_000, generator=rng)[:SAMPLES]]
        yield "digits 0 to 4 only", seed, train_x[low]
        yield "blurred real images", seed, gaussian_blur(real, [17, 17], [1.0, 1.0])
        yield "k-means centers", seed, k_means(train_x, SAMPLES, seed)
        yield "uniform noise", seed, torch.rand(real.shape, generator=rng)
        yield "class means", seed, means.repeat(SAMPLES // 10, 1, 1, 1)


def new_judge(train_x: Tensor) -> Callable[[str, int, Tensor], dict[str, Any]]:
    test = load_images("mnist", "test")[0].float() / 255
    valid, held_out = (load_images("mnist")[0][50_000:].float() / 255).tensor_split([1000])
    classifier = metrics.load_digit_classifier()
    test_features = metrics.classifier_features(test, classifier)

    def judge(what: str, seed: int, images: Tensor) -> dict[str, Any]:
        centers = images[:10] if what == "class means" else images  # the others are repetitions
        nats, error, bandwidth = metrics.parzen_score(valid, test, centers)
        found = metrics.classifier_features(images, classifier)
        precision, recall = metrics.precision_and_recall(test_features[:3000], found[:3000])
        unseen = held_out[3000 * seed : 3000 * seed + 1000]
        near = metrics.nearest_neighbors(
            unseen if what == "real images" else images[:1000], train_x
        )[0]
        row = {"what": what, "seed": seed, "parzen": nats, "standard_error": error}
        row |= {"bandwidth": bandwidth, "frechet": metrics.frechet_distance(test_features, found)}
        return row | {"precision": precision, "recall": recall, "nearest": near.mean().item()}

    return judge


def summary(rows: list[dict[str, Any]]) -> dict[str, dict]:
    """Mean and standard deviation over seeds or sets, by source and metric."""
    result: dict[str, dict] = {row["what"]: {} for row in rows}
    for what, means in result.items():
        for metric in ("parzen", "frechet", "precision", "recall", "nearest"):
            values = [row[metric] for row in rows if row["what"] == what]
            spread = statistics.stdev(values) if len(values) > 1 else None
            means[metric] = {"mean": statistics.fmean(values), "std": spread}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and judge the generators of chapter 9.")
    parser.add_argument("--folder", type=Path, default=ROOT / "_build" / "generators")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("medium")
    images, labels = training_images()
    seconds: dict[str, list[int]] = {name: [] for name in LATENT_DIMS}
    for seed, name in ((seed, name) for seed in SEEDS for name in LATENT_DIMS):
        file = folder / f"{name}-{seed}.safetensors"
        if not file.exists():
            train_and_keep(name, seed, images, file)
        seconds[name].append(seconds_of(file))
    record = new_record("generators.py", steps=STEPS, cpu_seconds_of_training=seconds, rows=[])
    known = load_images("mnist5k")[0].float() / 255
    classifier = metrics.load_digit_classifier()
    record["on_mnist5k"] = [
        {"what": name, "seed": seed}
        | judge_digits(samples(folder, name, seed)[:4500], known, classifier)
        for name in LATENT_DIMS
        for seed in SEEDS
    ]
    # In less than full precision distances are off, and the Parzen score by two nats.
    torch.set_float32_matmul_precision("highest")
    train_x, start = images.float() / 255, time.process_time()
    judge = new_judge(train_x)
    for source in sources(folder, train_x, labels):
        record["rows"].append(judge(*source))
        record["cpu_seconds_of_judging"] = round(time.process_time() - start)
        record["summary"] = summary(record["rows"])
        write_record(RESULTS / "09_metrics.json", record)
        print(record["rows"][-1], flush=True)


if __name__ == "__main__":
    main()
