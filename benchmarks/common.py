"""What the benchmarks share: their command line, a fair clock, and the file of a result.

Candidates take turns, so that whatever else the machine does slows all of them alike. Their times
are summed up by median and quartiles, and a result is written with all that led to it."""
import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tinyrope.ledger import provenance, write_result
from tinyrope.processes import synchronise

WARM_UP = 2         # rounds that are not counted
CPU = torch.device("cpu")


# ---- the command line

def parser(description, out=None):
    "Make a command line whose help is the docstring of a script, with an option for its result"
    p = argparse.ArgumentParser(description=description,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    if out: p.add_argument("--out", type=Path, default=Path(out), help=f"default: {out}")
    return p


def speed_parser(description, out, rounds):
    "Make a command line with the options that all speed benchmarks have"
    p = parser(description, out)
    p.add_argument("--rounds", type=int, default=rounds,
                   help=f"rounds that count, after {WARM_UP} that do not (default: {rounds})")
    return p


# ---- the clock

def build(builders):
    "Build candidates; one whose package is missing is left out, with a line that says so"
    built = {}
    for name, make in builders.items():
        try: built[name] = make()
        except ImportError as e: print(f"left out: {name} ({e})")
    return built


def clock(run, device=CPU):
    "Seconds that a call takes until the device has done its work, and what the call returns"
    synchronise(device)
    start = time.perf_counter()
    found = run()
    synchronise(device)
    return time.perf_counter() - start, found


def take_turns(candidates, rounds, inputs=tuple, device=CPU):
    "Time candidates in turns, in a round with the same inputs; a float returned is its own time"
    seconds = {name: [] for name in candidates}
    for r in range(WARM_UP + rounds):
        arguments = inputs()
        for name, run in candidates.items():
            elapsed, found = clock(lambda: run(*arguments), device)
            if isinstance(found, float): elapsed = found
            if r >= WARM_UP: seconds[name].append(elapsed)
    return seconds


def try_out(measure):
    "Measure, or say why it fails: an experiment that fails does not stop the others"
    try: return measure(), None
    except Exception as e: return None, f"{type(e).__name__}: {e}"[:300]


# ---- the result

def compare(seconds, peer, **amounts):
    "Sum up seconds by median and quartiles, as amounts per second and ratio of speeds to a peer's"
    rows = {}
    for name, times in seconds.items():
        low, middle, high = np.percentile(times, (25, 50, 75)).tolist()
        speed = {f"{unit}_per_second": amount/middle for unit, amount in amounts.items()}
        ratio = np.median(seconds[peer]).item()/middle if peer in seconds else None
        rows[name] = dict(**speed, ratio=ratio, median=middle, quartiles=(low, high), seconds=times)
    return rows


def speeds(row):
    "The speeds in a row: unit → amount per second"
    end = "_per_second"
    return {key.removesuffix(end): value for key, value in row.items() if key.endswith(end)}


def show(title, rows):
    "Print a table of what `compare` found"
    print(f"\n{title}")
    for name, row in rows.items():
        middle, low, high = (1e3*s for s in (row["median"], *row["quartiles"]))
        columns = [f"{name:34} {middle:10.1f} ms ({low:.1f} to {high:.1f})"]
        for unit, value in speeds(row).items():
            columns.append(f"{value:9,.0f} {unit}/s" if value >= 100 else f"{value:9.3g} {unit}/s")
        if row["ratio"] is not None: columns.append(f"{row['ratio']:6.2f} x")
        print("  " + "  ".join(columns))


def summary(row):
    "The speeds and the ratio of a row, to four digits"
    found = {f"{unit}_per_second": value for unit, value in speeds(row).items()}
    if row["ratio"] is not None: found["ratio"] = row["ratio"]
    return {key: float(f"{value:.4g}") for key, value in found.items()}


def write_groups(path, groups, packages, **facts):
    "Write groups of rows and all that led to them; the last line printed sums them up as JSON"
    command = " ".join(("python", *sys.argv))
    write_result(path, provenance(command, *packages, **facts, groups=groups))
    found = {group: {name: summary(row) for name, row in parts["rows"].items()}
             for group, parts in groups.items()}
    print("\n" + json.dumps(found))


def read_begun(path, **empty):
    "Read a result that may have been begun, or else return the empty one"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


# ---- rows that several processes add

def add_row(path, row, conclude=lambda result: {}):
    "Add a row to a result, and what can be concluded from all rows"
    with FileLock(f"{path}.lock"):
        result = read_begun(path)
        result["rows"].append(row)
        write_result(path, result | conclude(result))
