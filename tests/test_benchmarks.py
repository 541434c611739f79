"""The GPU's benchmark runs, in sizes for a CPU: its stages write what the page of benchmarks draws, and stop and go on."""
import json
import shutil
import subprocess
import sys

import nbformat
import pytest
import torch
from conftest import ROOT
from nbclient import NotebookClient
from tinyrope.processes import can_compile

STAGES = ("speed-15m", "decoding", "sizes")
COMPILES = can_compile(torch.device("cpu"))         # where there is no compiler, all that is compiled is left out


@pytest.fixture(scope="module")
def small(tmp_path_factory, environment):
    "Results of some stages"
    folder = tmp_path_factory.mktemp("gpu")
    done = gpu(environment, folder, *STAGES)
    assert done.returncode == 0, done.stderr
    return folder


def gpu(environment, folder, *arguments):
    command = [sys.executable, str(ROOT/"benchmarks"/"gpu.py"), *arguments, "--small", "--device", "cpu", "--out", str(folder/"results"), "--folder", str(folder/"runs")]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("name, waits", [("cuda", True), ("mps", True), ("cpu", False)])
def test_the_clock_waits_for_the_device(monkeypatch, name, waits):
    "A GPU's calls return before their work is done: before and after each candidate the clock waits for it"
    monkeypatch.syspath_prepend(str(ROOT/"benchmarks"))
    from common import take_turns
    events = []
    for device in (torch.cuda, torch.mps): monkeypatch.setattr(device, "synchronize", lambda *_: events.append("wait"))
    take_turns({"candidate": lambda: events.append("work")}, 1, device=torch.device(name))
    assert events == (["wait", "work", "wait"]*3 if waits else ["work"]*3)


def result(folder, stage): return json.loads((folder/"results"/f"gpu-{stage}.json").read_text())


def test_a_step_is_measured_beside_others_and_taken_apart(small):
    found = result(small, "speed-15m")
    compiled = [name for name in (*found["rows"], *found["profiles"]) if "compiled" in name]
    assert {"tinyrope", "transformers", "plain PyTorch"} <= set(found["rows"]) and "eager" in found["profiles"]
    assert {"tinyrope, compiled", "transformers, compiled", "compiled", "compiled, Muon"} <= set(compiled) if COMPILES else not compiled
    for parts in found["profiles"].values():
        assert sum(parts["kinds"].values()) == pytest.approx(parts["milliseconds"], rel=.9) and parts["kinds"]["products"] > 0


def test_decoding_is_measured_in_all_ways(small):
    rows = result(small, "decoding")["rows"]
    assert {(r["batch"], r["kv_heads"], r["way"]) for r in rows} == {(b, n, way) for b in (1, 4) for n in (4, 1) for way in ("eager", "captured", "compiled")}
    assert all(r["tokens_per_second"] > 0 for r in rows if COMPILES or r["way"] != "compiled")


def test_sizes_stop_in_time_and_go_on(small, tmp_path, environment):
    stopped = gpu(environment, tmp_path, "sizes", "--minutes", "0")
    assert stopped.returncode == 1 and "the same command goes on" in stopped.stderr
    before = result(small, "sizes")["rows"]
    assert gpu(environment, small, "sizes").returncode == 0 and result(small, "sizes")["rows"] == before and len(before) == 4


def test_the_page_draws_what_was_measured(small, tmp_path):
    (tmp_path/"nbs").mkdir()
    shutil.copytree(ROOT/"results", tmp_path/"results")
    for file in (small/"results").glob("gpu-*.json"): shutil.copy(file, tmp_path/"results")
    notebook = nbformat.read(ROOT/"nbs"/"benchmarks.ipynb", 4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path/"nbs")}}).execute()
    outputs = [o["data"] for cell in notebook["cells"][-8:] for o in cell.get("outputs", []) if "data" in o]
    text = "".join("".join(o.get("text/markdown", "")) for o in outputs)
    assert "| plain PyTorch |" in text and "| batch | key-value heads |" in text and "`speed-full`" in text
    assert sum("image/png" in o for o in outputs) == 2


def test_pieces_compares_ways_that_compute_the_same(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT/"benchmarks"))
    from gpu_pieces import _loss_and_gradients, by_comparison
    torch.manual_seed(0)
    rows = torch.randn(12, 8), torch.randn(20, 8), None, torch.randint(20, (12,)), 5
    *found, _ = by_comparison(*rows)
    *expected, _ = _loss_and_gradients(*rows)
    torch.testing.assert_close(found, expected)
