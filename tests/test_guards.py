"""ganlib.guards: what would train wrong without a word is an error that names it."""

import math
import re
from typing import Any

import pytest
import torch
from builders import adam_state, draw_points, point_state
from torch import nn

from ganlib.games import (
    gan_loss_d,
    gan_loss_g,
    least_squares_loss_d,
    least_squares_loss_g,
    minimax_loss_g,
)
from ganlib.guards import (
    check_average,
    check_players,
    require_at_least,
    require_finite,
    require_images,
    require_points,
)
from ganlib.models import small_pair
from ganlib.trainer import State, running_average, simultaneous_step, train, train_step

PAIRS = [
    (gan_loss_d, gan_loss_g),
    (gan_loss_d, minimax_loss_g),
    (least_squares_loss_d, least_squares_loss_g),
]


def run(state: State, until: int = 1, loss_d: Any = gan_loss_d, loss_g: Any = gan_loss_g,
        **options: Any) -> None:  # fmt: skip
    train(state, draw_points, loss_d, loss_g, until=until, progress=False, **options)


def with_optimizers(state: State, by_g: Any, by_d: Any) -> State:
    opt_g, opt_d = torch.optim.Adam(by_g), torch.optim.Adam(by_d)
    return State(state.generator, state.discriminator, opt_g, opt_d, state.rng)


# Players, optimizers and losses


def test_swapped_optimizers_are_refused_before_anything_moves():
    state = point_state()
    g, d = state.generator, state.discriminator
    before = [p.clone() for p in g.parameters()]
    swapped = with_optimizers(state, d.parameters(), g.parameters())
    kept: list[Any] = []
    with pytest.raises(ValueError, match=r"opt_g moves no weight of the generator.*swapped"):
        run(swapped, checkpoint=kept.append)
    assert kept == []
    assert swapped.step == 0
    assert all(torch.equal(p, q) for p, q in zip(before, g.parameters(), strict=True))


def test_one_wrong_optimizer_is_refused_either_way():
    g, d = small_pair(2, 3, 4)
    ws_g, ws_d = list(g.parameters()), list(d.parameters())
    for by_g, by_d in ((ws_g, ws_g), (ws_d, ws_d), ([], ws_d), (ws_g, [])):
        with pytest.raises(ValueError, match="optimizers swapped"):
            check_players(g, d, by_g, by_d)


@pytest.mark.parametrize("step", [train_step, simultaneous_step])
@pytest.mark.parametrize(("loss_d", "loss_g"), PAIRS)
def test_swapped_losses_are_refused_by_their_name_before_g_moves(loss_d, loss_g, step):
    # A loss of D makes its forgeries without gradient, so it moves nothing of G.
    state = point_state()
    before = [p.clone() for p in state.generator.parameters()]
    with pytest.raises(ValueError, match=rf"{loss_d.__name__} depends on none of the 6 weights"):
        run(state, loss_d=loss_g, loss_g=loss_d, step=step)
    assert all(torch.equal(p, q) for p, q in zip(before, state.generator.parameters(), strict=True))


@pytest.mark.parametrize(("loss_d", "_"), PAIRS[1:])
def test_ds_loss_given_to_both_players_is_refused_by_its_name(loss_d, _):
    with pytest.raises(ValueError, match=f"{loss_d.__name__} depends on none of the 6 weights"):
        run(point_state(), loss_d=loss_d, loss_g=loss_d)


def test_a_trainable_weight_that_no_optimizer_moves_is_named_unless_it_is_frozen():
    state = point_state()
    by_d = list(state.discriminator.parameters())
    left = with_optimizers(state, state.generator.parameters(), by_d[1:])
    name = next(name for name, _ in state.discriminator.named_parameters())
    with pytest.raises(ValueError, match=rf"^1 weights \(discriminator\.{name}\) are moved by no"):
        run(left)
    by_d[0].requires_grad_(False)
    run(left)
    assert left.step == 1


def test_at_most_three_weights_are_named_and_all_are_counted():
    state = point_state()
    one = list(state.generator.parameters())[:1]
    left = with_optimizers(state, one, state.discriminator.parameters())
    with pytest.raises(ValueError, match=r"^5 weights \(generator\.0\.bias, [^,]+, [^,]+\) are"):
        run(left)


def test_a_weight_moved_by_both_optimizers_is_named():
    state = point_state()
    by_d = list(state.discriminator.parameters())
    both = with_optimizers(state, [*state.generator.parameters(), by_d[1]], by_d)
    with pytest.raises(ValueError, match=r"\(discriminator\.0\.0\.bias\) are moved by both"):
        run(both)


def test_a_moved_weight_of_neither_network_is_told_by_its_shape():
    state = point_state()
    stray = nn.Parameter(torch.ones(7, 2))
    by_g = [*state.generator.parameters(), stray]
    with pytest.raises(
        ValueError, match=r"\(a weight \(7, 2\)\) are moved, but in neither network"
    ):
        run(with_optimizers(state, by_g, state.discriminator.parameters()))


