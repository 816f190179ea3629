"""A ticket is taken out of the store: what is written is the ticket, or it is not written."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from torch import nn

import lth
from lth import export
from lth.build import build
from lth.conduct import conduct
from lth.deploy import FORMATS, Network
from lth.footprint import latencies, memory
from lth.paths import conf_dir
from lth.run import register
from lth.store.run_folder import RunFolder, locate

TINY = [
    "dataset=synthetic",
    "dataset.validation=64",
    "model=conv_2",
    "dataset.shape=[1,8,8]",
    "seeds=[3]",
    "levels=1",
    "train_steps=6it",
    "rewind_step=2it",
    "eval_every=3it",
    "batch_size=32",
    "baseline=[]",
    "sink=[]",
    "report=false",
]


def conducted(root: Path, *options: str) -> RunFolder:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        run = build(compose("run", overrides=[*TINY, *options, f"store.root={root}"]))
    return RunFolder(root, conduct(run, None, report=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of one seed and one level on a convolutional network."""
    return conducted(tmp_path_factory.mktemp("export") / "results")


@pytest.fixture(scope="module")
def of_units(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Half of the neurons of LeNet-300-100 are pruned."""
    pytest.importorskip("torch_pruning")
    root = tmp_path_factory.mktemp("units") / "results"
    return conducted(root, "model=lenet_300_100", "granularity=units", "schedule.rate=0.5")


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    # Starting two processes takes seconds; the measurement has a test of its own.
    monkeypatch.setattr(export, "memory", lambda load, x, imports: 2_000_000)


def ticket(folder: RunFolder) -> Path:
    return folder.path / "seed_003" / "ticket" / "level_01"


@pytest.mark.parametrize("state", ["end", "start"])
def test_a_state_dict_is_the_stored_network(
    folder: RunFolder, tmp_path: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ticket.pt"
    arguments = [str(ticket(folder)), "--to", "state_dict", "--out", str(out), "--state", state]
    assert export.main(arguments) == 0
    text = capsys.readouterr().out
    assert "same class for 128 of 128 test examples, largest error of a logit 0 " in text
    assert ("same class as was stored then for 128 of 128" in text) == (state == "end")
    assert "memory     2.00 MB; dense 2.00 MB" in text
    assert "shrinks neither the file nor the latency" in text
    facts = json.loads((tmp_path / "ticket.pt.json").read_text())
    place = locate(ticket(folder))
    stored = place.stored()
    assert (facts["training"], facts["run_id"]) == (stored.id, folder.run_id)
    assert (facts["seed"], facts["level"], facts["state"]) == (3, 1, state)
    assert facts["step"] == {"start": 2, "end": 6}[state]
    assert facts["density"] == stored.done["density"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ticket.pt", "ticket.pt.json"]
    # With torch and the JSON alone: build the model, load, and see the stored values.
    node = dict(facts["model"])
    net = get_object(node.pop("_target_"))(
        input_shape=tuple(facts["input_shape"]), num_classes=facts["num_classes"], **node
    )
    net.load_state_dict(torch.load(out, weights_only=True))
    values = stored.state(state).weights
    assert all(torch.equal(p, values[n]) for n, p in net.named_parameters())
    for name, kept in stored.mask().items():
        assert not bool(net.get_parameter(name)[~kept].any())


def test_onnx_is_checked_and_takes_any_batch(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FORMATS["onnx"].needs:
        pytest.importorskip(name)
    import onnxruntime

    out = tmp_path / "ticket.onnx"
    assert export.main([str(ticket(folder)), "--to", "onnx", "--out", str(out)]) == 0
    assert "same class for 128 of 128" in capsys.readouterr().out
    opened = export.open_ticket(str(ticket(folder)))
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = opened.task.test.gather(torch.arange(batch))[0]
        (got,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.as_tensor(got), opened.module()(x).detach())


def test_a_smaller_network_is_loaded_without_this_package(
    of_units: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ticket.pt2"
    assert export.main([str(ticket(of_units)), "--to", "smaller", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "same class for 128 of 128" in text
    # 64 -> 150 -> 50 -> 4 of 64 -> 300 -> 100 -> 4, with biases.
    assert "pruned units are left out: 17,504 of 50,004 parameters are in the file" in text
    assert 4 * 17_504 < out.stat().st_size < 4 * 25_000
    facts = json.loads((tmp_path / "ticket.pt2.json").read_text())
    assert facts["format"] == "smaller" and facts["shapes"]["fc2.weight"] == [50, 150]
    opened = export.open_ticket(str(ticket(of_units)))
    x = opened.task.test.gather(torch.arange(128))[0]
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys; sys.modules['lth'] = None; import torch; "
        "net = torch.export.load('ticket.pt2').module(); x = torch.load('x.pt'); "
        "torch.save([net(x), net(x[:1])], 'y.pt')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    own, (many, one) = opened.module()(x), torch.load(tmp_path / "y.pt")
    torch.testing.assert_close(many, own)
    torch.testing.assert_close(one, own[:1])
    # No path of this machine and no example is in the file.
    content = out.read_bytes()
    assert str(Path(export.__file__).parents[1]).encode() not in content
    assert x[:2].numpy().tobytes() not in content


def test_residual_blocks_that_are_gone_are_zeros_in_any_whole_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the smaller network leaves them out."""
    pytest.importorskip("onnxruntime")
    options = ["model=resnet_20", "model.width=4", "granularity=residual_blocks"]
    folder = conducted(tmp_path / "results", *options, "schedule.rate=0.5")
    out = tmp_path / "ticket.onnx"
    assert export.main([str(ticket(folder)), "--to", "onnx", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "same class for 128 of 128 test examples" in text
    assert "pruned blocks are written as zeros, which shrinks neither the file" in text
    small = [str(ticket(folder)), "--to", "smaller", "--out", str(tmp_path / "ticket.pt2")]
    assert export.main(small) == 0
    text = capsys.readouterr().out
    assert "same class for 128 of 128 test examples" in text
    assert "written as zeros" not in text


def test_a_residual_network_with_batch_norms_becomes_smaller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_pruning")
    options = ["model=resnet_20", "model.width=4", "granularity=units", "schedule.rate=0.5"]
    run = conducted(tmp_path / "results", *options)
    opened = export.open_ticket(str(ticket(run)))
    assert opened.of_units
    small, whole = opened.smaller(), opened.module()
    x = opened.task.test.gather(torch.arange(128))[0]
    y, own = small(x), whole(x)
    torch.testing.assert_close(y, own)
    assert torch.equal(y.argmax(1), own.argmax(1))
    before, after = (sum(p.numel() for p in m.parameters()) for m in (whole, small))
    assert after < 0.5 * before
    assert list(small.get_buffer("bn1.running_mean").shape) == [
        small.get_parameter("conv1.weight").shape[0]
    ]


def test_onnx_leaves_pruned_units_out(
    of_units: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FORMATS["onnx"].needs:
        pytest.importorskip(name)
    out = tmp_path / "ticket.onnx"
    assert export.main([str(ticket(of_units)), "--to", "onnx", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "same class for 128 of 128" in text and "17,504 of 50,004 parameters" in text
    assert 4 * 17_504 < out.stat().st_size < 4 * 25_000
    shapes = json.loads((tmp_path / "ticket.onnx.json").read_text())["shapes"]
    assert shapes["fc3.weight"] == [4, 50]


def test_a_state_dict_of_units_is_the_whole_network(
    of_units: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ticket.pt"
    assert export.main([str(ticket(of_units)), "--to", "state_dict", "--out", str(out)]) == 0
    assert "pruned units are written as zeros; --to smaller or onnx" in capsys.readouterr().out
    assert torch.load(out, weights_only=True)["fc1.weight"].shape == (300, 64)
    assert "shapes" not in json.loads((tmp_path / "ticket.pt.json").read_text())


def test_pruned_weights_that_are_filled_are_not_called_zeros(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = conducted(tmp_path / "results", "model=lenet_300_100", "fill=initial")
    out = tmp_path / "x.pt"
    assert export.main([str(ticket(run)), "--out", str(out), "--to", "state_dict"]) == 0
    text = capsys.readouterr().out
    assert "note       pruned weights hold what the run's fill gave them" in text
    assert bool((torch.load(out, weights_only=True)["fc1.weight"] != 0).all())


def test_every_format_needs_what_the_extra_installs() -> None:
    text = Path(export.__file__).parents[1].joinpath("pyproject.toml").read_text()
    (extra,) = [line for line in text.splitlines() if line.startswith("deploy = ")]
    for form in FORMATS.values():
        assert all(f'"{name}>=' in extra for name in form.needs)


def test_a_file_that_is_not_the_ticket_is_not_written(
    folder: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def wrong(network: Network, path: Path) -> None:
        state = network.module.state_dict()
        name = next(n for n in state if n.endswith("bias"))
        torch.save({**state, name: state[name] + 1e-3}, path)

    form = dataclasses.replace(FORMATS["state_dict"], write=wrong)
    monkeypatch.setattr(export, "FORMATS", {"state_dict": form})
    out = tmp_path / "ticket.pt"
    assert export.main([str(ticket(folder)), "--to", "state_dict", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert f"{out} would not be the ticket, and is not written: " in said.err
    assert said.out == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"ticket": "nothing/at/all"}, "TICKET: got 'nothing/at/all', allowed: a ticket of a run"),
        ({"--state": "early_stop"}, "--state: got 'early_stop', allowed: a state that is stored"),
        ({"--to": "tflite"}, "argument --to: invalid choice: 'tflite'"),
        ({"--to": "smaller"}, "--out: got "),
        ({"--out": "no/folder/x.pt"}, "--out: got 'no/folder/x.pt', allowed: a file in a folder"),
        ({"--to": "onnx"}, "--to: got onnx, which needs onnx, onnxscript, onnxruntime (pip"),
    ],
)
def test_faults_are_one_line(
    folder: RunFolder,
    tmp_path: Path,
    changes: dict[str, str],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    options = {"--to": "state_dict", "--out": str(tmp_path / "x.pt"), **changes}
    path = options.pop("ticket", str(ticket(folder)))
    arguments = [path, *(word for pair in options.items() for word in pair)]
    try:
        code = export.main(arguments)
    except SystemExit as ended:
        code = int(str(ended.code))
    said = capsys.readouterr()
    assert code == 2
    assert said.err.startswith(fault) and said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_pruned_residual_blocks_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["model=resnet_20", "model.width=2", "granularity=residual_blocks"]
    folder = conducted(tmp_path / "results", *options, "schedule.rate=0.5")
    out = tmp_path / "ticket.pt2"
    assert export.main([str(ticket(folder)), "--to", "smaller", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "same class for 128 of 128 test examples" in text and "pruned units are left out" in text
    mask = locate(ticket(folder)).stored().mask()
    gone = {n for n, m in mask.items() if not bool(m.any())}
    shapes = json.loads((tmp_path / "ticket.pt2.json").read_text())["shapes"]
    assert gone and not gone & shapes.keys()
    program = torch.export.load(out)
    assert program.state_dict.keys() >= shapes.keys() and not gone & program.state_dict.keys()


def test_single_weights_do_not_make_a_smaller_network(
    folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch_pruning")
    out = str(tmp_path / "x.pt2")
    assert export.main([str(ticket(folder)), "--to", "smaller", "--out", out]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "--to: got smaller, allowed: state_dict, onnx "
        "(mask: got single weights of conv1.weight, allowed: whole units)\n"
    )
    assert said.out == "" and list(tmp_path.iterdir()) == []


def test_other_data_are_noticed(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read = export.read_data

    def other(run: Any) -> Any:
        return dataclasses.replace(read(run), y_test=read(run).y_test.flip(0))

    monkeypatch.setattr(export, "read_data", other)
    with pytest.raises(
        export.ConfigError, match="whose task is .*, allowed: one of its run's task"
    ):
        export.open_ticket(str(ticket(folder)))


def test_a_ticket_is_found_by_every_name_it_has(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = ticket(folder)
    own = locate(link)
    assert own.reference is not None and own.reference.level == 1
    prefix = f"{folder.run_id[:6]}/seed_003/ticket/level_01"
    names: list[str | Path] = [link, link.with_suffix(".json"), prefix, f"{prefix}.json"]
    for name in names:
        found = locate(name, folder.store_root)
        assert (found.training, found.reference) == (own.training, own.reference)
        assert found.store.root.resolve() == folder.store_root.resolve()
    bare = locate(link.resolve())
    assert (bare.training, bare.reference) == (own.training, None)
    # Through the folder alone the run is looked for.
    assert export.open_ticket(str(link.resolve())).reference == own.reference
    monkeypatch.chdir(folder.store_root.parent)
    assert lth.load_ticket(prefix).start.step == 2
    with pytest.raises(FileNotFoundError):
        locate(f"0{prefix}", folder.store_root)


class Held(nn.Module):
    """Ten million weights: 40 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(10_000_000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.values[0]


def held() -> Any:
    module = Held()
    module.values.data.fill_(1.0)
    return lambda x: module(x).detach()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux says")
def test_memory_is_that_of_the_network() -> None:
    grown = memory(held, torch.zeros(1))
    assert grown is not None and 40e6 <= grown < 60e6


def test_latencies_take_turns() -> None:
    calls: list[str] = []

    def named(name: str) -> Any:
        return lambda x: calls.append(name)

    found = latencies([named("a"), named("b")], torch.zeros(1), runs=4)
    assert len(found) == 2 and min(found) >= 0
    assert "".join(calls) == "aaabbb" + "ab" * 4
