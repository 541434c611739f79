"""How close other runtimes come to the model: `python benchmarks/certificate.py --run-c run.c
--runq-c runq.c` writes results/certificate.json.

The bundled model is exported to every format and run by its runtime; the living page is opened in a
browser. Each is compared with the model in PyTorch, eagerly and in fp32: the largest difference of
any logit on 200 validation stories, the first token at which greedy continuations of five prompts
differ, and bits per byte. For the model itself and those in 8 bits, stories are drawn at
temperature 0.8 with the same random numbers, and the words are counted that occur in no story of
the corpus.

llama2.c's programs are compiled here from their sources (https://github.com/karpathy/llama2.c, run.c,
and runq.c for 8 bits) together with a few lines that print logits; llama.cpp needs llama-cpp-python, and the page needs
chromium, chromedriver and selenium. What is missing is left out, with a line that says so. It takes
half an hour or more on one core."""
import atexit
import json
import subprocess
import sys
import tempfile
from base64 import b64decode
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from browser import open_browser, open_page
from common import build, parser, read_begun
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.data import word_counts
from tinyrope.ledger import provenance, write_result
from tinyrope.live import write_page
from tinyrope.llama2c import llama2c_order
from tinyrope.metrics import Score
from tinyrope.model import new_cache
from tinyrope.runtimes import OnnxModel, export, open_llama
from tinyrope.store import EOT

PROMPTS = ("", "Once upon a time", "The dragon", "Tom and Lily went to the park.", "One day")
STORIES, NEW, TOLD, TEMPERATURE = 200, 200, 50, .8
PAGE = "Living page in 8 bits, Chromium"
PACKAGES = ("transformers", "gguf", "llama-cpp-python", "onnx", "onnxruntime")

# programs that read how many tokens come, the position of the first, and their ids, and answer with
# the logits of each. llama.cpp does not repack weights for the matrix units of a processor: where
# those are announced but cannot be used, as in some virtual machines, it ends there in 8 bits
IN_C = """
#define TESTING
#include "{source}"
int main(int argc, char *argv[]) {{
    Transformer t;
    int head[2], token;
    build_transformer(&t, argv[1]);
    while (fread(head, sizeof(int), 2, stdin) == 2) {{
        for (int i = 0; i < head[0] && fread(&token, sizeof(int), 1, stdin) == 1; i++)
            fwrite(forward(&t, token, head[1] + i), sizeof(float), t.config.vocab_size, stdout);
        fflush(stdout);
    }}
    return 0;
}}
"""
IN_LLAMA_CPP = """
import sys
import llama_cpp
import numpy as np
defaults = llama_cpp.llama_model_default_params
def without_repacking():
    params = defaults()
    params.use_extra_bufts = False
    return params
llama_cpp.llama_cpp.llama_model_default_params = without_repacking
model = llama_cpp.Llama(sys.argv[1], n_ctx=512, n_batch=512, logits_all=True, type_k=0, type_v=0,
                        n_threads=1, verbose=False)
def ints(n): return np.frombuffer(sys.stdin.buffer.read(4*n), np.int32)
while len(head := ints(2)) == 2:
    n, at = map(int, head)
    if at == 0: model.reset()
    model.eval(ints(n).tolist())
    sys.stdout.buffer.write(model.scores[at:at + n].astype(np.float32).tobytes())
    sys.stdout.buffer.flush()
"""
TOKENS_IN_LLAMA_CPP = """
import json, sys
from llama_cpp import Llama
model = Llama(sys.argv[1], vocab_only=True, verbose=False)
json.dump([model.tokenize(text.encode()) for text in json.load(sys.stdin)], sys.stdout)
"""
ON_THE_PAGE = """
const [ids, position, done] = arguments, model = window.reader ??= new Model(c, tensors);
if (position === 0) model.begin(untouched(c), c.seq_len);
const logits = ids.map((id, i) => Float32Array.from(model.step(id, position + i)));
const file = new FileReader();
file.onload = () => done(file.result.split(",")[1]);
file.readAsDataURL(new Blob(logits));
"""


