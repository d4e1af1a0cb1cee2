"""The Parzen window score of the 2014 paper, by its protocol, networks and optimizer, on MNIST.

    python benchmarks/parzen_paper_protocol.py                                 (2 h of one core)

Or in parts, which may run beside one another:

    python benchmarks/parzen_paper_protocol.py train --seed 0 --steps 125000   (1 h of one core)
    python benchmarks/parzen_paper_protocol.py train --seed 1                  (20 minutes)
    python benchmarks/parzen_paper_protocol.py train --seed 2
    python benchmarks/parzen_paper_protocol.py report

`train` keeps the weights of G and of two running averages of them (decays .9999 and .99995) every
2,500 steps in --folder, and goes on where it stopped. `report` chooses the length and the decay by
the mean validation score over the seeds, scores that choice, the raw G at the same length and the
raw G after 250 epochs (where a seed went so far) on the 10,000 test images, and with them real
images and k-means centers; it writes book/results/09_parzen.json and .png.

Protocol: images in [0, 1]; training on the first 50,000, validation on the last 10,000 training
images; 10,000 samples; bandwidth from logspace(-1, 0, 10) by the mean over the first 1,000
validation images; standard error = standard deviation / sqrt(10,000).
Networks, optimizer and settings of the published code: paper_settings_mnist5k.py. Not as in that
code: what is said there, batches drawn with replacement, and the running averages.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from paper_settings_mnist5k import new_state, sampler, schedule, uniform_z
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import ganlib
from ganlib.data import load_images
from ganlib.losses import gan_loss_d, gan_loss_g
from ganlib.metrics import (
    frechet_distance,
    load_digit_classifier,
    parzen_score,
    precision_and_recall,
)
from ganlib.models import MLPGenerator
from ganlib.plotting import image_array
from ganlib.trainer import (
    State,
    generate,
    load_checkpoint,
    running_average,
    save_checkpoint,
    simultaneous_step,
    train,
)

EVERY, LENGTHS = 2500, range(20_000, 32_501, 2500)
DECAYS = {"average .9999": 0.9999, "average .99995": 0.99995}
RESULTS = Path(__file__).parents[1] / "book" / "results"


def train_seed(seed: int, steps: int, folder: Path) -> None:
    images = load_images("mnist")[0][:50_000]
    state, draw, before_step = new_state(seed, images), sampler(images), schedule(len(images))
    averages = {name: running_average(state.generator, decay) for name, decay in DECAYS.items()}
    checkpoint, cpu_seconds = folder / f"seed{seed}.pt", 0.0
    if checkpoint.exists():
        contents = load_checkpoint(checkpoint)
        state.load_state_dict(contents["state"])
        cpu_seconds = contents["cpu_seconds"]
        for name, average in averages.items():
            average.load_state_dict(contents[name])

    def step(state: State, *parts, **options) -> dict[str, Tensor]:
        values = simultaneous_step(state, *parts, **options)
        if state.step < LENGTHS[-1]:
            for average in averages.values():
                average.update_parameters(state.generator)
        return values

    while state.step < steps:
        start = time.process_time()
        train(state, draw, gan_loss_d, gan_loss_g, until=state.step + EVERY, step=step,
              before_step=before_step, log_every=500)  # fmt: skip
        cpu_seconds += time.process_time() - start
        kept = {"raw": state.generator} | {name: a.module for name, a in averages.items()}
        for name, network in kept.items():
            if state.step in LENGTHS or (name == "raw" and state.step % 25_000 == 0):
                file = folder / f"seed{seed}-{state.step}-{name.replace(' ', '-')}.safetensors"
                save_file(network.state_dict(), file, {"cpu_seconds": f"{cpu_seconds:.0f}"})
        contents = {"state": state.state_dict(), "cpu_seconds": cpu_seconds}
        save_checkpoint(checkpoint, contents | {n: a.state_dict() for n, a in averages.items()})


def report(folder: Path) -> None:
    start = time.time()
    train_images = load_images("mnist")[0].float() / 255
    test = load_images("mnist", "test")[0].float() / 255
    valid, selection = train_images[50_000:51_000], train_images[51_000:55_000]
    seeds = sorted({int(f.name[4:].split("-")[0]) for f in folder.glob("seed*-*.safetensors")})

    def samples(seed: int, steps: int, name: str) -> Tensor:
        generator = MLPGenerator()
        file = folder / f"seed{seed}-{steps}-{name.replace(' ', '-')}.safetensors"
        generator.load_state_dict(load_file(file))
        return generate(generator, uniform_z(10_000, torch.Generator().manual_seed(1000 + seed)))

    def on_validation(name: str, steps: int) -> list[float]:
        sets = (samples(seed, steps, name) for seed in seeds)
        return [parzen_score(images, valid, selection).nats for images in sets]

    curves = {n: {steps: on_validation(n, steps) for steps in LENGTHS} for n in ("raw", *DECAYS)}
    best = max(((n, s) for n in DECAYS for s in LENGTHS), key=lambda c: np.mean(curves[c[0]][c[1]]))
    rows, classifier = [], load_digit_classifier()

    def features(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([classifier.features(part) for part in images.split(1000)])

    test_features = features(test)

    def add(what: str, seed: int, steps: int | None, images: Tensor) -> None:
        row = {"what": what, "seed": seed, "steps": steps}
        row |= parzen_score(images, valid, test)._asdict()
        found = features(images)
        row["frechet"] = frechet_distance(test_features, found)
        row["recall"] = precision_and_recall(test_features[:3000], found[:3000]).recall
        rows.append(row)
        print(rows[-1], flush=True)

    for seed in seeds:
        add(best[0], seed, best[1], samples(seed, best[1], best[0]))
        add("raw", seed, best[1], samples(seed, best[1], "raw"))
        if (folder / f"seed{seed}-125000-raw.safetensors").exists():
            add("raw, 250 epochs", seed, 125_000, samples(seed, 125_000, "raw"))
        rng = torch.Generator().manual_seed(seed)
        real = train_images[torch.randperm(50_000, generator=rng)[:10_000]]
        add("real images", seed, None, real)
    from sklearn.cluster import MiniBatchKMeans

    for seed in seeds:
        k_means = MiniBatchKMeans(10_000, batch_size=20_000, max_iter=10, n_init=1,  # pyright: ignore
                                  init="random", random_state=seed)  # fmt: skip
        k_means.fit(train_images[:50_000].flatten(1).numpy())
        centers = torch.from_numpy(k_means.cluster_centers_).float().reshape(-1, 1, 28, 28)
        add("k-means centers", seed, None, centers)
    record = {
        "command": "python benchmarks/parzen_paper_protocol.py",
        "date": time.strftime("%Y-%m-%d"),
        "device": "1 thread of a CPU, matmul precision medium",
        "torch": torch.__version__,
        "ganlib": ganlib.__version__,
        "report_seconds": round(time.time() - start),
        "cpu_seconds_of_training": {seed: cpu_seconds(folder, seed, best[1]) for seed in seeds},
        "chosen": {"generator": best[0], "steps": best[1]},
        "validation": curves,
        "rows": rows,
    }
    (RESULTS / "09_parzen.json").write_text(json.dumps(record, indent=1) + "\n")
    rng = torch.Generator().manual_seed(0)
    grids = [samples(seeds[0], best[1], n)[:40] for n in ("raw", best[0])]
    grids.append(train_images[torch.randperm(50_000, generator=rng)[:40]])
    strip = np.concatenate([image_array(g, columns=8) for g in grids], axis=1)
    Image.fromarray((255 * strip).astype("uint8")).save(RESULTS / "09_parzen.png", optimize=True)


def cpu_seconds(folder: Path, seed: int, steps: int) -> int:
    from safetensors import safe_open

    with safe_open(folder / f"seed{seed}-{steps}-raw.safetensors", "pt") as file:
        return int(file.metadata()["cpu_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("action", nargs="?", choices=("all", "train", "report"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=32_500)
    parser.add_argument("--folder", type=Path, default=Path("_build/parzen"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    runs = {"all": {0: 125_000, 1: 32_500, 2: 32_500}, "train": {options.seed: options.steps}}
    # Training may round, distances may not: that would change the score by nats.
    torch.set_float32_matmul_precision("medium")
    for seed, steps in runs.get(options.action, {}).items():
        train_seed(seed, steps, options.folder)
    torch.set_float32_matmul_precision("highest")
    if options.action != "train":
        report(options.folder)


if __name__ == "__main__":
    main()
