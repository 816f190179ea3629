"""Twenty steps of the default network, compared with a stored curve."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lth.dataset.digits import Digits
from lth.init.glorot_normal import GlorotNormal
from lth.lr.constant import Constant
from lth.model.lenet_300_100 import LeNet300100
from lth.training import LearningRate, dense

FILE = Path(__file__).with_name("lenet_digits.json")


def curve(make_workshop: Any) -> list[float]:
    digits = Digits()
    training = dense(
        task=digits.task(digits.read(Path()), seed=0, batch_size=60),
        model=LeNet300100,
        init=GlorotNormal(),
        optimizer=functools.partial(torch.optim.Adam, lr=1.2e-3),
        learning_rate=LearningRate(shape=Constant(), total=20),
        seed=0,
        eval_every=1,
    )
    (stored,) = make_workshop().complete([training])
    return [row["val_loss"] for row in stored.metrics()]


def test_the_curve_is_the_stored_one(make_workshop: Any) -> None:
    # A change of numerics bumps STORE_VERSION, says why, and stores a new curve.
    wanted = json.loads(FILE.read_text())
    assert len(wanted) == 21
    assert curve(make_workshop) == pytest.approx(wanted, abs=1e-5)