# ---- runtimes: each gives logits (tokens, vocab_size) of a list of ids, and of one more token

class Whole:
    "A runtime that reads all tokens at once, again for each new one"
    def __init__(self, model):
        self.model, self.ids = model, []

    def logits(self, ids):
        with torch.no_grad(): return self.model(torch.tensor([ids]))[0].float().numpy()

    def step(self, token, position):
        self.ids[position:] = [token]
        return self.logits(self.ids)[-1]


class Reader:
    "A runtime with a cache: its method `read` gives the logits of tokens from a position on"
    def logits(self, ids): return self.read(ids, 0)
    def step(self, token, position): return self.read([token], position)[-1]


class Cached(Reader):
    "Our model with a cache, which reads stories sixteen tokens at a time"
    def __init__(self, model): self.model = model

    def read(self, ids, position):
        if position == 0: self.cache = new_cache(self.model, 1, self.model.config.seq_len)
        tokens = torch.tensor([ids])
        with torch.no_grad(): return self.model(tokens, cache=self.cache)[0].numpy()

    def logits(self, ids):
        return np.concatenate([self.read(ids[i:i+16], i) for i in range(0, len(ids), 16)])


class Onnx:
    "The model in onnxruntime"
    def __init__(self, path): self.model = OnnxModel(path)
    def logits(self, ids): return self.model(np.array([ids]))[0][0]

    def step(self, token, position):
        past = self.past if position else None
        logits, self.past = self.model(np.array([[token]]), past)
        return logits[0, 0]


class Piped(Reader):
    "A runtime in a process of its own, whose tokens may have another order"
    def __init__(self, command, order):
        self.theirs, self.size = np.argsort(order), len(order)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self, ids, position):
        asked = np.array([len(ids), position, *self.theirs[ids]], np.int32)
        self.process.stdin.write(asked.tobytes())
        self.process.stdin.flush()
        found = np.frombuffer(self.process.stdout.read(4*len(ids)*self.size), np.float32)
        return found.reshape(len(ids), -1)[:, self.theirs]


class Page(Reader):
    "The living page in a browser"
    def __init__(self, driver, path):
        self.driver = driver
        open_page(driver, path)

    def read(self, ids, position):
        told = self.driver.execute_async_script(ON_THE_PAGE, ids, position)
        return np.frombuffer(bytearray(b64decode(told)), np.float32).reshape(len(ids), -1)


def run_c(source, folder, order):
    "The model in one of llama2.c's programs"
    if not source: raise ImportError("give llama2.c's run.c with --run-c, its runq.c with --runq-c")
    code, program = IN_C.format(source=Path(source).resolve()), folder/"logits"
    gcc = ["gcc", "-Ofast", "-x", "c", "-", "-o", program, "-lm"]
    subprocess.run(gcc, input=code, text=True, check=True)
    return Piped([program, folder/"model.bin"], order)


def llama_cpp(path, run):
    "The model in llama.cpp, whose tokenizer has to give the tokens of ours"
    if not find_spec("llama_cpp"): raise ImportError("pip install llama-cpp-python")
    stories = list(load_stories("valid"))[:STORIES]
    command, given = [sys.executable, "-c", TOKENS_IN_LLAMA_CPP, path], json.dumps(stories)
    done = subprocess.run(command, input=given, text=True, check=True, capture_output=True)
    eot = run.tokenizer.token_to_id(EOT)
    for story, ids in zip(stories, json.loads(done.stdout)):
        assert ids == [eot, *run.tokenizer.encode(story).ids], f"other tokens: {story}"
    return Piped([sys.executable, "-c", IN_LLAMA_CPP, path], range(run.model.config.vocab_size))


def hugging_face(folder):
    "The model in transformers"
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return Whole(lambda tokens: model(tokens).logits)


def page(path):
    "The living page, in a browser that ends with this process"
    driver = open_browser()
    atexit.register(driver.quit)
    return Page(driver, path)


