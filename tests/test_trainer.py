"""ganlib.trainer's loop: when it stops, what it records, what it resumes, and what it reaches."""

import copy
import math

import numpy as np
import pytest
import torch
from builders import adam_state, copied, point_state
from builders import draw_points as draw
from scipy import stats
from torch import Tensor, nn

from ganlib.data import gaussian_mixture, sample_mixture
from ganlib.games import gan_loss_d, gan_loss_g, minimax_loss_g
from ganlib.history import History
from ganlib.models import small_pair
from ganlib.trainer import (
    State,
    generate,
    running_average,
    simultaneous_step,
    train,
    train_step,
    weights_of,
)


def run(state: State, until: int, **options) -> History:
    return train(state, draw, gan_loss_d, gan_loss_g, until=until, **options)


def assert_same(a: State, b: State) -> None:
    for x, y in ((a.generator, b.generator), (a.discriminator, b.discriminator)):
        assert all(torch.equal(p, q) for p, q in zip(copied(x), copied(y), strict=True))
    assert torch.equal(a.rng.get_state(), b.rng.get_state())
    assert a.step == b.step
    assert a.history.scalars == b.history.scalars
    assert a.history.snapshots == b.history.snapshots


# until, resuming, stopping


def test_ten_steps_and_then_twenty_equal_twenty_in_one_go():
    parts, whole = point_state(average=0.9), point_state(average=0.9)
    run(parts, 10, log_every=5)
    run(parts, 20, log_every=5)
    run(whole, 20, log_every=5)
    assert whole.step == 20
    assert_same(parts, whole)


@pytest.mark.parametrize("until", [0, 4, 8])
def test_a_finished_call_changes_and_prints_nothing(until, capsys):
    state = point_state()
    run(state, 8, log_every=4)
    before = copy.deepcopy(state)
    capsys.readouterr()
    assert run(state, until, log_every=4) is state.history
    assert_same(state, before)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("step", [train_step, simultaneous_step])
def test_train_makes_the_steps_that_its_step_function_makes(step):
    by_train, by_hand = point_state(), point_state()
    run(by_train, 3, step=step, n_critic=2)
    for _ in range(3):
        step(by_hand, draw, gan_loss_d, gan_loss_g, 2)
    assert all(
        torch.equal(p, q)
        for p, q in zip(copied(by_train.generator), copied(by_hand.generator), strict=True)
    )


def test_an_interrupted_run_keeps_its_history_and_goes_on_where_it_was():
    state, calls = point_state(), 0

    def interrupted(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 2 * 13 + 1:
            raise KeyboardInterrupt
        return draw(rng)

    with pytest.raises(KeyboardInterrupt):
        train(state, interrupted, gan_loss_d, gan_loss_g, until=20, log_every=5)
    assert state.step == 13
    assert state.history.series("loss/D")[0].tolist() == list(range(1, 14))
    train(state, interrupted, gan_loss_d, gan_loss_g, until=20, log_every=5)
    whole = point_state()
    run(whole, 20, log_every=5)
    assert_same(state, whole)


@pytest.mark.parametrize(("bad", "shown"), [(math.nan, "nan"), (math.inf, "inf")])
@pytest.mark.parametrize("name", ["loss/G", "penalty"])
def test_a_value_that_is_not_finite_stops_training_with_its_name_and_step(name, bad, shown):
    state = point_state()

    def loss_g(generator, discriminator, batch):
        loss, _ = gan_loss_g(generator, discriminator, batch)
        factor = bad if state.step == 6 else 1.0
        penalty = torch.tensor(factor if name == "penalty" else 1.0)
        return loss * (factor if name == "loss/G" else 1.0), {"penalty": penalty}

    with pytest.raises(FloatingPointError, match=f"{name} is {shown} at step 7"):
        train(state, draw, gan_loss_d, loss_g, until=20, log_every=5)
    assert state.step == 10
    assert state.history.series("loss/D")[0].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "wrong",
    [
        {"until": -1},
        {"until": 5, "n_critic": 0},
        {"until": 5, "log_every": 0},
        {"until": 5, "checkpoint_every": 0},
    ],
)
def test_impossible_counts_are_refused_and_quoted(wrong):
    name, number = list(wrong.items())[-1]
    with pytest.raises(
        ValueError, match=rf"{name} >= {int(name != 'until')} expected, got {number}"
    ):
        run(point_state(), **wrong)


