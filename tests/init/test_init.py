"""The initialisations: their formulas, their options, and where their numbers come from."""

from __future__ import annotations

import importlib
import math
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from lth.init.glorot_normal import GlorotNormal
from lth.init.initialize import Initialize
from lth.init.kaiming_normal import KaimingNormal
from lth.init.kaiming_uniform import KaimingUniform
from lth.init.orthogonal import Orthogonal
from lth.init.pytorch import PyTorch
from lth.init.signed_constant import SignedConstant
from lth.spec import spec

CONF = Path(__file__).parents[2] / "conf" / "init"
INITS = [GlorotNormal, KaimingNormal, KaimingUniform, Orthogonal, PyTorch, SignedConstant]


class Mixed(nn.Module):
    """Every kind of parameter that an initialisation meets."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([3.0]))
        self.embedding = nn.Embedding(7, 4)
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.plain = nn.BatchNorm2d(6, affine=False)
        self.layer_norm = nn.LayerNorm(6)
        self.fc = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3, bias=False)


def state(init: Initialize, seed: int = 0, global_seed: int = 0) -> dict[str, Tensor]:
    """Initialises a model whose tensors were something else before."""
    torch.manual_seed(global_seed)
    model = Mixed()
    for name, tensor in model.state_dict().items():
        if name != "scale":
            tensor.fill_(9)
    init(model, generator=torch.Generator().manual_seed(seed))
    return model.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {name for name in a if torch.equal(a[name], b[name])}


def large(init: Initialize) -> tuple[Tensor, Tensor]:
    """The weights of a Linear (fan 400 -> 600) and a Conv (fan 450 -> 720)."""
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(50, 80, 3), fc=nn.Linear(400, 600)))
    init(model, generator=torch.Generator().manual_seed(1))
    return model.get_parameter("fc.weight").detach(), model.get_parameter("conv.weight").detach()


def test_every_yaml_names_an_initialisation() -> None:
    found = set()
    for path in CONF.glob("*.yaml"):
        assert path.read_text().startswith("# ")
        module, _, name = OmegaConf.select(OmegaConf.load(path), "_target_").rpartition(".")
        assert module == f"lth.init.{path.stem}"
        found.add(getattr(importlib.import_module(module), name))
    assert found == set(INITS)
    assert len(found) == 6


@pytest.mark.parametrize(
    ("init", "fc_std", "conv_std"),
    [
        (GlorotNormal(), math.sqrt(2 / 1000), math.sqrt(2 / 1170)),
        (KaimingNormal(), math.sqrt(2 / 400), math.sqrt(2 / 450)),
        (KaimingUniform(), math.sqrt(2 / 400), math.sqrt(2 / 450)),
        (PyTorch(), math.sqrt(1 / 1200), math.sqrt(1 / 1350)),
        (SignedConstant(), math.sqrt(2 / 400), math.sqrt(2 / 450)),
        (Orthogonal(), math.sqrt(1 / 600), math.sqrt(1 / 450)),
    ],
)
def test_std_and_mean(init: Initialize, fc_std: float, conv_std: float) -> None:
    for weight, std in zip(large(init), (fc_std, conv_std), strict=True):
        # The standard error of a normal's std is std / sqrt(2n): 0.4 % for the 36,000 of the conv.
        assert weight.std().item() == pytest.approx(std, rel=0.02)
        assert abs(weight.mean().item()) < 4 * std / math.sqrt(weight.numel())


def test_shape_of_the_distributions() -> None:
    normal, _ = large(KaimingNormal())
    uniform, _ = large(KaimingUniform())
    default, _ = large(PyTorch())
    assert normal.abs().max() > 4 * math.sqrt(2 / 400)  # not truncated
    assert math.sqrt(6 / 400) * 0.999 < uniform.abs().max() <= math.sqrt(6 / 400)
    assert math.sqrt(1 / 400) * 0.999 < default.abs().max() <= math.sqrt(1 / 400)


def test_signed_constant_has_two_values() -> None:
    for weight, fan_in in zip(large(SignedConstant()), (400, 450), strict=True):
        s = torch.tensor(math.sqrt(2 / fan_in)).item()
        assert set(weight.flatten().tolist()) == {-s, s}


@pytest.mark.parametrize("init", [SignedConstant, KaimingNormal])
def test_a_density_scales_the_same_draw(init: type[SignedConstant | KaimingNormal]) -> None:
    """sqrt(1 / k): the sum over a share k of the inputs has the variance of the whole."""
    for plain, scaled in zip(large(init()), large(init(density=0.25)), strict=True):
        assert torch.allclose(scaled, 2 * plain, rtol=1e-6, atol=0)
        x = torch.randn(2000, plain[0].numel(), generator=torch.Generator().manual_seed(0))
        quarter = torch.arange(plain[0].numel()) % 4 == 0
        some = x[:, quarter] @ scaled.flatten(1)[:, quarter].T
        assert some.var().item() == pytest.approx(2.0, rel=0.05)
    for whole, explicit in zip(large(init()), large(init(density=1.0)), strict=True):
        assert torch.equal(whole, explicit)
    assert spec(init()) == spec(init(density=1.0)) == {"name": init.__name__}
    for density in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match="density: got .*, allowed: 0 < density <= 1"):
            init(density=density)


def test_orthogonal_is_orthonormal() -> None:
    fc, conv = large(Orthogonal())
    assert torch.allclose(fc.T @ fc, torch.eye(400), atol=1e-5)
    rows = conv.flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(80), atol=1e-5)


@pytest.mark.parametrize("init", INITS)
def test_depends_on_its_generator_alone(init: type[Initialize]) -> None:
    assert state(init()).keys() == same(state(init()), state(init(), global_seed=5))
    fixed = {
        "scale",
        "norm.weight",
        "norm.bias",
        "layer_norm.weight",
        "layer_norm.bias",
        *(f"{n}.{b}" for n in ("norm", "plain") for b in ("running_mean", "running_var")),
        *(f"{n}.num_batches_tracked" for n in ("norm", "plain")),
    }
    zero = {"conv.bias", "fc.bias"} if init is not PyTorch else set()
    assert same(state(init(), seed=0), state(init(), seed=1)) == fixed | zero


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("gamma", ["ones", "uniform"])
@pytest.mark.parametrize("bias", ["zeros", "pytorch"])
def test_leaves_the_global_generator(init: type[Initialize], gamma: str, bias: str) -> None:
    model = Mixed()
    before = torch.get_rng_state()
    init(gamma=gamma, bias=bias)(model, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("init", INITS)
def test_norms_and_other_modules_are_reset(init: type[Initialize]) -> None:
    got = state(init())
    assert got["norm.weight"].eq(1).all()
    assert got["norm.bias"].eq(0).all()
    for norm in ("norm", "plain"):
        assert got[f"{norm}.running_mean"].eq(0).all()
        assert got[f"{norm}.running_var"].eq(1).all()
        assert got[f"{norm}.num_batches_tracked"] == 0
    assert got["layer_norm.weight"].eq(1).all()
    assert len(set(got["embedding.weight"].flatten().tolist())) == 28
    assert got["scale"] == 3


@pytest.mark.parametrize("init", INITS)
def test_bias(init: type[Initialize]) -> None:
    zeros, default = state(init(bias="zeros")), state(init(bias="pytorch"))
    assert zeros.keys() - same(zeros, default) == {"conv.bias", "fc.bias"}
    for name, fan_in in (("conv.bias", 2 * 9), ("fc.bias", 6)):
        assert zeros[name].eq(0).all()
        assert default[name].ne(0).all()
        assert default[name].abs().max() <= math.sqrt(1 / fan_in)
    assert init().bias == ("pytorch" if init is PyTorch else "zeros")


@pytest.mark.parametrize("init", INITS)
def test_gamma(init: type[Initialize]) -> None:
    ones, uniform = state(init(gamma="ones")), state(init(gamma="uniform"))
    assert ones.keys() - same(ones, uniform) == {"norm.weight"}
    model = nn.Sequential(nn.Conv2d(1, 20_000, 1), nn.BatchNorm2d(20_000))
    init(gamma="uniform")(model, generator=torch.Generator().manual_seed(0))
    gamma = model.get_parameter("1.weight").detach()
    assert 0 <= gamma.min() < 0.01
    assert 0.99 < gamma.max() <= 1
    assert gamma.mean().item() == pytest.approx(0.5, abs=0.01)


def test_tied_weights_are_drawn_by_the_initialisation() -> None:
    embedding, head = nn.Embedding(400, 30), nn.Linear(30, 400)
    head.weight = embedding.weight  # the Embedding comes first and would draw N(0, 1)
    model = nn.Sequential(embedding, head)
    KaimingNormal()(model, generator=torch.Generator().manual_seed(0))
    assert embedding.weight.std().item() == pytest.approx(math.sqrt(2 / 30), rel=0.03)


def test_refuses_by_name() -> None:
    with pytest.raises(ValueError, match="bias: got 'x', allowed: zeros, pytorch"):
        GlorotNormal(bias="x")
    with pytest.raises(ValueError, match="gamma: got 'x', allowed: ones, uniform"):
        PyTorch(gamma="x")
    with pytest.raises(ValueError, match="model: got parameters on meta, allowed: cpu"):
        PyTorch()(nn.Linear(2, 2, device="meta"), generator=torch.Generator())