def runtimes(run, place, source, source_8):
    "Builders of all runtimes, each with the file that it runs"
    found = open_llama("bundled")
    for to in ("hf", "llama2c", "gguf", "onnx"): export(found, to, place/f"{to}32")
    for to in ("llama2c", "gguf", "onnx"): export(found, to, place/f"{to}8", bits=8)
    order, whole = llama2c_order(run.tokenizer), place/"hf32"/"model.safetensors"
    theirs, theirs_8 = place/"llama2c32", place/"llama2c8"
    compiled, half = deepcopy(run.model), deepcopy(run.model).bfloat16()
    compiled.compile(dynamic=True)
    write_page(place/"page.html", run, "the model in the package")
    gguf, onnx = ({32: place/f"{to}32"/f"model.{to}", 8: place/f"{to}8"/f"model-q8.{to}"}
                  for to in ("gguf", "onnx"))
    return {"PyTorch, eager": (whole, partial(Whole, run.model)),
            "PyTorch, compiled": (whole, partial(Whole, compiled)),
            "PyTorch, with a cache": (whole, partial(Cached, run.model)),
            "PyTorch, bf16": (whole, partial(Whole, half)),
            "Hugging Face transformers": (whole, partial(hugging_face, place/"hf32")),
            "llama2.c": (theirs/"model.bin", partial(run_c, source, theirs, order)),
            "llama2.c in 8 bits": (theirs_8/"model.bin", partial(run_c, source_8, theirs_8, order)),
            "GGUF, llama.cpp": (gguf[32], partial(llama_cpp, gguf[32], run)),
            "GGUF in 8 bits, llama.cpp": (gguf[8], partial(llama_cpp, gguf[8], run)),
            "ONNX, onnxruntime": (onnx[32], partial(Onnx, onnx[32])),
            "ONNX in 8 bits, onnxruntime": (onnx[8], partial(Onnx, onnx[8])),
            PAGE: (place/"page.html", partial(page, place/"page.html"))}


# ---- measures

def compare_logits(candidates, run):
    "Largest difference of a logit to the first candidate, and bits per byte, of each"
    eot, seq_len = run.tokenizer.token_to_id(EOT), run.model.config.seq_len
    stories = [(s, [eot, *run.tokenizer.encode(s).ids]) for s in load_stories("valid")]
    stories = [(s, ids) for s, ids in stories if len(ids) <= seq_len][:STORIES]
    largest, nats = dict.fromkeys(candidates, 0.), dict.fromkeys(candidates, 0.)
    n_bytes, n_tokens = 0, 0
    for story, ids in stories:
        first = None
        for name, candidate in candidates.items():
            logits = candidate.logits(ids[:-1])
            first = logits if first is None else first
            largest[name] = max(largest[name], float(np.abs(logits - first).max()))
            log_p = torch.from_numpy(logits).double().log_softmax(-1)
            nats[name] -= log_p[range(len(ids) - 1), ids[1:]].sum().item()
        n_bytes, n_tokens = n_bytes + len(story.encode()), n_tokens + len(ids) - 1
    return {name: dict(largest_difference=largest[name],
                       bits_per_byte=Score(nats[name], n_tokens, n_bytes).bits_per_byte)
            for name in candidates}


def continued(candidate, ids, choose, new=NEW):
    "Continue tokens by others, chosen from their logits"
    logits = [candidate.step(token, i) for i, token in enumerate(ids)][-1]
    found = []
    while len(found) < new:
        found.append(int(choose(logits)))
        if len(found) < new: logits = candidate.step(found[-1], len(ids) + len(found) - 1)
    return found


def first_difference(found, wanted):
    "The number of the first token that differs in any of some rows; None: all are equal"
    at = []
    for row, other in zip(found, wanted):
        at += [i for i, (a, b) in enumerate(zip(row, other)) if a != b]
    return min(at, default=None)


