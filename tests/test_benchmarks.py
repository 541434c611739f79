"""The GPU's benchmark runs, in sizes for a CPU.

Its stages write what the page of benchmarks draws, and stop and go on.
"""
import json
import shutil
import subprocess
import sys

import nbformat
import pytest
import torch
from conftest import HUNG, ROOT
from nbclient import NotebookClient

STAGES = ("speed-15m", "decoding", "sizes")


@pytest.fixture(scope="module")
def gpu(environment):
    "Run stages in a folder"
    def call(folder, *words):
        command = [sys.executable, ROOT/"benchmarks"/"gpu.py", *words, "--small", "--device", "cpu",
                   "--out", folder/"results", "--folder", folder/"runs"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True,
                              timeout=HUNG)
    return call


@pytest.fixture(scope="module")
def small(tmp_path_factory, gpu):
    "Results of some stages"
    folder = tmp_path_factory.mktemp("gpu")
    done = gpu(folder, *STAGES)
    assert done.returncode == 0, done.stderr
    return folder


def result(folder, stage):
    "What a stage has written"
    return json.loads((folder/"results"/f"gpu-{stage}.json").read_text())


@pytest.mark.parametrize("name, waits", [("cuda", True), ("mps", True), ("cpu", False)])
def test_the_clock_waits_for_the_device(monkeypatch, name, waits):
    "A GPU's calls return before their work is done: before and after each candidate it waits"
    monkeypatch.syspath_prepend(str(ROOT/"benchmarks"))
    from common import take_turns
    events = []
    for device in (torch.cuda, torch.mps):
        monkeypatch.setattr(device, "synchronize", lambda *_: events.append("wait"))
    take_turns({"candidate": lambda: events.append("work")}, 1, device=torch.device(name))
    assert events == (["wait", "work", "wait"]*3 if waits else ["work"]*3)


def test_a_step_is_measured_beside_others(small):
    "The training step is timed beside those of transformers and of plain PyTorch"
    assert {"tinyrope", "transformers", "plain PyTorch"} <= set(result(small, "speed-15m")["rows"])


def test_a_step_is_taken_apart(small):
    "Its parts make up the whole, as far as a busy machine takes as long twice"
    profiles = result(small, "speed-15m")["profiles"]
    assert "eager" in profiles
    for parts in profiles.values():
        assert .1 < sum(parts["kinds"].values())/parts["milliseconds"] < 4
        assert parts["kinds"]["products"] > 0


def test_what_is_compiled_is_left_out_without_a_compiler(small, compiles):
    "With a compiler, each library has a compiled row; without one, none has"
    found = result(small, "speed-15m")
    names = {name for name in (*found["rows"], *found["profiles"]) if "compiled" in name}
    if compiles:
        assert {"tinyrope, compiled", "transformers, compiled"} <= found["rows"].keys()
        assert {"compiled", "compiled, Muon"} <= found["profiles"].keys()
    else: assert not names


def test_decoding_is_measured_in_all_ways(small, compiles):
    "Each batch, number of key-value heads and way of decoding has a row with its speed"
    rows = result(small, "decoding")["rows"]
    ways = ("eager", "captured", "compiled")
    wanted = {(2, 2, way) for way in ways}
    assert {(row["batch"], row["kv_heads"], row["way"]) for row in rows} == wanted
    failed = [row["way"] for row in rows if "tokens_per_second" not in row]
    assert not failed or set(failed) == {"compiled"} and not compiles


def test_sizes_stop_in_time(tmp_path, gpu):
    "After its minutes a stage begins nothing, and says how to go on"
    stopped = gpu(tmp_path, "sizes", "--minutes", "0")
    assert stopped.returncode == 1 and "the same command goes on" in stopped.stderr


def test_sizes_go_on_with_what_was_measured(small, gpu):
    "A second call measures nothing again"
    before = result(small, "sizes")["rows"]
    assert len(before) == 4
    done = gpu(small, "sizes")
    assert done.returncode == 0 and result(small, "sizes")["rows"] == before


def executed(folder):
    "The page of benchmarks, executed beside other results: its cells on GPUs"
    notebook = nbformat.read(ROOT/"nbs"/"benchmarks.ipynb", 4)
    place = {"metadata": {"path": str(folder/"nbs")}}
    NotebookClient(notebook, timeout=HUNG, kernel_name="python3", resources=place).execute()
    cells = notebook["cells"]
    first, = (i for i, c in enumerate(cells) if c["source"].startswith("## On a GPU"))
    return cells[first:]


def test_the_page_draws_what_was_measured(small, tmp_path):
    "The page of benchmarks shows tables and figures of these results"
    (tmp_path/"nbs").mkdir()
    shutil.copytree(ROOT/"results", tmp_path/"results")
    for file in (small/"results").glob("gpu-*.json"): shutil.copy(file, tmp_path/"results")
    cells = executed(tmp_path)
    shown = [o["data"] for cell in cells for o in cell.get("outputs", []) if "data" in o]
    said = "".join("".join(data.get("text/markdown", "")) for data in shown)
    for words in ("| plain PyTorch |", "| batch | key-value heads |", "`speed-full`"):
        assert words in said
    assert sum("image/png" in data for data in shown) == 2


def test_pieces_compares_ways_that_compute_the_same(monkeypatch):
    "The two ways to compute loss and gradients that the benchmark times give the same"
    monkeypatch.syspath_prepend(str(ROOT/"benchmarks"))
    from gpu_pieces import _loss_and_gradients, by_comparison
    torch.manual_seed(0)
    rows = torch.randn(12, 8), torch.randn(20, 8), None, torch.randint(20, (12,)), 5
    *found, _ = by_comparison(*rows)
    *expected, _ = _loss_and_gradients(*rows)
    torch.testing.assert_close(found, expected)
