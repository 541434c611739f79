"""Beside other models: `python benchmarks/scoreboard.py` writes results/scoreboard.json.

The bundled model and llama2.c's stories260K are scored on validation and test stories; the default
run is taken from results/laptop.json. Further models may be named as for `tinyrope-evaluate`, and
with `--as` the mean of all of them is one row; rows that are not measured anew are kept. With
`--only` one row is measured.

The file also lists what others have published on the same data, converted to bits per byte: a
published loss over ln 2 and the bytes per token that its tokenizer has on our validation stories.
(Those losses also count the mark at the end of a story; ours do not.)"""
import sys
from pathlib import Path
from statistics import mean, median

from common import parser, read_begun
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.data import load_tokenizer, train_bpe
from tinyrope.export import llama2c_tokenizer
from tinyrope.ledger import provenance, read_result, write_result
from tinyrope.metrics import bits_per_byte
from tinyrope.model import ModelConfig, count_parameters
from tinyrope.processes import pick_device
from tinyrope.scoreboard import HFModel, load_model, score

STORIES260K, TOK512 = "benchmarks/peers/stories260K.bin", "benchmarks/peers/tok512.bin"
READ_260K = 100_000*128*512         # tokens, as doc/stories260K.md says
PEERS = {"bundled": dict(model="bundled"),
         "stories260K": dict(model=STORIES260K, tokenizer=TOK512, training_tokens=READ_260K)}
PARTS = ("valid", "test", "valid_one_window")

# of `tokenizer.bin` of llama2.c, too large to be carried here, as `llama2c_tokenizer` reads it
LLAMA2_BYTES_PER_TOKEN = 3.767
WORDS = {"GPT-2": 50257, "BPE of 10,000": 10_000, "BPE of 512": 512, "Llama-2": 32_000}
COLUMNS = ("name", "parameters", "training_tokens", "loss", "tokenizer", "source")
PUBLISHED = [
    ("the original write-up", 123_462_737, None, 1.60, "GPT-2",
     "Custom SLM Pretraining with RoPE on TinyStories; its own validation split"),
    ("CS336 assignment 1", None, 327_680_000, 1.45, "BPE of 10,000",
     "Stanford CS336, assignment 1: target for an H100; 17 M parameters without embeddings"),
    ("CS336, low resource", None, 40_960_000, 1.80, "BPE of 10,000",
     "Stanford CS336, assignment 1: target for a laptop; 17 M parameters without embeddings"),
    ("57 M, AdamW", 57_000_000, 262_000_000, 1.466, "GPT-2",
     "10 layers of width 512, official validation split, 3 seeds"),
    ("57 M, Muon", 57_000_000, 262_000_000, 1.412, "GPT-2",
     "10 layers of width 512, official validation split, 3 seeds"),
    ("llama2.c stories260K", None, READ_260K, 1.297, "BPE of 512", "llama2.c, doc/stories260K.md"),
    ("llama2.c stories15M", 15_000_000, None, 1.072, "Llama-2", "llama2.c, README.md"),
    ("llama2.c stories42M", 42_000_000, None, .847, "Llama-2", "llama2.c, README.md"),
    ("llama2.c stories110M", 110_000_000, None, .760, "Llama-2",
     "llama2.c, README.md; users report 0.87 (issue 475)")]


# ---- what others have published

def encode(tokenizer, stories):
    "Encodings of stories, without marks"
    return tokenizer.encode_batch_fast(list(stories), add_special_tokens=False)


def bytes_per_token(tokenizer, stories):
    "Bytes that a tokenizer's tokens have on average in texts"
    tokens = sum(len(e.ids) for e in encode(tokenizer, stories))
    return sum(len(s.encode()) for s in stories) / tokens


def token_sizes():
    "Bytes per token of the tokenizers of others, on the validation stories"
    bpe = train_bpe(load_stories("train"), WORDS["BPE of 10,000"])
    tokenizers = {"GPT-2": load_tokenizer("gpt2"), "BPE of 10,000": bpe,
                  "BPE of 512": llama2c_tokenizer(TOK512)}
    measured = {name: bytes_per_token(t, load_stories("valid")) for name, t in tokenizers.items()}
    return measured | {"Llama-2": LLAMA2_BYTES_PER_TOKEN}


def convert(small_parameters):
    "What others have published, in bits per byte"
    sizes, rows = token_sizes(), [dict(zip(COLUMNS, row)) for row in PUBLISHED]
    for r in rows:
        size = sizes[r["tokenizer"]]
        if r["name"].endswith("260K"): r["parameters"] = small_parameters
        r |= dict(vocab_size=WORDS[r["tokenizer"]], bytes_per_token=size,
                  bits_per_byte=bits_per_byte(r["loss"], size), converted=True)
    return rows


