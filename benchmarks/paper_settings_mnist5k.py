"""The 2014 paper's networks and optimizer settings on mnist5k, for as long as chapter 7 trains.

    python benchmarks/paper_settings_mnist5k.py        (about 5 minutes of one CPU core)

Writes book/results/07_paper_settings.json (class shares and confidence of 1,000 samples for each
seed, with provenance) and .png (64 samples of the first seed). Settings of the published code:
z uniform on (-sqrt 3, sqrt 3), weights uniform, output bias at the logit of the pixel means,
batch 100, learning rate 0.1 divided by 1.000004 per update, momentum 0.5 rising to 0.7 over 250
epochs, simultaneous updates, k = 1, non-saturating loss, dropout shares 0.2 and 0.5. Not as in
that code: one dropout mask for each forward pass, 4,500 training images, and torch's matmul
precision "medium" (bfloat16 factors on a CPU with AMX).
"""

import math
import time
from collections.abc import Callable

import torch
from common import RESULTS, new_record, scale_lr, verdict, write_grids
from torch import Tensor

from ganlib.data import load_images
from ganlib.games import gan_loss_d, gan_loss_g
from ganlib.metrics import load_digit_classifier
from ganlib.models import MaxoutDiscriminator, MLPGenerator, uniform_init_
from ganlib.records import write_record
from ganlib.trainer import Draw, State, generate, simultaneous_step, train

STEPS, BATCH, SEEDS = 4000, 100, (0, 1, 2)


def uniform_z(n: int, rng: torch.Generator) -> Tensor:
    return (2 * torch.rand(n, 100, generator=rng) - 1) * math.sqrt(3)


def new_state(seed: int, images: Tensor) -> State:
    """The paper's networks, their first weights, and the optimizers of the published code."""
    torch.manual_seed(seed)
    generator = MLPGenerator(pixel_means=images.float().mean(0) / 255)
    discriminator = MaxoutDiscriminator()
    uniform_init_(generator, 0.05)
    uniform_init_(discriminator, 0.005)
    opt_g, opt_d = (
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.5, fused=True)
        for network in (generator, discriminator)
    )
    return State(generator, discriminator, opt_g, opt_d, torch.Generator().manual_seed(seed))


def sampler(images: Tensor) -> Draw:
    """Batches of uint8 images, as float in [0, 1], with uniform latents."""

    def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(images), (BATCH,), generator=rng)
        return images[index].float() / 255, uniform_z(BATCH, rng)

    return draw


def schedule(n_images: int) -> Callable[[State], None]:
    """Learning rate and momentum of the published code, from a state's step."""

    def before_step(state: State) -> None:
        scale_lr(state, 1.000004**-state.step)
        epochs = state.step / (n_images // BATCH)
        for optimizer in (state.opt_g, state.opt_d):
            optimizer.param_groups[0]["momentum"] = 0.5 + 0.2 * min(epochs / 250, 1)

    return before_step


def train_one(seed: int, images: Tensor) -> State:
    state = new_state(seed, images)
    train(state, sampler(images), gan_loss_d, gan_loss_g, until=STEPS, step=simultaneous_step,
          before_step=schedule(len(images)))  # fmt: skip
    return state


def main() -> None:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    images, classifier = load_images("mnist5k")[0], load_digit_classifier()
    record = new_record("paper_settings_mnist5k.py", runs=[])
    for seed in SEEDS:
        start = time.time()
        generator = train_one(seed, images).generator
        run = {"seed": seed, "steps": STEPS, "seconds": round(time.time() - start)}
        x_fake = generate(generator, uniform_z(1000, torch.Generator().manual_seed(100 + seed)))
        record["runs"].append(run | verdict(x_fake, classifier))
        if seed == SEEDS[0]:
            write_grids(RESULTS / "07_paper_settings.png", [x_fake[:64]], 1)
    write_record(RESULTS / "07_paper_settings.json", record)


if __name__ == "__main__":
    main()
