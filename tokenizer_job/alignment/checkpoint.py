"""Where an interrupted alignment goes on: one safetensors file with weights, optimizer and step, replaced atomically."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

NAME = "alignment.safetensors"
MODEL, OPTIMIZER = "model.", "optimizer."


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, identity: str) -> None:
    """Write the trained weights and the optimizer after ``step`` steps of the fit that ``identity`` names."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in _trained(model).items():
        tensors[MODEL + name] = parameter.detach()
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{OPTIMIZER}{slot}.{name}"] = torch.as_tensor(value).detach()
    folder.mkdir(parents=True, exist_ok=True)
    building = folder / f".{NAME}.building"
    with building.open("wb") as file:
        file.write(safetensors.torch.save(tensors, {"step": str(step), "identity": identity}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(building, folder / NAME)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str) -> int:
    """Load what `save` wrote; returns how many steps are done, 0 where nothing was saved.

    Raises:
        ValueError: the file is damaged, or of another fit (other settings, seed or data).
    """
    path = folder / NAME
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}; remove it to start again") from None
    if about.get("identity") != identity:
        raise ValueError(f"{path} is of a fit with other settings, seed or data; remove it to start again")
    for name, parameter in _trained(model).items():
        with torch.no_grad():
            parameter.copy_(tensors[MODEL + name])
        slots = {slot: tensors.get(f"{OPTIMIZER}{slot}.{name}") for slot in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {slot: value for slot, value in slots.items() if value is not None}
    return int(about["step"])


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
