"""All that training changes as plain containers, and back: what an exact resume needs."""

from typing import Any

import torch

from ganlib.trainer import State


def parts_of(state: State) -> list[str]:
    """The names of what holds tensors: networks, optimizers and, if there is one, the average."""
    parts = ["generator", "discriminator", "opt_g", "opt_d"]
    return parts if state.average is None else [*parts, "average"]


def state_dict(state: State) -> dict[str, Any]:
    """Everything that an exact resume needs, as plain containers of tensors and numbers."""
    parts = {name: getattr(state, name).state_dict() for name in parts_of(state)}
    scalars = state.history.scalars.items()
    return parts | {
        "step": state.step,
        "scalars": {name: torch.tensor(rows, dtype=torch.float64) for name, rows in scalars},
        "snapshots": state.history.snapshots,
        "random": random_states(state),
    }


def load_state_dict(state: State, contents: dict[str, Any]) -> None:
    """Go back to what `state_dict(state)` returned, into networks and optimizers of one make.

    ValueError for contents that do not fit; the state is then to be thrown away.
    """
    expected = {*parts_of(state), "step", "scalars", "snapshots", "random"}
    if contents.keys() != expected:
        raise ValueError(
            f"a training state with {sorted(expected)} expected, got {sorted(contents)}"
        )
    set_random_states(state, contents["random"])
    try:
        for name in parts_of(state):
            getattr(state, name).load_state_dict(contents[name])
    except Exception as error:  # torch has many
        raise ValueError(f"the saved {name} does not fit this state") from error
    state.step = contents["step"]
    scalars = {name: rows.tolist() for name, rows in contents["scalars"].items()}
    state.history.scalars = {n: [(int(s), v) for s, v in rows] for n, rows in scalars.items()}
    state.history.snapshots = dict(contents["snapshots"])


def random_states(state: State) -> dict[str, Any]:
    """The states of `state.rng` and of torch's own random numbers (dropout) in this process.

    Not those of Python's `random` and of NumPy, from which nothing in ganlib draws.
    """
    device = next(state.generator.parameters()).device
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    own += [torch.mps.get_rng_state()] if device.type == "mps" else []
    rng, cpu = state.rng.get_state(), torch.get_rng_state()
    return {"devices": [state.rng.device.type, device.type], "rng": rng, "cpu": cpu, "own": own}


def set_random_states(state: State, states: dict[str, Any]) -> None:
    """Go back to what `random_states(state)` returned; they differ between devices."""
    device = next(state.generator.parameters()).device
    devices = [state.rng.device.type, device.type]
    if states["devices"] != devices:
        raise ValueError(
            f"random states of rng and networks on {devices} expected, got {states['devices']}"
        )
    state.rng.set_state(states["rng"].cpu())
    torch.set_rng_state(states["cpu"].cpu())
    for own in states["own"]:
        if device.type == "cuda":
            torch.cuda.set_rng_state(own.cpu(), device)
        else:
            torch.mps.set_rng_state(own.cpu())