# The running average


def test_a_running_average_of_another_generator_is_refused_with_both_shapes():
    state = point_state()
    state.average = running_average(small_pair(2, 3, 9)[0], 0.9)
    with pytest.raises(
        ValueError, match=r"tensor 0\.weight is \(8, 3\) in G and \(9, 3\) in the average"
    ):
        run(state)


def test_a_layer_without_weights_that_differs_is_named():
    state = point_state(average=0.9)
    generator = state.generator
    assert isinstance(generator, nn.Sequential)
    generator[1] = nn.ReLU()
    with pytest.raises(ValueError, match="layer 1 is ReLU in G and SiLU in the average"):
        run(state)
    generator[1] = nn.SiLU()
    generator.append(nn.Tanh())
    with pytest.raises(ValueError, match="layer 5 is Tanh in G and None in the average"):
        run(state)
    state.average = running_average(generator, 0.9)
    del generator[5]
    with pytest.raises(ValueError, match="layer 5 is None in G and Tanh in the average"):
        run(state)


@pytest.mark.parametrize(("every", "found"), [((4, 1000), 4), ((50, 3), 3), ((50, 50), 20)])
def test_a_generator_that_grew_is_found_at_the_next_logged_or_kept_step(every, found):
    state = point_state(average=0.9)
    generator = state.generator
    assert isinstance(generator, nn.Sequential)

    def before_step(state: State) -> None:
        if state.step == 2:
            layer = nn.Linear(2, 2)
            generator.append(layer)
            state.opt_g.add_param_group({"params": list(layer.parameters())})

    kept: list[int] = []
    with pytest.raises(ValueError, match=r"5\.weight is \(2, 2\) in G and None in the average"):
        run(state, 20, log_every=every[0], checkpoint_every=every[1], before_step=before_step,
            checkpoint=lambda s: kept.append(s.step))  # fmt: skip
    assert (state.step, kept) == (found, [0])


@pytest.mark.parametrize("level", [2, 0.5, True, "fine"])
def test_a_plain_attribute_that_changes_is_named_and_a_buffer_is_followed(level):
    class Levelled(nn.Linear):
        share: torch.Tensor

        def __init__(self):
            super().__init__(3, 2)
            self.level: Any = 0
            self.register_buffer("share", torch.zeros(()))

    generator = Levelled()
    state = adam_state((generator, small_pair(2, 3, 4)[1]), average=0.9)
    generator.share.fill_(0.25)
    run(state, 2)
    assert state.average is not None
    assert dict(state.average.module.named_buffers())["share"].item() == 0.25
    generator.level = level
    with pytest.raises(ValueError, match=rf"attribute level is {level} in G and 0 in .*buffer"):
        run(state, 3)


def test_an_average_in_evaluation_mode_fits_a_generator_in_training_mode():
    state = point_state(average=0.9)
    assert state.average is not None
    state.average.module.eval()
    state.generator.register_full_backward_hook(lambda *_: None)
    check_average(state.generator, state.average)
    check_average(state.generator, None)


# Numbers


@pytest.mark.parametrize("player", ["D", "G"])
@pytest.mark.parametrize("until", [3, 4])
def test_a_gradient_that_is_not_finite_stops_training_before_the_checkpoint(player, until):
    # The loss is finite: the square root of 0 has an infinite slope, times 0.
    def spoiled(loss_function: Any, own: str) -> Any:
        def loss(generator: Any, discriminator: Any, batch: Any) -> Any:
            value, logs = loss_function(generator, discriminator, batch)
            network = discriminator if own == "D" else generator
            weight = next(network.parameters())
            bad = own == player and state.step == 2
            return value + ((weight * 0).sum().sqrt() if bad else 0), logs

        return loss

    # simultaneous: else D's spoiled weights spoil the loss of G, which would be named
    state, kept = point_state(), []
    with pytest.raises(FloatingPointError, match=rf"norm of grad/{player} is nan at step 3"):
        run(state, until, spoiled(gan_loss_d, "D"), spoiled(gan_loss_g, "G"), log_every=50,
            step=simultaneous_step, checkpoint_every=1,
            checkpoint=lambda s: kept.append(s.step))  # fmt: skip
    assert kept == [0, 1, 2]


