"""Beside other models: `python benchmarks/scoreboard.py` scores the bundled model and llama2.c's stories260K on validation and test stories and
writes results/scoreboard.json; the default run is taken from results/laptop.json. Further models may be named as for `tinyrope-evaluate`, and with
`--as` the mean of all of them is one row; rows that are not measured anew are kept. With `--only` one row is. The file also lists what others have published on the same data, converted to bits per byte: a published loss over ln 2 and the bytes
per token that its tokenizer has on our validation stories. (Those losses also count the mark at the end of a story; ours do not.)"""
import argparse
import json
import sys
from pathlib import Path
from statistics import mean, median

from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.data import load_tokenizer, train_bpe
from tinyrope.ledger import provenance, write_result
from tinyrope.metrics import bits_per_byte
from tinyrope.model import ModelConfig, count_parameters
from tinyrope.processes import pick_device
from tinyrope.scoreboard import HFModel, llama2c_tokenizer, load_model, score

TOK512 = "benchmarks/peers/tok512.bin"
PEERS = {"bundled": dict(model="bundled"),
         "stories260K": dict(model="benchmarks/peers/stories260K.bin", tokenizer=TOK512, training_tokens=100_000*128*512)}      # as doc/stories260K.md says
LLAMA2_BYTES_PER_TOKEN = 3.767      # of `tokenizer.bin` of llama2.c, read by `llama2c_tokenizer`, on the validation stories; it is too large to be carried here
WORDS = {"GPT-2": 50257, "BPE of 10,000": 10_000, "BPE of 512": 512, "Llama-2": 32_000}
PUBLISHED = [       # name, parameters, training tokens, loss, tokenizer, where it stands
    ("the original write-up", 123_462_737, None, 1.60, "GPT-2", "Custom SLM Pretraining with RoPE on TinyStories; its own validation split"),
    ("CS336 assignment 1", None, 327_680_000, 1.45, "BPE of 10,000", "Stanford CS336, assignment 1: target for an H100; 17 M parameters without embeddings"),
    ("CS336, low resource", None, 40_960_000, 1.80, "BPE of 10,000", "Stanford CS336, assignment 1: target for a laptop; 17 M parameters without embeddings"),
    ("57 M, AdamW", 57_000_000, 262_000_000, 1.466, "GPT-2", "10 layers of width 512, official validation split, 3 seeds"),
    ("57 M, Muon", 57_000_000, 262_000_000, 1.412, "GPT-2", "10 layers of width 512, official validation split, 3 seeds"),
    ("llama2.c stories260K", None, 100_000*128*512, 1.297, "BPE of 512", "llama2.c, doc/stories260K.md"),
    ("llama2.c stories15M", 15_000_000, None, 1.072, "Llama-2", "llama2.c, README.md"),
    ("llama2.c stories42M", 42_000_000, None, .847, "Llama-2", "llama2.c, README.md"),
    ("llama2.c stories110M", 110_000_000, None, .760, "Llama-2", "llama2.c, README.md; users report 0.87 (issue 475)")]


def bytes_per_token(tokenizer, stories):
    "Bytes that a tokenizer's tokens have on average in texts"
    return sum(len(s.encode()) for s in stories) / sum(len(e.ids) for e in tokenizer.encode_batch_fast(list(stories), add_special_tokens=False))


def convert(small_parameters):
    "What others have published, in bits per byte"
    valid, bpe = load_stories("valid"), train_bpe(load_stories("train"), WORDS["BPE of 10,000"])
    measured = {"GPT-2": load_tokenizer("gpt2"), "BPE of 10,000": bpe, "BPE of 512": llama2c_tokenizer(TOK512)}
    sizes = {name: bytes_per_token(t, valid) for name, t in measured.items()} | {"Llama-2": LLAMA2_BYTES_PER_TOKEN}
    keys = ("name", "parameters", "training_tokens", "loss", "tokenizer", "source")
    rows = [dict(zip(keys, row)) for row in PUBLISHED]
    for r in rows: r |= dict(vocab_size=WORDS[r["tokenizer"]], bytes_per_token=sizes[r["tokenizer"]], bits_per_byte=bits_per_byte(r["loss"], sizes[r["tokenizer"]]), converted=True)
    for r in rows: r["parameters"] = small_parameters if r["name"].endswith("260K") else r["parameters"]
    return rows


