"""Ten kinds of GAN as data for tests: losses, networks, batches, and what each asks beside them.

The pairs of losses that later chapters will teach stand here, short, as any reader would write
them; InfoGAN is here twice, with Q in D and beside G.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.functional import cross_entropy, one_hot, relu, softplus
from torch.nn.utils.parametrizations import spectral_norm

from ganlib.data import image_sampler
from ganlib.games import gan_loss_d, gan_loss_g, least_squares_loss_d, least_squares_loss_g
from ganlib.losses import (
    discriminator_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
    nonsaturating_generator_loss,
)
from ganlib.models import mlp, small_pair
from ganlib.trainer import State, running_average


def pair() -> tuple[nn.Module, nn.Module]:
    return small_pair(data_dim=2, latent_dim=3, hidden=8)


def draw(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(5, 2, generator=rng) + 1, torch.randn(5, 3, generator=rng)


class Game(NamedTuple):
    """A game: its losses, networks and batches, and what else it asks of the trainer."""

    loss_d: Callable[..., Any]
    loss_g: Callable[..., Any]
    networks: Callable[[], tuple[nn.Module, nn.Module]] = pair
    draw: Callable[[torch.Generator], Any] = draw
    moved_by_g: Callable[[Any, Any], list[nn.Module]] = lambda g, d: [g]
    moved_by_d: Callable[[Any, Any], list[nn.Module]] = lambda g, d: [d]
    prepare: Callable[[State], Any] = lambda state: None
    before_step: Callable[[State], Any] | None = None
    reached: tuple[str, ...] = ()  # what the losses call of a network, beside itself
    not_at_once: str = ""  # what `train_seeds` says about it
    not_compiled: str = ""


def fakes(generator: Any, z: Tensor) -> Tensor:
    with torch.no_grad():
        return generator(z)


# Hinge, and both kinds of Wasserstein GAN


def hinge_d(g: Any, d: Any, batch: Any) -> Any:
    return relu(1 - d(batch[0])).mean() + relu(1 + d(fakes(g, batch[1]))).mean(), {}


def critic_d(g: Any, d: Any, batch: Any) -> Any:
    return d(fakes(g, batch[1])).mean() - d(batch[0]).mean(), {}


def critic_g(g: Any, d: Any, batch: Any) -> Any:
    return -d(g(batch[1])).mean(), {}


def spectral_pair() -> tuple[nn.Module, nn.Module]:
    generator, discriminator = pair()
    for layer in discriminator.modules():
        if isinstance(layer, nn.Linear):
            spectral_norm(layer)
    return generator, discriminator


def clip(state: State) -> None:
    def clamp(optimizer: Any, *_: Any) -> None:
        for weight in optimizer.param_groups[0]["params"]:
            weight.detach().clamp_(-0.05, 0.05)

    state.opt_d.register_step_post_hook(clamp)


def penalty_d(g: Any, d: Any, batch: Any) -> Any:
    x_real, z, share = batch
    x_hat = (x_real + share * (fakes(g, z) - x_real)).requires_grad_()
    (slope,) = grad(d(x_hat).sum(), x_hat, create_graph=True)
    return critic_d(g, d, batch)[0] + 10 * (slope.norm(dim=1) - 1).square().mean(), {}


def draw_with_shares(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    return *draw(rng), torch.rand(5, 1, generator=rng)


# Relativistic with R1 and R2 (here by torch.func, which several seeds at once need), f-GAN


def relativistic_d(g: Any, d: Any, batch: Any) -> Any:
    x_real, x_fake = batch[0], fakes(g, batch[1])
    loss = softplus(d(x_fake) - d(x_real)).mean()
    slopes = [torch.func.grad(lambda x: d(x).sum())(x) for x in (x_real, x_fake)]
    return loss + sum(slope.square().sum(1).mean() for slope in slopes) / 2, {}


def relativistic_g(g: Any, d: Any, batch: Any) -> Any:
    return softplus(d(batch[0]) - d(g(batch[1]))).mean(), {}


def conjugate(t: Tensor) -> Tensor:
    """f* of the squared Hellinger distance, for t < 1."""
    return t / (1 - t)


def hellinger_d(g: Any, d: Any, batch: Any) -> Any:
    real, fake = (1 - torch.exp(-d(x)) for x in (batch[0], fakes(g, batch[1])))  # g_f
    return conjugate(fake).mean() - real.mean(), {}


def hellinger_g(g: Any, d: Any, batch: Any) -> Any:
    return -conjugate(1 - torch.exp(-d(g(batch[1])))).mean(), {}


# Conditional: both networks read the label


class Labelled(nn.Module):
    """A network of x and of one of three labels."""

    def __init__(self, sizes: list[int], *last: nn.Module):
        super().__init__()
        self.layers, self.label = nn.Sequential(mlp(sizes), *last), nn.Embedding(3, sizes[0])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(x.flatten(1) + self.label(y))


def labelled_d(g: Any, d: Any, batch: Any) -> Any:
    x_real, z, y = batch
    with torch.no_grad():
        x_fake = g(z, y)
    return discriminator_loss(d(x_real, y), d(x_fake, y)), {}


def labelled_g(g: Any, d: Any, batch: Any) -> Any:
    _, z, y = batch
    return nonsaturating_generator_loss(d(g(z, y), y)), {}


IMAGES = torch.randint(0, 256, (20, 1, 2, 2), generator=torch.Generator().manual_seed(0)).byte()
LABELS = torch.arange(20) % 3


# InfoGAN: Q, which guesses the code, as a head of D and as a network beside G. G's optimizer has it


class WithHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp([2, 8, 8])
        self.head, self.q = nn.Sequential(nn.Linear(8, 1), nn.Flatten(0)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def code(self, x: Tensor) -> Tensor:
        return self.q(self.body(x))


class BesideG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g, self.q = mlp([3, 8, 2]), mlp([2, 8, 3])

    def forward(self, z: Tensor) -> Tensor:
        return self.g(z)


def head_g(g: Any, d: Any, batch: Any) -> Any:
    x_fake = g(batch[1])
    return nonsaturating_generator_loss(d(x_fake)) + cross_entropy(d.code(x_fake), batch[2]), {}


def beside_g(g: Any, d: Any, batch: Any) -> Any:
    x_fake = g(batch[1])
    return nonsaturating_generator_loss(d(x_fake)) + cross_entropy(g.q(x_fake), batch[2]), {}


def draw_codes(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    (x_real, z), code = draw(rng), torch.randint(3, (5,), generator=rng)
    return x_real, z + 2 * one_hot(code, 3), code


# CycleGAN: each player is two networks


class Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_a, self.to_b = mlp([2, 8, 2]), mlp([2, 8, 2])


def two_pairs() -> tuple[nn.Module, nn.Module]:
    return Maps(), nn.ModuleDict({"a": pair()[1], "b": pair()[1]})


def cycle_d(g: Any, d: Any, batch: Any) -> Any:
    a, b = batch
    with torch.no_grad():
        fake_a, fake_b = g.to_a(b), g.to_b(a)
    loss_a = least_squares_discriminator_loss(d["a"](a), d["a"](fake_a))
    return loss_a + least_squares_discriminator_loss(d["b"](b), d["b"](fake_b)), {}


def cycle_g(g: Any, d: Any, batch: Any) -> Any:
    a, b = batch
    fake_a, fake_b = g.to_a(b), g.to_b(a)
    loss = least_squares_generator_loss(d["a"](fake_a))
    loss = loss + least_squares_generator_loss(d["b"](fake_b))
    return loss + 10 * ((g.to_b(fake_a) - b).abs().mean() + (g.to_a(fake_b) - a).abs().mean()), {}


def draw_unpaired(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(5, 2, generator=rng) + 1, torch.randn(4, 2, generator=rng) - 1


# Progressive growing: a buffer says how far the finer scale is faded in


class Growing(nn.Module):
    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 16)
        self.coarse, self.fine = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 3, padding=1)
        self.register_buffer("level", torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        large = nn.functional.interpolate(self.first(z).reshape(-1, 1, 4, 4), scale_factor=2)
        return torch.lerp(self.coarse(large), self.fine(large), self.level)


class Shrinking(nn.Module):
    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 4, 2, 1)
        self.last = nn.Sequential(nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(32, 1), nn.Flatten(0))
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        coarse = self.coarse(nn.functional.avg_pool2d(x, 2))
        return self.last(torch.lerp(coarse, self.fine(x), self.level))


def grow(state: State) -> None:
    for network in (state.generator, state.discriminator):
        network.level.fill_(state.step / 8)  # pyright: ignore


def draw_large(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(5, 1, 8, 8, generator=rng), torch.randn(5, 3, generator=rng)


GAMES = {
    "least squares": Game(least_squares_loss_d, least_squares_loss_g),
    "hinge with spectral norm": Game(
        hinge_d, critic_g, spectral_pair, not_at_once="networks without buffers expected",
    ),
    "Wasserstein with clipping": Game(
        critic_d, critic_g, prepare=clip, not_at_once="without step hooks expected",
        not_compiled="without step hooks expected",
    ),
    "Wasserstein with penalty": Game(
        penalty_d, critic_g, draw=draw_with_shares, not_at_once="torch.func.grad",
    ),
    "relativistic with R1 and R2": Game(relativistic_d, relativistic_g),
    "f-GAN": Game(hellinger_d, hellinger_g),
    "conditional": Game(
        labelled_d, labelled_g,
        lambda: (Labelled([3, 8, 4]), Labelled([4, 8, 1], nn.Flatten(0))),
        image_sampler(IMAGES, 5, 3, labels=LABELS),
    ),
    "InfoGAN with Q in D": Game(
        gan_loss_d_of_three := lambda g, d, batch: gan_loss_d(g, d, batch[:2]), head_g,
        lambda: (mlp([3, 8, 2]), WithHead()), draw_codes,
        lambda g, d: [g, d.q], lambda g, d: [d.body, d.head], reached=("code",),
    ),
    "InfoGAN with Q beside G": Game(
        gan_loss_d_of_three, beside_g, lambda: (BesideG(), pair()[1]), draw_codes, reached=("q",),
    ),
    "CycleGAN": Game(cycle_d, cycle_g, two_pairs, draw_unpaired, reached=("to_a", "to_b")),
    "progressive growing": Game(
        gan_loss_d, gan_loss_g, lambda: (Growing(), Shrinking()), draw_large, before_step=grow,
        not_at_once="networks without buffers expected",
    ),
}  # fmt: skip


def new_state(game: Game, seed: int = 3, wrap: Callable[..., Any] = lambda network: network,
              device: str = "cpu", average: bool = True) -> State:  # fmt: skip
    torch.manual_seed(seed)
    with torch.device(device):
        g, d = game.networks()
    opt_g, opt_d = (
        torch.optim.Adam([w for part in parts for w in part.parameters()], 0.01, (0.5, 0.9))
        for parts in (game.moved_by_g(g, d), game.moved_by_d(g, d))
    )
    state = State(wrap(g), wrap(d), opt_g, opt_d, torch.Generator().manual_seed(seed))
    state.average = running_average(state.generator, 0.5) if average else None
    game.prepare(state)
    return state