# What is recorded


def test_history_holds_every_steps_losses_and_logs():
    state, by_hand = point_state(), point_state()
    history = run(state, 7, log_every=3)
    expected = [train_step(by_hand, draw, gan_loss_d, gan_loss_g, 1) for _ in range(7)]
    for name in ("loss/D", "loss/real", "loss/fake", "D(x)", "D(G(z))", "loss/G"):
        steps, values = history.series(name)
        assert steps.tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert values.tolist() == pytest.approx([logs[name].item() for logs in expected], rel=1e-6)


def norm_of_gradients(network: nn.Module) -> float:
    return math.sqrt(
        sum(float((p.grad**2).sum()) for p in network.parameters() if p.grad is not None)
    )


def test_gradient_norms_are_those_of_the_logged_steps():
    state, by_hand, expected = point_state(), point_state(), []
    history = run(state, 4, log_every=2)
    for _ in range(4):
        train_step(by_hand, draw, gan_loss_d, gan_loss_g, 1)
        networks = (by_hand.discriminator, by_hand.generator)
        expected.append([norm_of_gradients(network) for network in networks])
    for player, name in enumerate(("grad/D", "grad/G")):
        steps, norms = history.series(name)
        assert steps.tolist() == [2, 4]
        assert norms.tolist() == pytest.approx([expected[1][player], expected[3][player]], rel=1e-5)


def test_numbers_are_logged_every_50_steps_and_after_the_last_one_unless_told_otherwise():
    history = run(point_state(), 101)
    assert history.series("grad/G")[0].tolist() == [50, 100, 101]
    assert run(point_state(), 3, log_every=1).series("grad/G")[0].tolist() == [1, 2, 3]


def test_history_names_what_it_has_when_asked_for_something_else():
    history = History()
    history.record(3, {"loss/D": 1.5, "D(x)": 0.25})
    history.record(4, {"loss/D": -2.0})
    steps, values = history.series("loss/D")
    assert (steps.tolist(), values.tolist()) == ([3, 4], [1.5, -2.0])
    assert isinstance(values, np.ndarray)
    with pytest.raises(ValueError, match=r"one of \['D\(x\)', 'loss/D'\] expected, got 'loss/g'"):
        history.series("loss/g")


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [0, 3, 6]), ({"snapshot_at": {0, 2, 7}}, [0, 2, 7]), ({"snapshot_at": [5, 99]}, [5])],
)
def test_snapshots_are_taken_at_the_chosen_steps_and_show_the_generator_of_that_step(
    options, expected
):
    z, state, by_hand = torch.randn(2, 3), point_state(), point_state()
    history = run(state, 7, log_every=3, snapshot=lambda s: generate(s.generator, z), **options)
    seen = {0: generate(by_hand.generator, z)}
    for step in range(1, 8):
        train_step(by_hand, draw, gan_loss_d, gan_loss_g, 1)
        seen[step] = generate(by_hand.generator, z)
    assert list(history.snapshots) == expected
    assert all(torch.equal(history.snapshots[step], seen[step]) for step in expected)
    assert not torch.equal(seen[0], seen[7])


def test_before_step_sees_the_number_of_finished_steps_and_sets_what_follows():
    state, seen = point_state(), []

    def before_step(state: State) -> None:
        seen.append(state.step)
        state.opt_g.param_groups[0]["lr"] = 0.0 if state.step < 3 else 0.01

    start = copied(state.generator)
    run(state, 3, before_step=before_step)
    assert all(torch.equal(p, q) for p, q in zip(copied(state.generator), start, strict=True))
    run(state, 5, before_step=before_step)
    assert not any(torch.equal(p, q) for p, q in zip(copied(state.generator), start, strict=True))
    assert seen == [0, 1, 2, 3, 4]


READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__array__")


def test_nothing_is_read_back_from_the_device_between_logged_steps(monkeypatch):
    state, read_at = point_state(), []

    def counted(read):
        def wrapper(self, *args, **kwargs):
            read_at.append(state.step)
            return read(self, *args, **kwargs)

        return wrapper

    for name in READING:
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
    run(state, 40, log_every=20, n_critic=2)
    assert set(read_at) == {20, 40}


def test_without_progress_nothing_is_printed(capsys):
    run(point_state(), 3, log_every=1, progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_progress_bar_leaves_one_line_and_ends_at_until(capsys):
    state = point_state()
    run(state, 4)
    run(state, 6)
    out, err = capsys.readouterr()
    bars = [line.split("\r")[-1] for line in out.removesuffix("\n").split("\n")]
    assert [b.split("|")[-1].split()[0] for b in bars] == ["4/4", "6/6"]
    assert all("loss/D=" in b and "loss/G=" in b for b in bars)
    assert err == ""


# The running average, and sampling


def test_running_average_starts_at_the_first_steps_weights_and_then_follows_its_formula():
    state, expected = point_state(average=0.9), None
    assert state.average is not None
    for step in range(1, 6):
        run(state, step)
        now = copied(state.generator)
        if expected is None:
            expected = now
        else:
            expected = [0.9 * a + 0.1 * w for a, w in zip(expected, now, strict=True)]
        for found, p in zip(state.average.module.parameters(), expected, strict=True):
            assert torch.allclose(found, p, rtol=0, atol=1e-6)
    difference = copied(state.generator)[0] - copied(state.average.module)[0]
    assert difference.abs().max() > 1e-4


def test_samples_come_from_the_running_average_if_there_is_one():
    plain, averaged, seen = point_state(), point_state(average=0.5), []
    assert plain.sampling_generator is plain.generator
    run(averaged, 2, log_every=2, snapshot=seen.append)
    assert averaged.average is not None
    assert [state is averaged for state in seen] == [True, True]
    assert averaged.sampling_generator is averaged.average.module


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_a_decay_outside_0_and_1_is_refused_and_quoted(decay):
    with pytest.raises(ValueError, match=rf"\[0, 1\) expected, got {decay}"):
        running_average(nn.Linear(1, 1), decay)


def test_a_running_average_with_decay_0_is_the_generator_itself():
    state = point_state(average=0.0)
    run(state, 3)
    pairs = zip(copied(state.sampling_generator), copied(state.generator), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("training", [True, False])
def test_generate_works_in_evaluation_mode_in_parts_and_leaves_the_mode(training):
    norm = nn.BatchNorm1d(3)
    network = nn.Sequential(norm, nn.Dropout(0.5))
    network(torch.randn(50, 3) * 3 + 1)  # running statistics that differ from a batch's
    network.train(training)
    z = torch.randn(7, 3)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    y = (z - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
    found = generate(network, z, batch_size=3)
    assert torch.allclose(found, y, atol=1e-6)
    assert not found.requires_grad
    assert all(m.training is training for m in network.modules())


def test_generate_leaves_the_mode_when_the_generator_fails():
    network = nn.Linear(2, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        generate(network, torch.randn(4, 5))
    assert network.training


def test_generate_passes_on_several_inputs_in_equal_parts():
    class Both(nn.Module):
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            sizes.append((len(z), len(y)))
            return z + 10 * y[:, None]

    sizes: list[tuple[int, int]] = []
    z, y = torch.randn(7, 2), torch.arange(7)
    assert torch.equal(generate(Both(), z, y, batch_size=3), z + 10 * y[:, None])
    assert sizes == [(3, 3), (3, 3), (1, 1)]


@pytest.mark.parametrize("lengths", [(), (3, 4)])
def test_generate_refuses_and_quotes_inputs_of_no_or_of_two_lengths(lengths):
    with pytest.raises(
        ValueError, match=rf"one length expected, got lengths \[{str(lengths)[1:-1]}"
    ):
        generate(nn.Linear(1, 1), *(torch.zeros(n, 1) for n in lengths))


def test_a_state_lays_out_convolutions_channels_last_with_the_same_values():
    def pair() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(1)
        return nn.Conv2d(2, 3, 3), nn.Sequential(nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(8, 1))

    state, (g, d) = adam_state(pair(), average=0.5), pair()
    assert state.average is not None
    networks = [(state.generator, g), (state.discriminator, d), (state.average.module, g)]
    for network, expected in networks:
        for found, weight in zip(network.parameters(), expected.parameters(), strict=True):
            assert torch.equal(found, weight)
            assert found.ndim < 4 or found.is_contiguous(memory_format=torch.channels_last)
            assert found.ndim < 4 or not found.is_contiguous()
    assert all(any(w is p for p in state.generator.parameters()) for w in weights_of(state.opt_g))


def test_last_values_of_several_seeds_are_their_mean():
    history = History()
    history.record(1, {"loss/D": [5.0, 9.0], "loss/G": 3.0})
    history.record(2, {"loss/D": [1.0, 2.0]})
    assert history.last("loss/D", "loss/G") == {"loss/D": 1.5, "loss/G": 3.0}
    assert history.series("loss/D")[1].tolist() == [[5, 9], [1, 2]]


def test_numbers_of_one_and_of_several_seeds_are_read_back_in_their_order():
    history, pending = History(), []
    for step in (4, 5):
        logs = {"a": torch.tensor(step * 1.5), "b": torch.tensor(step, dtype=torch.float64)}
        pending.append((step, logs))
    history.read_back(pending)
    assert pending == []
    history.read_back(pending)
    assert history.scalars == {"a": [(4, 6.0), (5, 7.5)], "b": [(4, 4.0), (5, 5.0)]}
    pending = [(1, {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])})]
    several = History()
    several.read_back(pending)
    assert several.scalars == {"a": [(1, [1.0, 2.0])], "b": [(1, [3.0, 4.0])]}


# What training reaches


@pytest.mark.parametrize("loss_g", [gan_loss_g, minimax_loss_g])
def test_a_small_gan_learns_the_distribution_of_its_data_on_a_line(loss_g, rng):
    mixture = gaussian_mixture(
        torch.tensor([1.0, 2.5]), torch.tensor([0.4, 0.6]), torch.tensor([0.3, 0.7])
    )
    generator, discriminator = small_pair(data_dim=1, latent_dim=2, hidden=32)
    state = State(
        generator,
        discriminator,
        torch.optim.Adam(generator.parameters(), 2e-3, (0.0, 0.99), fused=True),
        torch.optim.Adam(discriminator.parameters(), 5e-3, (0.0, 0.99), fused=True),
        rng,
        average=running_average(generator, 0.99),
    )

    def draw_points(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return sample_mixture(mixture, 128, rng)[:, None], torch.randn(128, 2, generator=rng)

    def distance() -> float:
        fresh = torch.Generator().manual_seed(2)
        fake = generate(state.sampling_generator, torch.randn(4000, 2, generator=fresh))
        real = sample_mixture(mixture, 4000, fresh)
        return float(stats.wasserstein_distance(fake[:, 0].numpy(), real.numpy()))

    start = distance()
    train(state, draw_points, gan_loss_d, loss_g, until=1000, log_every=500)
    assert start > 1.5
    assert distance() < 0.15  # 0.04 to 0.09 with ten other seeds
    losses = state.history.series("loss/D")[1][-200:]
    assert losses.mean() == pytest.approx(2 * math.log(2), abs=0.03)