def measure(name, model, device, tokenizer=None, training_tokens=None):
    "The row of a model"
    m, t = load_model(model, tokenizer)
    if (run := Path(model)/"metrics.jsonl").exists() or model == "bundled": training_tokens = Run(model).metrics[-1]["tokens"]
    valid, test = load_stories("valid"), load_stories("test")
    encoded = t.encode_batch_fast(list(valid), add_special_tokens=False)
    whole = [s for s, e in zip(valid, encoded) if len(e.ids) < m.config.seq_len]
    scores = {part: score(m, t, stories, device) for part, stories in (("valid", valid), ("test", test), ("valid_one_window", whole))}
    for part, s in scores.items(): print(f"{name}, {part}: {s['bits_per_byte']:.4f} bits per byte of {s['stories']:,} stories", flush=True)
    about = provenance(" ".join(("python", *sys.argv)), *["transformers"]*isinstance(m, HFModel), device=str(device))
    return dict(name=name, parameters=sum(p.numel() for p in m.parameters()), training_tokens=training_tokens, vocab_size=t.get_vocab_size(),
                context=m.config.seq_len, **scores, **about)


def mean_row(name, rows):
    "One row for several runs of one thing: means of their scores"
    scores = {part: {k: mean(r[part][k] for r in rows) for k in rows[0][part]} for part in ("valid", "test", "valid_one_window")}
    return rows[0] | scores | dict(name=name, runs=len(rows))


def laptop_row():
    "The default run, as its own benchmark measured it: medians of its seeds"
    r = json.loads(Path("results/laptop.json").read_text())
    score = lambda runs: {k: median(run[k] for run in runs) for k in ("loss", "bits_per_byte", "stories", "tokens", "bytes")}
    return dict(name="default run", parameters=sum(count_parameters(ModelConfig(**r["config"]["model"])).values()), training_tokens=r["runs"][0]["metrics"][-1]["tokens"],
                vocab_size=r["config"]["model"]["vocab_size"], context=r["config"]["model"]["seq_len"], runs=len(r["runs"]), valid=score(r["runs"]),
                test=score([run["test"] for run in r["runs"]]), command=r["command"], date=r["date"])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="*", metavar="MODEL", help="further models")
    p.add_argument("--tokenizer", help="tokenizer file of the further models, if they are llama2.c's")
    p.add_argument("--training-tokens", type=int, help="tokens that the further models have read, if known")
    p.add_argument("--as", dest="name", metavar="NAME", help="name of the row of the further models, which alone is measured")
    p.add_argument("--only", metavar="NAME", help="measure this row alone")
    p.add_argument("--device", default="auto")
    p.add_argument("--out", default="results/scoreboard.json", help="default: results/scoreboard.json")
    a = p.parse_args()
    plan = PEERS | {Path(m.removeprefix("hf:")).name.removesuffix(".bin"): dict(model=m, tokenizer=a.tokenizer, training_tokens=a.training_tokens) for m in a.models}
    if a.only and a.only not in plan: sys.exit(f"no row {a.only!r}: there are {list(plan)}")
    old = json.loads(Path(a.out).read_text()) if Path(a.out).exists() else {}
    rows = {r["name"]: r for r in old.get("rows", [])}
    extra = [name for name in plan if name not in PEERS]
    found = {name: measure(name, device=pick_device(a.device), **plan[name]) for name in ([a.only] if a.only else extra if a.name else plan)}
    rows |= {a.name: mean_row(a.name, list(found.values()))} if a.name else found
    rows["default run"] = laptop_row()
    published = convert(rows.get("stories260K", {}).get("parameters"))
    write_result(Path(a.out), provenance("python benchmarks/scoreboard.py", rows=list(rows.values()), published=published))
    for r in published: print(f"{r['name']:24} loss {r['loss']:.3f} / {r['bytes_per_token']:.3f} bytes per token: {r['bits_per_byte']:.3f}")


if __name__ == "__main__": main()