@pytest.mark.parametrize("player", ["D", "G"])
def test_a_weight_that_is_not_finite_stops_training_before_the_checkpoint(player):
    state, kept = point_state(), []

    def before_step(state: State) -> None:
        if state.step == 2:
            optimizer = state.opt_d if player == "D" else state.opt_g
            optimizer.register_step_post_hook(
                lambda o, *_: o.param_groups[0]["params"][1].data.fill_(math.inf)
            )

    with pytest.raises(FloatingPointError, match=rf"(weights|grad)/{player}|loss") as caught:
        run(state, 9, before_step=before_step, log_every=50,
            checkpoint=lambda s: kept.append(s.step), checkpoint_every=1)  # fmt: skip
    assert "at step 3" in str(caught.value)
    assert kept == [0, 1, 2]
    if player == "G":  # it moves last: only its weights tell
        assert "the norm of weights/G is inf" in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, [1.0, math.nan, 2.0]])
def test_a_number_that_is_not_finite_is_quoted_with_its_name_and_step(bad):
    with pytest.raises(FloatingPointError) as caught:
        require_finite("loss/D", bad, 7)
    assert str(caught.value).startswith(f"loss/D is {bad} at step 7: training stopped")
    require_finite("loss/D", 1e30, 7)
    require_finite("loss/D", [1.0, -2.0], 7)


def test_the_first_count_that_is_too_small_is_named():
    require_at_least(1, n_critic=1, log_every=5)
    with pytest.raises(ValueError, match="log_every >= 1 expected, got 0"):
        require_at_least(1, n_critic=1, log_every=0, checkpoint_every=-1)


def test_gradient_norms_are_of_the_weights_that_each_optimizer_moves():
    state = point_state()
    run(state)
    for name, optimizer in (("grad/D", state.opt_d), ("grad/G", state.opt_g)):
        squares = [float((w.grad**2).sum()) for w in optimizer.param_groups[0]["params"]]
        assert state.gradient_norms()[name].item() == pytest.approx(sum(squares) ** 0.5, rel=1e-6)
        assert state.history.series(name)[1].tolist() == [state.gradient_norms()[name].item()]


POINTS = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(4), POINTS),
        (POINTS, torch.zeros(4)),
        (torch.zeros(4, 2, 1), POINTS),
        (POINTS, torch.zeros(4, 2, 1)),
        (POINTS, torch.zeros(4, 3)),
        (POINTS, torch.zeros(0, 2)),
    ],
    ids=lambda points: str(tuple(points.shape)),
)
def test_points_of_other_shapes_are_refused_with_both_shapes(x, y):
    with pytest.raises(ValueError, match="expected, got") as refusal:
        require_points(x, y)
    assert str(refusal.value).endswith(f"{tuple(x.shape)} and {tuple(y.shape)}")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_coordinate_that_is_not_finite_is_refused_and_quoted(bad, place):
    points = [torch.zeros(3, 2), torch.zeros(3, 2)]
    points[place][2, 1] = bad
    with pytest.raises(ValueError, match=f"finite coordinates expected, got {bad}"):
        require_points(points[0], points[1])


def test_no_points_at_all_are_compared_with_some_without_an_error():
    require_points(torch.zeros(0, 2), POINTS)
    require_points(POINTS, torch.zeros(1, 2))


@pytest.mark.parametrize("shape", [None, (1, 2, 3)])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.0009, 1.0009), (0.3, 0.3)])
def test_images_within_rounding_of_0_to_1_pass(shape, bounds):
    images = torch.full((5, 1, 2, 3), bounds[0])
    images[3, 0, 1, 2] = bounds[1]
    require_images(images, shape)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 255.0), (-0.0011, 1.0), (0.0, 1.0011)])
def test_images_of_another_range_are_refused_with_their_range(bounds):
    images = torch.full((5, 1, 2, 3), bounds[0])
    images[3, 0, 1, 2] = bounds[1]
    told = re.escape(f"got values from {bounds[0]:g} to {bounds[1]:g}")
    with pytest.raises(ValueError, match=told):
        require_images(images)


def test_images_with_a_nan_are_refused():
    images = torch.zeros(5, 1, 2, 3)
    images[1, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="got values from nan to nan"):
        require_images(images)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (torch.zeros(5, 2, 3), None),
        (torch.zeros(5, 1, 1, 2, 3), None),
        (torch.zeros(5, 1, 2, 3, dtype=torch.uint8), None),
        (torch.zeros(0, 1, 2, 3), None),
        (torch.zeros(5, 1, 2, 3), (1, 3, 2)),
        (torch.zeros(5, 1, 2, 3), (2, 3)),
        (torch.zeros(0, 1, 2, 3), (1, 2, 3)),
    ],
    ids=lambda given: str(tuple(given.shape)) if isinstance(given, torch.Tensor) else str(given),
)
def test_what_is_not_a_batch_of_float_images_is_refused_with_its_shape(images, shape):
    with pytest.raises(ValueError, match="float images") as refusal:
        require_images(images, shape)
    assert str(refusal.value).endswith(f"got {images.dtype} {tuple(images.shape)}")
    wanted = "c, h, w" if shape is None else ", ".join(map(str, shape))
    assert f"(n >= 1, {wanted})" in str(refusal.value)
