"""The documents' code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lth.stream import generator

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_library_blocks_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "library.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    runnable = [b for b in blocks if "# not run" not in b]
    assert len(runnable) >= 4
    names: dict[str, object] = {"__name__": "docs"}
    for block in runnable:
        exec(compile(block, "docs/library.md", "exec", dont_inherit=True), names)
    distance = float(capsys.readouterr().out.split(" apart")[0].split()[-1])
    assert distance > 0
    ticket: Any = names["ticket"]
    flipped: Any = names["Flipped"]
    given = SimpleNamespace(stream=lambda *purpose: generator("docs", *purpose))
    control = flipped()(ticket, given)
    assert control.mask is ticket.mask and control.id != ticket.id
    # The same experiment again trains nothing.
    trained: list[object] = []
    names["workshop"].committed = lambda training, stored: trained.append(training)  # type: ignore[attr-defined]
    exec(compile(runnable[0], "docs/library.md", "exec"), names)
    assert trained == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_and_named_files_exist(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target
    for target in re.findall(
        r"`((?:lth|docs|conf|experiments|analysis|benchmarks)/[\w/.]+)`", text
    ):
        # x.py and x.yaml stand for whatever is going to be added.
        assert "/x." in target or (ROOT / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_modules_named_in_commands_exist(path: Path) -> None:
    for module in re.findall(r"python -m ((?:lth|analysis|benchmarks)\.\w+)", path.read_text()):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
