"""The Parzen window score of the 2014 paper, by its protocol, networks and optimizer, on MNIST.

    python benchmarks/parzen_paper_protocol.py             (2 h of one core)
    python benchmarks/parzen_paper_protocol.py --seed 0    (trains it, no more; 0 for 1 h, 1, 2)

Keeps the weights of G and of two running averages of them (decays .9999 and .99995) every 2,500
steps in --folder; a seed whose last weights lie there is not trained again, and those of several
seeds may be trained beside one another. Then chooses the length and the decay by the mean
validation score over the seeds, scores that choice, the raw G at the same length and the raw G
after 250 epochs (seed 0) on the 10,000 test images, and with them real images and k-means centers;
writes book/results/09_parzen.json and .png.

Protocol: images in [0, 1]; training on the first 50,000, validation on the last 10,000 training
images; 10,000 samples; bandwidth from logspace(-1, 0, 10) by the mean over the first 1,000
validation images; standard error = standard deviation / sqrt(10,000).
Networks, optimizer and settings of the published code: paper_settings_mnist5k.py. Not as in that
code: what is said there, batches drawn with replacement, and the running averages.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, ROOT, k_means, new_record, seconds_of, write_grids
from paper_settings_mnist5k import new_state, sampler, schedule, uniform_z
from safetensors.torch import load_file, save_file
from torch import Tensor

from ganlib import metrics
from ganlib.data import load_images
from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.models import MLPGenerator
from ganlib.records import write_record
from ganlib.trainer import State, generate, running_average, simultaneous_step, train

LENGTHS, LONG, SAMPLES = range(20_000, 32_501, 2500), 125_000, 10_000
STEPS = {0: LONG, 1: LENGTHS[-1], 2: LENGTHS[-1]}
DECAYS = {"average .9999": 0.9999, "average .99995": 0.99995}


def weights_file(folder: Path, seed: int, steps: int, name: str) -> Path:
    return folder / f"seed{seed}-{steps}-{name.replace(' ', '-')}.safetensors"


def train_seed(seed: int, folder: Path) -> None:
    images = load_images("mnist")[0][:50_000]
    state, start = new_state(seed, images), time.process_time()
    averages = {name: running_average(state.generator, decay) for name, decay in DECAYS.items()}

    def step(state: State, *parts: Any) -> dict[str, Tensor]:
        values = simultaneous_step(state, *parts)
        if state.step < LENGTHS[-1]:
            for average in averages.values():
                average.update_parameters(state.generator)
        return values

    def keep(state: State) -> None:
        facts = {"cpu_seconds": f"{time.process_time() - start:.0f}"}
        for name, network in {"raw": state.generator, **averages}.items():
            weights = getattr(network, "module", network).state_dict()
            save_file(weights, weights_file(folder, seed, state.step, name), facts)

    train(state, sampler(images), gan_loss_d, gan_loss_g, until=STEPS[seed], step=step,
          before_step=schedule(len(images)), log_every=500, snapshot=keep,
          snapshot_at=[*LENGTHS, LONG])  # fmt: skip


def samples(folder: Path, seed: int, steps: int, name: str) -> Tensor:
    generator = MLPGenerator()
    generator.load_state_dict(load_file(weights_file(folder, seed, steps, name)))
    return generate(generator, uniform_z(SAMPLES, torch.Generator().manual_seed(1000 + seed)))


def sources(folder: Path, name: str, steps: int, train_x: Tensor) -> Iterator[tuple[Any, ...]]:
    """What is scored: its name, seed, number of steps, and 10,000 images."""
    for seed in STEPS:
        yield name, seed, steps, samples(folder, seed, steps, name)
        yield "raw", seed, steps, samples(folder, seed, steps, "raw")
        if STEPS[seed] == LONG:
            yield "raw, 250 epochs", seed, LONG, samples(folder, seed, LONG, "raw")
        yield "real images", seed, None, real_images(train_x, seed, SAMPLES)
    for seed in STEPS:
        yield "k-means centers", seed, None, k_means(train_x, SAMPLES, seed)


def real_images(train_x: Tensor, seed: int, n: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return train_x[torch.randperm(len(train_x), generator=rng)[:n]]


def report(folder: Path) -> None:
    start = time.time()
    images = load_images("mnist")[0].float() / 255
    train_x, valid, selection, _ = images.tensor_split([50_000, 51_000, 55_000])
    test, classifier = load_images("mnist", "test")[0] / 255, metrics.load_digit_classifier()

    def on_validation(name: str, steps: int) -> list[float]:
        sets = (samples(folder, seed, steps, name) for seed in STEPS)
        return [metrics.parzen_score(valid, selection, images).nats for images in sets]

    curves = {n: {steps: on_validation(n, steps) for steps in LENGTHS} for n in ("raw", *DECAYS)}
    options = ((name, steps) for name in DECAYS for steps in LENGTHS)
    name, steps = best = max(options, key=lambda option: sum(curves[option[0]][option[1]]))
    rows, test_features = [], metrics.classifier_features(test, classifier)
    for what, seed, length, images in sources(folder, *best, train_x):
        row = {"what": what, "seed": seed, "steps": length}
        found = metrics.classifier_features(images, classifier)
        row |= metrics.parzen_score(valid, test, images)._asdict()
        row["frechet"] = metrics.frechet_distance(test_features, found)
        row["recall"] = metrics.precision_and_recall(test_features[:3000], found[:3000]).recall
        rows.append(row)
        print(row, flush=True)
    record = new_record("parzen_paper_protocol.py", report_seconds=round(time.time() - start))
    files = {seed: weights_file(folder, seed, steps, "raw") for seed in STEPS}
    record["cpu_seconds_of_training"] = {seed: seconds_of(file) for seed, file in files.items()}
    record |= {"chosen": {"generator": name, "steps": steps}, "validation": curves, "rows": rows}
    write_record(RESULTS / "09_parzen.json", record)
    sets = [samples(folder, 0, steps, which)[:40] for which in ("raw", name)]
    write_grids(RESULTS / "09_parzen.png", [*sets, real_images(train_x, 0, 40)], 3, gaps=(1, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seed", type=int, choices=STEPS)
    parser.add_argument("--folder", type=Path, default=ROOT / "_build" / "parzen")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    # Training may round, distances may not: that would change the score by nats.
    torch.set_float32_matmul_precision("medium")
    for seed in STEPS if options.seed is None else [options.seed]:
        if not weights_file(options.folder, seed, STEPS[seed], "raw").exists():
            train_seed(seed, options.folder)
    torch.set_float32_matmul_precision("highest")
    if options.seed is None:
        report(options.folder)


if __name__ == "__main__":
    main()