# ---- rows

def tokens_read(model):
    "Tokens that a run of ours was trained on, None for another model"
    ours = model == "bundled" or (Path(model)/"metrics.jsonl").exists()
    return Run(model).metrics[-1]["tokens"] if ours else None


def scores_of(name, model, tokenizer, device):
    "Scores of a model on validation and test stories, and on those that fit its context"
    valid = load_stories("valid")
    pairs = zip(valid, encode(tokenizer, valid))
    whole = [s for s, e in pairs if len(e.ids) < model.config.seq_len]
    scores = {}
    for part, stories in zip(PARTS, (valid, load_stories("test"), whole)):
        scores[part] = s = score(model, tokenizer, stories, device)
        print(f"{name}, {part}: {s['bits_per_byte']:.4f} bits per byte of {s['stories']:,} stories",
              flush=True)
    return scores


def measure(name, model, device, tokenizer=None, training_tokens=None):
    "The row of a model"
    m, t = load_model(model, tokenizer)
    scores = scores_of(name, m, t, device)
    packages = ["transformers"] if isinstance(m, HFModel) else []
    about = provenance(" ".join(("python", *sys.argv)), *packages, device=str(device))
    return dict(name=name, parameters=sum(p.numel() for p in m.parameters()),
                training_tokens=tokens_read(model) or training_tokens,
                vocab_size=t.get_vocab_size(), context=m.config.seq_len, **scores, **about)


def mean_row(name, rows):
    "One row for several runs of one thing: means of their scores"
    scores = {part: {k: mean(r[part][k] for r in rows) for k in rows[0][part]} for part in PARTS}
    return rows[0] | scores | dict(name=name, runs=len(rows))


def median_scores(scores):
    "Medians of scores over seeds"
    names = ("loss", "bits_per_byte", "stories", "tokens", "bytes")
    return {name: median(s[name] for s in scores) for name in names}


def laptop_row():
    "The default run, as its own benchmark measured it: medians of its seeds"
    result = read_result("laptop")
    runs, config = result["runs"], ModelConfig(**result["config"]["model"])
    return dict(name="default run", parameters=sum(count_parameters(config).values()),
                training_tokens=runs[0]["metrics"][-1]["tokens"], vocab_size=config.vocab_size,
                context=config.seq_len, runs=len(runs), valid=median_scores(runs),
                test=median_scores([run["test"] for run in runs]),
                command=result["command"], date=result["date"])


# ---- the file

def arguments():
    "Read the command line"
    p = parser(__doc__, "results/scoreboard.json")
    p.add_argument("models", nargs="*", metavar="MODEL", help="further models")
    p.add_argument("--tokenizer",
                   help="tokenizer file of the further models, if they are llama2.c's")
    p.add_argument("--training-tokens", type=int,
                   help="tokens that the further models have read, if known")
    p.add_argument("--as", dest="name", metavar="NAME",
                   help="name of the row of the further models, which alone is measured")
    p.add_argument("--only", metavar="NAME", help="measure this row alone")
    p.add_argument("--device", default="auto", help="default: auto")
    a = p.parse_args()
    if a.name and not a.models: p.error("--as names a row of further models: name them")
    return a


def further_models(a):
    "The models that were named: name of the row → how to load it"
    how = dict(tokenizer=a.tokenizer, training_tokens=a.training_tokens)
    names = {Path(m.removeprefix("hf:")).name.removesuffix(".bin"): m for m in a.models}
    return {name: dict(model=m, **how) for name, m in names.items()}


def measured_rows(a):
    "Measure what the command line asks for: name → row"
    further = further_models(a)
    plan = further if a.name else PEERS | further
    if a.only and a.only not in plan: sys.exit(f"no row {a.only!r}: there are {list(plan)}")
    if a.only: plan = {a.only: plan[a.only]}
    device = pick_device(a.device)
    rows = {name: measure(name, device=device, **how) for name, how in plan.items()}
    return {a.name: mean_row(a.name, list(rows.values()))} if a.name else rows


def main():
    a = arguments()
    rows = {r["name"]: r for r in read_begun(a.out, rows=[])["rows"]}
    rows |= measured_rows(a) | {"default run": laptop_row()}
    published = convert(rows.get("stories260K", {}).get("parameters"))
    write_result(a.out, provenance("python benchmarks/scoreboard.py", rows=list(rows.values()),
                                   published=published))
    for r in published:
        print(f"{r['name']:24} loss {r['loss']:.3f} / {r['bytes_per_token']:.3f} bytes per token: "
              f"{r['bits_per_byte']:.3f}")


if __name__ == "__main__": main()
