"""What the benchmarks share: candidates take turns, their times are compared, and the result is written with all that led to it."""
import argparse
import json
import os
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from tinyrope.ledger import hardware, versions

WARM_UP = 2         # rounds that are not counted


def parser(description, name, rounds):
    "Make a command line with the options that all speed benchmarks have"
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=rounds, help=f"rounds that count, after {WARM_UP} that do not (default: {rounds})")
    p.add_argument("--out", default=f"results/{name}.json", help=f"default: results/{name}.json")
    return p


def build(builders):
    "Build candidates; one whose package is missing is left out, with a line that says so"
    built = {}
    for name, make in builders.items():
        try: built[name] = make()
        except ImportError as e: print(f"left out: {name} ({e})")
    return built


def wait(device):
    "Wait until a device has done all that it was given: work for a GPU is only queued when a call returns"
    if device.type in ("cuda", "mps"): getattr(torch, device.type).synchronize()


def take_turns(candidates, rounds, inputs=tuple, device=torch.device("cpu")):
    "Time candidates in turns, in a round all with the same inputs; one that returns a float has timed itself"
    seconds = {name: [] for name in candidates}
    for r in range(WARM_UP + rounds):
        arguments = inputs()
        for name, run in candidates.items():
            wait(device)
            start = time.perf_counter()
            own = run(*arguments)
            wait(device)
            elapsed = time.perf_counter() - start
            if r >= WARM_UP: seconds[name].append(own if isinstance(own, float) else elapsed)
    return seconds


def compare(seconds, peer, **amounts):
    "Summarise seconds by medians and quartiles, as amounts per second and as ratio of speeds to a peer's"
    rows = {}
    for name, times in seconds.items():
        low, middle, high = np.percentile(times, (25, 50, 75)).tolist()
        speed = {f"{unit}_per_second": amount/middle for unit, amount in amounts.items()}
        ratio = np.median(seconds[peer]).item() / middle if peer in seconds else None
        rows[name] = dict(**speed, ratio=ratio, median=middle, quartiles=(low, high), seconds=times)
    return rows


def show(title, rows):
    "Print a table of what `compare` found"
    number = lambda value: f"{value:9,.0f}" if value >= 100 else f"{value:9.3g}"
    print(f"\n{title}")
    for name, row in rows.items():
        speeds = "  ".join(f"{number(value)} {key.removesuffix('_per_second')}/s" for key, value in row.items() if key.endswith("_per_second"))
        ratio = "" if row["ratio"] is None else f"{row['ratio']:6.2f} x"
        low, high = row["quartiles"]
        print(f"  {name:34} {1e3*row['median']:10.1f} ms ({1e3*low:.1f} to {1e3*high:.1f})  {speeds}  {ratio}")


def write(path, groups, packages, **facts):
    "Write results and all that led to them; the last line printed sums them up as JSON"
    about = dict(command=" ".join(("python", *sys.argv)), date=str(date.today()), versions=versions(*packages), **hardware(), **facts)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(about | dict(groups=groups), indent=1))
    short = lambda row: {key: float(f"{value:.4g}") for key, value in row.items() if key.endswith("_per_second") or key == "ratio" and value is not None}
    print("\n" + json.dumps({group: {name: short(row) for name, row in found["rows"].items()} for group, found in groups.items()}))
