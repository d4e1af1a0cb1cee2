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
import time
from functools import partial

import torch
from common import RESULTS, adam_state, maxout_pair, new_record, verdict, write_grids
from torch import Tensor, nn

from ganlib.data import image_sampler, load_images
from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.metrics import classifier_features, frechet_distance, load_digit_classifier
from ganlib.models import MLPGenerator, mlp
from ganlib.records import write_record
from ganlib.trainer import State, generate, train

EPS = (1e-5, 0.8)
STEPS = {"mlp": 2500, "maxout": 1000}
SEEDS = {"mlp": (0, 1, 2), "maxout": (3, 4, 5)}


def mlp_pair() -> tuple[nn.Module, nn.Module]:
    generator = MLPGenerator(hidden=(256, 512, 1024), batch_norm=True)
    layers = mlp([784, 1024, 512, 256, 1], partial(nn.LeakyReLU, 0.2))
    return generator, nn.Sequential(nn.Flatten(), layers, nn.Flatten(0))


def train_one(pair: str, seed: int, eps: float, images: Tensor) -> State:
    if pair == "maxout":
        state = adam_state(seed, lambda: maxout_pair(images), 8e-4, 4e-4)
    else:
        state = adam_state(seed, mlp_pair, 2e-4, 2e-4)
    for module in [*state.generator.modules(), *state.sampling_generator.modules()]:
        if isinstance(module, nn.BatchNorm1d):
            module.eps = eps
    draw = image_sampler(images, batch_size=64, latent_dim=100)
    train(state, draw, gan_loss_d, gan_loss_g, until=STEPS[pair])
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description="BatchNorm1d(n, 0.8) measured")
    parser.add_argument("--pair", choices=STEPS, default="mlp")
    pair = parser.parse_args().pair
    suffix, option = ("_maxout", " --pair maxout") if pair == "maxout" else ("", "")
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    images, classifier, shown = load_images("mnist5k")[0], load_digit_classifier(), []
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    real, control = classifier_features(images[order].float() / 255, classifier).chunk(2)
    facts = {"samples": len(real), "frechet_of_real_digits": frechet_distance(real, control)}
    record = new_record(f"batch_norm_eps.py{option}", steps=STEPS[pair], **facts, runs=[])
    for seed, eps in ((seed, eps) for seed in SEEDS[pair] for eps in EPS):
        start = time.process_time()
        state = train_one(pair, seed, eps, images)
        seconds = round(time.process_time() - start)
        z = torch.randn(len(real), 100, generator=torch.Generator().manual_seed(1000 + seed))
        run = {"seed": seed, "eps": eps, "cpu_seconds": seconds}
        for name, network in (("G", state.generator), ("average", state.sampling_generator)):
            x_fake = generate(network, z)
            distance = frechet_distance(real, classifier_features(x_fake, classifier))
            run[name] = verdict(x_fake, classifier) | {"frechet": distance}
        record["runs"].append(run)
        shown.append(generate(state.generator, z[:24]))
        write_grids(RESULTS / f"07_batch_norm_eps{suffix}.png", shown, len(EPS))
        write_record(RESULTS / f"07_batch_norm_eps{suffix}.json", record)


if __name__ == "__main__":
    main()
