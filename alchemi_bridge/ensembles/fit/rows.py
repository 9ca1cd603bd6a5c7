"""Steps of a fit as rows of a table."""

from __future__ import annotations

import torch

from alchemi_bridge.ensembles.optimizer import StepOutput

#: A tensor of up to as many numbers has a column for each in the table, others the root of their
#: mean square.
COLUMNS_OF_TENSOR = 8


def row_of(output: StepOutput) -> dict[str, float]:
    """A row of the table: what the parameters before the step gave."""
    row = {
        "step": float(output.step),
        "seconds": output.seconds,
        "simulations": float(output.simulations),
        "loss": sum(output.losses.values()) / len(output.losses),
        **{f"loss:{name}": loss for name, loss in output.losses.items()},
        **columns_of(output.before),
    }
    for name, values in output.values.items():
        for key, value in values.items():
            if key == "n_eff":
                row[f"n_eff:{name}"] = min(value)
            elif isinstance(value, int | float):
                row[f"{key}:{name}"] = float(value)
    return row


def columns_of(parameters: dict[str, torch.Tensor]) -> dict[str, float]:
    """Numbers of parameters by what they are called in tables and pictures."""
    found = {}
    for name, value in parameters.items():
        numbers = value.detach().double().flatten()
        if len(numbers) == 1:
            found[name] = float(numbers[0])
        elif len(numbers) <= COLUMNS_OF_TENSOR:
            found.update({f"{name}[{k}]": v for k, v in enumerate(numbers.tolist())})
        else:
            found[f"rms:{name}"] = float(numbers.square().mean().sqrt())
    return found