def invented(candidate, run, known):
    "Words that occur in no story, of a thousand in stories drawn with the same random numbers"
    eot, counts = run.tokenizer.token_to_id(EOT), [0, 0]
    for seed in range(TOLD):
        drawn = iter(np.random.default_rng(seed).random(NEW))
        def draw(logits):
            p = np.exp((logits.astype(np.float64) - logits.max())/TEMPERATURE).cumsum()
            return min(np.searchsorted(p, next(drawn)*p[-1], "right"), len(p) - 1)
        ids = continued(candidate, [eot], draw)
        end = ids.index(eot) if eot in ids else len(ids)
        for word, n in word_counts([run.tokenizer.decode(ids[:end]).rpartition(" ")[0]]).items():
            counts[0], counts[1] = counts[0] + n*(word not in known), counts[1] + n
    return dict(invented=counts[0], words=counts[1], invented_per_thousand=1000*counts[0]/counts[1])


def version_of(driver):
    "Name a browser and its version"
    return " ".join(driver.capabilities[name] for name in ("browserName", "browserVersion"))


def choose(found, parts):
    "The runtimes whose names hold one of some parts, after the first, which is what they meet"
    first, *others = found
    return [first, *(name for name in others if not parts or any(p in name for p in parts))]


def measure(found, names, run):
    "The rows of some runtimes, each with all that is measured"
    eot = run.tokenizer.token_to_id(EOT)
    candidates = build({name: found[name][1] for name in names})
    rows = compare_logits(candidates, run)
    prompts = [[eot, *run.tokenizer.encode(prompt).ids] for prompt in PROMPTS]
    corpus = [*load_stories("train"), *load_stories("valid"), *load_stories("test")]
    known, told = set(word_counts(corpus)), None
    for name, candidate in candidates.items():
        greedy = [continued(candidate, ids, np.argmax) for ids in prompts]
        told, size = told or greedy, found[name][0].stat().st_size
        rows[name] |= dict(first_difference=first_difference(greedy, told),
                           bytes=size//2 if "bf16" in name else size)
        sampled = name == "PyTorch, with a cache" or "8 bits" in name
        if sampled: rows[name] |= invented(candidate, run, known)
        print(name, rows[name], flush=True)
    return rows, version_of(candidates[PAGE].driver) if PAGE in candidates else None


def added(path, result, order):
    "A result with the rows of an earlier one that it does not measure. Raises ValueError"
    before = read_begun(path, rows=[], versions=result["versions"])
    if before["versions"] != result["versions"]:
        raise ValueError(f"{path} was measured with other versions: leave out --only")
    rows = {row["name"]: row for row in [*before["rows"], *result["rows"]]}
    browser = result["browser"] or before.get("browser")
    return result | dict(browser=browser, rows=[rows[name] for name in order if name in rows])


def main():
    p = parser(__doc__, "results/certificate.json")
    p.add_argument("--run-c", metavar="PATH", help="llama2.c's run.c")
    p.add_argument("--runq-c", metavar="PATH", help="llama2.c's runq.c")
    p.add_argument("--only", nargs="+", metavar="PART",
                   help="measure what has one of these in its name, and keep the other rows")
    a = p.parse_args()
    torch.set_num_threads(1)
    run = Run("bundled")
    with tempfile.TemporaryDirectory() as place:
        found = runtimes(run, Path(place), a.run_c, a.runq_c)
        rows, browser = measure(found, choose(found, a.only), run)
    command = "python benchmarks/certificate.py"
    for name, given in {"run": a.run_c, "runq": a.runq_c}.items():
        if given: command += f" --{name}-c {name}.c"
    facts = dict(stories=STORIES, prompts=PROMPTS, new_tokens=NEW, told=TOLD,
                 temperature=TEMPERATURE, browser=browser)
    result = provenance(command, *PACKAGES, **facts,
                        rows=[dict(name=name, **row) for name, row in rows.items()])
    write_result(a.out, added(a.out, result, found) if a.only else result)


if __name__ == "__main__": main()
