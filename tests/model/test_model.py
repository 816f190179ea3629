"""The networks: exact numbers of weights, execution order, what may be pruned, refusals."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lth.layer import kinds
from lth.model.conv import Conv2, Conv4, Conv6
from lth.model.lenet_5 import LeNet5
from lth.model.lenet_300_100 import LeNet300100
from lth.model.resnet import ResNet20
from lth.model.torchvision import ResNet18, ResNet50
from lth.model.vgg import VGG11, VGG19
from lth.torchvision_import import torchvision

CONF = Path(__file__).parents[2] / "conf" / "model"
MNIST = (1, 28, 28)
CIFAR = (3, 32, 32)

# Weights of Linear and Conv layers, 10 classes. Worked out by hand where a comment shows how,
# and in test_formula; the deep torchvision nets are 21,779,648 and 25,502,912 at 1,000 classes.
WEIGHTS = {
    "lenet_300_100": (MNIST, 266_200),  # 784*300 + 300*100 + 100*10
    "lenet_5": (MNIST, 430_500),  # 25*20 + 25*20*50 + 800*500 + 500*10
    "conv_2": (CIFAR, 4_300_992),  # 9*(3*64 + 64*64) + 16,384*256 + 256*256 + 256*10
    "conv_4": (CIFAR, 2_425_024),
    "conv_6": (CIFAR, 2_261_184),
    "resnet_20": (CIFAR, 270_896),
    "resnet_32": (CIFAR, 464_432),
    "resnet_44": (CIFAR, 657_968),
    "resnet_56": (CIFAR, 851_504),
    "resnet_110": (CIFAR, 1_722_416),
    "vgg_11": (CIFAR, 9_222_848),
    "vgg_13": (CIFAR, 9_407_168),
    "vgg_16": (CIFAR, 14_715_584),
    "vgg_19": (CIFAR, 20_024_000),
    "resnet18": (CIFAR, 11_678_912 - 990 * 512),
    "resnet34": (CIFAR, 21_779_648 - 990 * 512),
    "resnet50": (CIFAR, 25_502_912 - 990 * 2048),
}

# Small enough to run, the smallest allowed image where there is one.
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "lenet_300_100": (lambda: LeNet300100(input_shape=(1, 2, 3), num_classes=7), (1, 2, 3)),
    "lenet_5": (lambda: LeNet5(input_shape=(2, 16, 19), num_classes=7), (2, 16, 19)),
    "conv_2": (lambda: Conv2(input_shape=(1, 2, 3), num_classes=7, width=2), (1, 2, 3)),
    "conv_4": (lambda: Conv4(input_shape=(1, 4, 9), num_classes=7, width=2), (1, 4, 9)),
    "conv_6": (lambda: Conv6(input_shape=(3, 8, 17), num_classes=7, width=2), (3, 8, 17)),
    "resnet_20": (lambda: ResNet20(input_shape=(1, 4, 5), num_classes=7, width=2), (1, 4, 5)),
    "vgg_11": (lambda: VGG11(input_shape=(1, 16, 17), num_classes=7, width=2), (1, 16, 17)),
    "resnet18_cifar": (
        lambda: ResNet18(input_shape=(1, 8, 9), num_classes=7, stem="cifar"),
        (1, 8, 9),
    ),
    "resnet50": (lambda: ResNet50(input_shape=(1, 32, 33), num_classes=7), (1, 32, 33)),
}


def num_weights(model: nn.Module) -> int:
    return sum(model.get_parameter(name).numel() for name in kinds(model))


def test_every_yaml_has_its_number_of_weights() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == set(WEIGHTS)
    assert len(WEIGHTS) == 17
    for name, (input_shape, expected) in WEIGHTS.items():
        config = OmegaConf.load(CONF / f"{name}.yaml")
        module, _, attribute = OmegaConf.select(config, "_target_").rpartition(".")
        with torch.device("meta"):
            target = getattr(importlib.import_module(module), attribute)
            model = target(input_shape=input_shape, num_classes=10)
        assert num_weights(model) == expected, name
        assert (CONF / f"{name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("width", [1, 16, 32])
def test_formula_of_resnet_20(width: int) -> None:
    def conv3(channels: int, features: int) -> int:
        return 9 * channels * features

    w = width
    expected = conv3(3, w) + 6 * conv3(w, w)
    expected += conv3(w, 2 * w) + 5 * conv3(2 * w, 2 * w) + w * 2 * w
    expected += conv3(2 * w, 4 * w) + 5 * conv3(4 * w, 4 * w) + 2 * w * 4 * w
    expected += 4 * w * 10
    assert num_weights(ResNet20(input_shape=CIFAR, num_classes=10, width=w)) == expected


def test_widths_of_vgg_19() -> None:
    model = VGG19(input_shape=CIFAR, num_classes=10, width=2)
    features = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert features == [2] * 2 + [4] * 2 + [8] * 4 + [16] * 8
    assert all(m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", SMALL)
def test_runs_each_layer_once_and_in_module_order(name: str) -> None:
    build, input_shape = SMALL[name]
    model = build()
    called: list[str] = []
    leaves = [n for n, m in model.named_modules() if not list(m.children())]
    for leaf in leaves:
        model.get_submodule(leaf).register_forward_hook(lambda *_, leaf=leaf: called.append(leaf))
    out = model(torch.zeros(2, *input_shape))
    assert out.shape == (2, 7)
    # torchvision flattens by a function; every other layer is a module of its own.
    assert called == leaves
    relus = [m for m in model.modules() if isinstance(m, nn.ReLU)]
    assert relus
    assert not any(m.inplace for m in relus)


@pytest.mark.parametrize("name", SMALL)
def test_output_is_the_classifier(name: str) -> None:
    build, _ = SMALL[name]
    model = build()
    layers = kinds(model)
    assert [n for n, kind in layers.items() if kind == "output"] == [list(layers)[-1]]
    assert model.get_parameter(list(layers)[-1]).shape[0] == 7
    is_conv = {n: model.get_parameter(n).ndim == 4 for n in layers}
    assert is_conv == {n: kind == "conv" for n, kind in layers.items()}


def test_batch_norm_and_biases_where_the_source_has_them() -> None:
    conv = Conv2(input_shape=CIFAR, num_classes=10, width=2)
    assert not [m for m in conv.modules() if isinstance(m, nn.BatchNorm2d)]
    resnet = ResNet20(input_shape=CIFAR, num_classes=10, width=2)
    assert [n for n, _ in resnet.named_parameters() if "shortcut" in n] == [
        f"stage{stage}.0.shortcut.{part}"
        for stage in (2, 3)
        for part in ("conv.weight", "bn.weight", "bn.bias")
    ]
    assert all(m.bias is None for m in resnet.modules() if isinstance(m, nn.Conv2d))


def test_lenet_5_has_one_relu_as_caffe_has() -> None:
    model = LeNet5(input_shape=MNIST, num_classes=10)
    assert [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)] == ["relu1"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LeNet5(input_shape=(1, 15, 28), num_classes=2), r"input_shape: got \(1, 15, 28\)"),
        (lambda: Conv2(input_shape=(1, 1, 8), num_classes=2), "width of 2 or more"),
        (lambda: Conv6(input_shape=(1, 8, 7), num_classes=2), "width of 8 or more"),
        (lambda: Conv2(input_shape=CIFAR, num_classes=2, width=0), "width: got 0, allowed: 1 or"),
        (lambda: ResNet20(input_shape=(1, 3, 8), num_classes=2), "width of 4 or more"),
        (lambda: ResNet20(input_shape=CIFAR, num_classes=2, width=-1), "width: got -1"),
        (lambda: VGG11(input_shape=(1, 8, 8), num_classes=2), "width of 16 or more"),
        (lambda: VGG11(input_shape=CIFAR, num_classes=2, width=0), "width: got 0"),
        (lambda: ResNet18(input_shape=MNIST, num_classes=2), "width of 32 or more"),
        (
            lambda: ResNet18(input_shape=(1, 7, 8), num_classes=2, stem="cifar"),
            "width of 8 or more",
        ),
        (
            lambda: ResNet18(input_shape=CIFAR, num_classes=2, stem="tiny"),
            "stem: got 'tiny', allowed: imagenet, cifar",
        ),
    ],
)
def test_refuses_by_name(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("ours", "name"), [(ResNet18, "resnet18"), (ResNet50, "resnet50")])
def test_equals_torchvision(ours: Callable[..., nn.Module], name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision().models, name)(num_classes=7)
    model = ours(input_shape=CIFAR, num_classes=7)
    assert list(model.state_dict()) == list(theirs.state_dict())
    model.load_state_dict(theirs.state_dict())
    model = copy.deepcopy(model)
    x = torch.randn(2, *CIFAR)
    assert torch.equal(model(x), theirs(x))  # training mode: BatchNorm of the batch


def test_cifar_stem_does_not_shrink_the_image() -> None:
    with torch.device("meta"):
        model = ResNet18(input_shape=(1, 32, 32), num_classes=10, stem="cifar")
        stem = nn.Sequential(*list(model.children())[:4])
        assert stem(torch.zeros(2, 1, 32, 32)).shape == (2, 64, 32, 32)


def test_import_of_torchvision_hides_no_other_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError(f"{name}: out of order")

    assert torchvision() is torchvision()
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="torchvision: out of order"):
        torchvision()
