"""The forms in which a network leaves the laboratory: how each is written and read back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lth.footprint import Forward
from lth.types import Mask

Blank = Callable[[], nn.Module]
"""Builds the untrained module, for files that hold values only."""


class WriteError(Exception):
    """A format cannot hold a network."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """What is written: a module in eval mode, its mask, and two examples.

    Of a module without the units that were pruned, the mask is that of the whole one.
    """

    module: nn.Module
    mask: Mask
    examples: Tensor


@dataclass(frozen=True, kw_only=True)
class Format:
    """One way to write a network and to read it back.

    ``load`` gives the forward pass of what the file holds. ``tolerance`` is the
    largest error of a logit, relative to the largest logit (or to 1), that is
    still the same network. ``needs`` names what has to be installed, ``imports``
    what is not the network's own memory.

    With ``cuts`` whole units that were pruned are left out of what is written;
    with ``only_units`` no other mask is written. ``suffix`` is how a file's name
    has to end.
    """

    write: Callable[[Network, Path], None]
    load: Callable[[Path, Blank], Forward]
    tolerance: float
    needs: Sequence[str] = ()
    imports: Sequence[str] = ()
    cuts: bool = False
    only_units: bool = False
    suffix: str = ""


def write_state_dict(network: Network, path: Path) -> None:
    """``torch.save`` of the module's state dict; ``torch.load(weights_only=True)`` reads it."""
    torch.save(network.module.state_dict(), path)


def load_state_dict(path: Path, blank: Blank) -> Forward:
    """The module with the file's values."""
    module = blank().eval()
    module.load_state_dict(torch.load(path, weights_only=True))

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = module(x)
        return output

    return forward


def write_onnx(network: Network, path: Path) -> None:
    """One self-contained file with input ``x``, output ``logits`` and a free batch size."""
    with warnings.catch_warnings():
        # torch's exporter warns of what torch itself calls.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            torch.onnx.export(
                network.module,
                (network.examples,),
                path,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["x"],
                output_names=["logits"],
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            first = str(error).strip().splitlines()[0]
            raise WriteError(f"ONNX cannot hold this network: {first}") from error


def load_onnx(path: Path, blank: Blank) -> Forward:
    """The file in ONNX Runtime, on one CPU thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(["logits"], {"x": x.numpy()})[0])


def write_program(network: Network, path: Path) -> None:
    """A ``torch.export`` program with a free batch size: code and values, no class of anyone's.

    ``torch.export.load(path).module()`` computes it where only torch is installed.
    """
    example = torch.zeros_like(network.examples)  # it is stored, and data have no place there
    try:
        with torch.no_grad():
            program = torch.export.export(
                network.module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise WriteError(f"torch.export cannot follow this network: {first}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    with path.open("wb") as file:
        torch.export.save(program, file)


def load_program(path: Path, blank: Blank) -> Forward:
    """The program alone: no class of this package has a part in it."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            output: Tensor = module(x)
        return output

    return forward


FORMATS: Mapping[str, Format] = {
    "state_dict": Format(write=write_state_dict, load=load_state_dict, tolerance=0.0),
    "onnx": Format(
        write=write_onnx,
        load=load_onnx,
        tolerance=1e-4,
        needs=("onnx", "onnxscript", "onnxruntime"),
        imports=("onnxruntime",),
        cuts=True,
    ),
    "smaller": Format(
        write=write_program,
        load=load_program,
        tolerance=1e-4,
        imports=("torch._dynamo", "torch._inductor.compile_fx"),  # torch's own, all of it
        cuts=True,
        only_units=True,
        suffix=".pt2",
    ),
}
"""What ``lth.export --to`` offers."""
