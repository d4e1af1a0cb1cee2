"""Train the two generators that chapter 9 judges, on full MNIST, and judge them by its metrics.

    python benchmarks/generators.py      (about 20 minutes of one CPU core; needs full MNIST)

Three seeds each of chapter 7's pair by its settings (5,000 steps) and of the convolutional pair
(3,000 steps, Adam at 2e-4, batch 64, average of G .995, bfloat16). Finished weights lie in --folder
and are not trained again. Writes book/results/09_metrics.json, each generator and each control by
all metrics, and seed 0's averages of G in half precision: ganlib/maxout_generator.safetensors and
ganlib/conv_generator.safetensors.

Training images: MNIST's first 50,000 but for the 500 of mnist5k's test split. Parzen window: 10,000
samples, bandwidth by the next 1,000 training images, then all test images. Fréchet distance: 10,000
samples against 10,000 test images; precision and recall: 3,000 against 3,000, k = 3; nearest
neighbor: mean distance of 1,000 samples to the training images. "real images" and those of five
digits only are training images; the neighbor of "real images" is that of held-out ones instead.
Trained at torch's matmul precision "medium", which rounds factors to bfloat16 on a CPU with AMX;
judged at "highest".
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

import ganlib
from ganlib.data import image_sampler, load_images
from ganlib.losses import gan_loss_d, gan_loss_g
from ganlib.metrics import (
    frechet_distance,
    load_digit_classifier,
    nearest_neighbors,
    parzen_log_likelihood,
    precision_and_recall,
)
from ganlib.models import ConvDiscriminator, ConvGenerator, MaxoutDiscriminator, MLPGenerator
from ganlib.trainer import State, generate, running_average, train

STEPS, BATCH, SEEDS = {"maxout": 5000, "conv": 3000}, 64, (0, 1, 2)
BANDWIDTHS = torch.logspace(-1, 0, 10).tolist()
ROOT = Path(__file__).parents[1]
COMMAND = "python benchmarks/generators.py"


def training_images() -> tuple[Tensor, Tensor]:
    images, labels = load_images("mnist")
    held_out = {x.numpy().tobytes() for x in load_images("mnist5k", "test")[0]}
    kept = [i for i, x in enumerate(images[:50_000]) if x.numpy().tobytes() not in held_out]
    return images[kept], labels[kept]


def train_one(name: str, seed: int, images: Tensor) -> State:
    torch.manual_seed(seed)
    if name == "maxout":
        pixel_means = images.float().mean(0) / 255
        generator = MLPGenerator(batch_norm=True, pixel_means=pixel_means)
        discriminator, lr_g, lr_d, falling = MaxoutDiscriminator(), 8e-4, 4e-4, 0.6
    else:
        generator = ConvGenerator().to(memory_format=torch.channels_last)
        discriminator = ConvDiscriminator().to(memory_format=torch.channels_last)
        lr_g, lr_d, falling = 2e-4, 2e-4, 0.0
    opt_g, opt_d = (
        torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999), fused=True)
        for network, lr in ((generator, lr_g), (discriminator, lr_d))
    )
    state = State(generator, discriminator, opt_g, opt_d, torch.Generator().manual_seed(seed))
    state.average = running_average(generator, 0.995)

    def before_step(state: State) -> None:
        left = 1 - state.step / STEPS[name]
        factor = max(min(left / falling, 1.0), 0.02) if falling else 1.0
        opt_g.param_groups[0]["lr"], opt_d.param_groups[0]["lr"] = lr_g * factor, lr_d * factor

    draw = image_sampler(images, BATCH, generator.latent_dim)
    # The convolutional pair runs in bfloat16 where that is safe, at half the cost on this CPU.
    # Autocast would go on with the first weights it cached: no cache, as steps change them.
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "conv", cache_enabled=False):
        train(state, draw, gan_loss_d, gan_loss_g, until=STEPS[name], before_step=before_step,
              log_every=500)  # fmt: skip
    return state


def new_generator(name: str) -> MLPGenerator | ConvGenerator:
    return MLPGenerator(batch_norm=True) if name == "maxout" else ConvGenerator()


def k_means(images: Tensor, n: int, rng: torch.Generator, passes: int = 2) -> Tensor:
    x = images.flatten(1)
    centers = x[torch.randperm(len(x), generator=rng)[:n]]
    for _ in range(passes):
        nearest = torch.cat([torch.cdist(part, centers).argmin(1) for part in x.split(2000)])
        counts = torch.bincount(nearest, minlength=n)[:, None]
        sums = torch.zeros_like(centers).index_add_(0, nearest, x)
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
    return centers.reshape(-1, *images.shape[1:])


def sources(folder: Path, train_x: Tensor, labels: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """What is judged: its name, the number of its set or seed, and 10,000 images."""
    order = torch.randperm(len(train_x), generator=torch.Generator().manual_seed(0))
    means = torch.stack([train_x[labels == digit].mean(0) for digit in range(10)])
    for seed in SEEDS:
        for name in STEPS:
            generator = new_generator(name)
            generator.load_state_dict(load_file(folder / f"{name}-{seed}.safetensors"))
            rng = torch.Generator().manual_seed(1000 + seed)
            z = torch.randn(10_000, generator.latent_dim, generator=rng)
            yield name, seed, generate(generator, z)
        rng = torch.Generator().manual_seed(seed)
        real = train_x[order[10_000 * seed : 10_000 * (seed + 1)]]
        yield "real images", seed, real
        few = train_x[order[labels[order] < 5][torch.randperm(24_000, generator=rng)[:10_000]]]
        yield "digits 0 to 4 only", seed, few
        yield "blurred real images", seed, gaussian_blur(real, [17, 17], [1.0, 1.0])
        yield "k-means centers", seed, k_means(train_x, 10_000, rng)
        yield "uniform noise", seed, torch.rand(real.shape, generator=rng)
        yield "class means", seed, means.repeat(1000, 1, 1, 1)


def judge(folder: Path, record: dict, path: Path) -> None:
    train_u8, labels = training_images()
    train_x = train_u8.float() / 255
    held_out = load_images("mnist")[0][50_000:].float() / 255
    test = load_images("mnist", "test")[0].float() / 255
    valid, held_out = held_out[:1000], held_out[1000:]
    classifier = load_digit_classifier()

    def features(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([classifier.features(part) for part in images.split(1000)])

    test_features, start = features(test), time.process_time()
    for what, seed, images in sources(folder, train_x, labels):
        centers = images[:10] if what == "class means" else images  # the others are repetitions
        on_valid = [parzen_log_likelihood(valid, centers, b).mean().item() for b in BANDWIDTHS]
        bandwidth = BANDWIDTHS[on_valid.index(max(on_valid))]
        ll = parzen_log_likelihood(test, centers, bandwidth)
        found = features(images)
        precision, recall = precision_and_recall(test_features[:3000], found[:3000])
        unseen = held_out[3000 * seed : 3000 * seed + 1000]
        part = unseen if what == "real images" else images[:1000]
        row = {
            "what": what,
            "seed": seed,
            "parzen": ll.mean().item(),
            "standard_error": (ll.std() / math.sqrt(len(ll))).item(),
            "bandwidth": bandwidth,
            "frechet": frechet_distance(test_features, found),
            "precision": precision,
            "recall": recall,
            "nearest": nearest_neighbors(part, train_x.flatten(1))[0].mean().item(),
        }
        record["rows"].append(row)
        record["cpu_seconds_of_judging"] = round(time.process_time() - start)
        record["summary"] = summary(record["rows"])
        write(path, record)
        print(row, flush=True)


def summary(rows: list[dict]) -> dict:
    """Mean and standard deviation over seeds or sets, by source and metric."""
    result: dict[str, dict] = {}
    for what in dict.fromkeys(row["what"] for row in rows):
        result[what] = {}
        for metric in ("parzen", "frechet", "precision", "recall", "nearest"):
            values = [row[metric] for row in rows if row["what"] == what]
            spread = statistics.stdev(values) if len(values) > 1 else None
            result[what][metric] = {"mean": statistics.fmean(values), "std": spread}
    return result


def write(path: Path, record: dict) -> None:
    part = path.with_name(f".{path.name}")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and judge the generators of chapter 9.")
    parser.add_argument("--folder", type=Path, default=ROOT / "_build" / "generators")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    images, _ = training_images()
    seconds: dict[str, list[int]] = {name: [] for name in STEPS}
    for seed in SEEDS:
        for name in STEPS:
            file = folder / f"{name}-{seed}.safetensors"
            if not file.exists():
                start = time.process_time()
                state = train_one(name, seed, images)
                metadata = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__}
                metadata |= {"steps": str(STEPS[name]), "seed": str(seed)}
                metadata |= {"cpu_seconds": f"{time.process_time() - start:.0f}"}
                weights = state.sampling_generator.state_dict()
                save_file({k: v.contiguous() for k, v in weights.items()}, file, metadata)
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() | {"command": COMMAND}
            seconds[name].append(int(metadata["cpu_seconds"]))
            if seed == SEEDS[0]:
                halves = {
                    k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()
                }
                save_file(halves, ROOT / "ganlib" / f"{name}_generator.safetensors", metadata)
    record = {
        "command": COMMAND,
        "date": time.strftime("%Y-%m-%d"),
        "device": "1 thread of a CPU",
        "torch": torch.__version__,
        "ganlib": ganlib.__version__,
        "steps": STEPS,
        "cpu_seconds_of_training": seconds,
        "rows": [],
    }
    # In less than full precision distances are off, and the Parzen score by two nats.
    torch.set_float32_matmul_precision("highest")
    judge(folder, record, ROOT / "book" / "results" / "09_metrics.json")


if __name__ == "__main__":
    main()
