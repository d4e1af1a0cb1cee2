"""What `BatchNorm1d(n, 0.8)`, which sets eps and not momentum, does to a GAN on mnist5k.

    python benchmarks/batch_norm_eps.py                  (7 minutes of one CPU core)
    python benchmarks/batch_norm_eps.py --pair maxout    (4 minutes)

Writes book/results/07_batch_norm_eps.json (for each seed and each eps: class shares, confidence
and Fréchet distance of 2,250 samples of G, and of a running average of its weights with decay
0.995, with provenance) and .png (24 samples of each run's G; a row of blocks for each seed, eps
1e-5 on the left, 0.8 on the right), or both with the name 07_batch_norm_eps_maxout. The two runs
of a seed differ in eps alone: they start from the same weights and see the same batches. The
Fréchet distance is over the features of the book's digit classifier, to one half of the training
images; the other half is the control.

mlp     G 100-256-512-1024-784, batch norm and ReLU, D 784-1024-512-256-1 with LeakyReLU 0.2, Adam
        2e-4 for both; number of steps chosen on seed 100
maxout  the networks and learning rates of chapter 7, which were chosen on seeds 0 and 1; number
        of steps set before the first run

Both: torch's initial weights, betas (0.5, 0.999), batch 64, constant learning rates. Run, features
included, at torch's matmul precision "medium": bfloat16 factors on a CPU with AMX.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ganlib import __version__
from ganlib.data import image_sampler, load_images
from ganlib.losses import gan_loss_d, gan_loss_g
from ganlib.metrics import frechet_distance, judge_digits, load_digit_classifier
from ganlib.models import DigitClassifier, MaxoutDiscriminator, MLPGenerator, mlp
from ganlib.plotting import image_array
from ganlib.trainer import State, generate, running_average, train

EPS = (1e-5, 0.8)
STEPS = {"mlp": 2500, "maxout": 1000}
SEEDS = {"mlp": (0, 1, 2), "maxout": (3, 4, 5)}
FOLDER = Path(__file__).parents[1] / "book" / "results"


def networks(pair: str, images: torch.Tensor) -> tuple[nn.Module, nn.Module, float, float]:
    """G, D and their learning rates."""
    if pair == "maxout":
        pixel_means = images.float().mean(0) / 255
        generator = MLPGenerator(batch_norm=True, pixel_means=pixel_means)
        return generator, MaxoutDiscriminator(), 8e-4, 4e-4
    generator = MLPGenerator(hidden=(256, 512, 1024), batch_norm=True)
    layers = mlp([784, 1024, 512, 256, 1], partial(nn.LeakyReLU, 0.2))
    return generator, nn.Sequential(nn.Flatten(), layers, nn.Flatten(0)), 2e-4, 2e-4


def train_one(pair: str, seed: int, eps: float, images: torch.Tensor) -> State:
    torch.manual_seed(seed)
    generator, discriminator, *rates = networks(pair, images)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = eps
    opt_g, opt_d = (
        torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999), fused=True)
        for network, lr in zip((generator, discriminator), rates, strict=True)
    )
    state = State(generator, discriminator, opt_g, opt_d, torch.Generator().manual_seed(seed))
    state.average = running_average(generator, decay=0.995)
    draw = image_sampler(images, batch_size=64, latent_dim=100)
    train(state, draw, gan_loss_d, gan_loss_g, until=STEPS[pair])
    return state


def features(classifier: DigitClassifier, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([classifier.features(part) for part in images.split(500)])


def save(name: str, record: dict, blocks: list[np.ndarray]) -> None:
    """Both files, each complete at every moment."""
    FOLDER.mkdir(exist_ok=True)
    pairs = zip(blocks[::2], blocks[1::2], strict=True)
    rows = [np.hstack([a, np.ones((len(a), 12)), b]) for a, b in pairs]
    gap = np.ones((12, rows[0].shape[1]))
    picture = np.vstack([part for row in rows for part in (row, gap)][:-1])
    levels = Image.fromarray((255 * picture).astype("uint8")).quantize(16)
    levels.save(FOLDER / f".{name}.png", format="png", optimize=True)
    (FOLDER / f".{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    for suffix in (".png", ".json"):
        (FOLDER / f".{name}{suffix}").replace(FOLDER / f"{name}{suffix}")


def main() -> None:
    parser = argparse.ArgumentParser(description="BatchNorm1d(n, 0.8) measured")
    parser.add_argument("--pair", choices=STEPS, default="mlp")
    pair = parser.parse_args().pair
    suffix, option = ("_maxout", " --pair maxout") if pair == "maxout" else ("", "")
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    images, _ = load_images("mnist5k")
    classifier, blocks = load_digit_classifier(), []
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    real = features(classifier, images[order].float() / 255)
    half = len(real) // 2
    record = {
        "command": f"python benchmarks/batch_norm_eps.py{option}",
        "date": time.strftime("%Y-%m-%d"),
        "device": "1 thread of a CPU",
        "torch": torch.__version__,
        "ganlib": __version__,
        "steps": STEPS[pair],
        "samples": half,
        "frechet_of_real_digits": frechet_distance(real[:half], real[half:]),
        "runs": [],
    }
    for seed in SEEDS[pair]:
        for eps in EPS:
            start = time.process_time()
            state = train_one(pair, seed, eps, images)
            seconds = round(time.process_time() - start)
            z = torch.randn(half, 100, generator=torch.Generator().manual_seed(1000 + seed))
            run = {"seed": seed, "eps": eps, "cpu_seconds": seconds}
            for name, network in (("G", state.generator), ("average", state.sampling_generator)):
                x_fake = generate(network, z)
                confidence, shares = judge_digits(x_fake, classifier)
                distance = frechet_distance(real[:half], features(classifier, x_fake))
                measured = {"confidence": confidence, "shares": shares.tolist()}
                run[name] = measured | {"frechet": distance}
            record["runs"].append(run)
            blocks.append(image_array(generate(state.generator, z[:24]), columns=8))
        save(f"07_batch_norm_eps{suffix}", record, blocks)


if __name__ == "__main__":
    main()
