"""Speed of greedy generation with a cache: `python benchmarks/decoding.py` writes
results/decoding.json.

`tinyrope.decoding.decode_tokens` against transformers' `generate` and, with `--run-c PATH`, against
llama2.c (https://github.com/karpathy/llama2.c, built with `gcc -O3 -o run run.c -lm`), all with the
same weights. Each continues one token by 256, for one sequence and (not llama2.c) for 16 at once,
in fp32 on one thread. That all give the same tokens is asserted before anything is measured.
llama2.c reports its own speed, which leaves out the time it takes to start and the first token."""
import os
import struct
import subprocess
import tempfile
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from common import build, compare, show, speed_parser, take_turns, write_groups
from models import compile_decoding, decode, enlarge, llama
from tinyrope.model import ModelConfig, Transformer
from tinyrope.processes import can_compile
from tinyrope.rope import adjacent_to_half

CONFIG = ModelConfig(vocab_size=4096, dim=288, n_layers=6, n_heads=6, hidden_dim=768, seq_len=512)
FIRST, NEW = 1, 256         # the prompt, which is what llama2.c begins with; tokens to generate
PEER, SEED, PACKAGES = "transformers", 0, ("tinyrope", "transformers")
RUN_C = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
         "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj",
         "mlp.up_proj")     # the order in llama2.c's file: each of them for all layers


# ---- the same model for all

def varied_model():
    "A model that was not trained and yet does not repeat itself"
    torch.manual_seed(SEED)
    model = Transformer(CONFIG).eval()
    enlarge(model)
    return model


def block_weights(block, c):
    "Weights of one block under the names that Llama has in transformers"
    q, k, v = block.attention.qkv.weight.split((c.dim, *[c.kv_heads*c.head_dim]*2))
    gate, up = block.mlp.gate_up.weight.chunk(2)
    return {"input_layernorm": block.attention_norm.weight,
            "self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v,
            "self_attn.o_proj": block.attention.out.weight,
            "post_attention_layernorm": block.mlp_norm.weight,
            "mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": block.mlp.down.weight}


def llama_weights(model):
    "Weights of a tinyrope model under the names that Llama has in transformers"
    weights = {"model.embed_tokens.weight": model.embedding.weight,
               "model.norm.weight": model.norm.weight}
    for i, block in enumerate(model.blocks):
        for name, w in block_weights(block, model.config).items():
            weights[f"model.layers.{i}.{name}.weight"] = w
    return {name: w.detach() for name, w in weights.items()}


# ---- candidates

def tinyrope(model, prompt, compiled=False):
    "Generation by tinyrope"
    if compiled:
        if not can_compile(prompt.device): raise ImportError("PyTorch finds no working compiler")
        model = deepcopy(model)
        compile_decoding(model)
    return partial(decode, model, prompt, NEW)


def transformers(model, prompt):
    "Generation by transformers"
    peer = llama(model.config, bos_token_id=None, eos_token_id=None).eval()
    found = peer.load_state_dict(llama_weights(model), strict=False)
    assert found.missing_keys == ["lm_head.weight"], found         # which is tied
    assert not found.unexpected_keys, found
    options = dict(max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, use_cache=True,
                   pad_token_id=0)
    return lambda: peer.generate(prompt, **options)[:, prompt.shape[1]:]


def run_c_weights(model):
    "Weights in the order of llama2.c's file"
    c, weights = model.config, llama_weights(model)
    order = adjacent_to_half(c.head_dim).argsort()          # it turns adjacent pairs
    yield weights["model.embed_tokens.weight"]
    for part in RUN_C:
        for i in range(c.n_layers):
            w = weights[f"model.layers.{i}.{part}.weight"]
            rotated = part.endswith(("q_proj", "k_proj"))
            yield w.unflatten(0, (-1, c.head_dim))[:, order] if rotated else w
    yield weights["model.norm.weight"]
    yield torch.zeros(c.seq_len, c.head_dim)                # where tables of cosines once were


def write_run_c(model, folder):
    "Write a model and a tokenizer, whose words are the ids in hexadecimal, in llama2.c's format"
    c = model.config
    shape = c.dim, c.mlp_dim, c.n_layers, c.n_heads, c.kv_heads, c.vocab_size, c.seq_len
    with open(folder/"model.bin", "wb") as f:
        f.write(struct.pack("7i", *shape))
        for w in run_c_weights(model): f.write(w.contiguous().numpy().tobytes())
    words = [struct.pack("fi", 0, 4) + b"%03x " % i for i in range(c.vocab_size)]
    (folder/"words.bin").write_bytes(struct.pack("i", 4) + b"".join(words))


def run_c(binary, folder, threads):
    "Generate with llama2.c; returns the ids, and the seconds for all at the speed it reports"
    command = [str(Path(binary).resolve()), "model.bin", "-t", "0", "-n", str(NEW),
               "-z", "words.bin", "-i", ""]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                          check=True, capture_output=True, text=True)
    tokens_per_second = float(done.stderr.split()[-1])
    return [int(word, 16) for word in done.stdout.split()], NEW/tokens_per_second


# ---- the measurement

def measure(model, batch, rounds, run_c=None):
    "Measure one batch size"
    prompt = torch.full((batch, 1), FIRST)
    candidates = build({"tinyrope": partial(tinyrope, model, prompt),
                        "tinyrope, compiled": partial(tinyrope, model, prompt, compiled=True),
                        "transformers": partial(transformers, model, prompt)})
    ids = {name: generate().tolist() for name, generate in candidates.items()}
    if run_c:
        candidates["llama2.c"] = lambda: run_c()[1]
        ids["llama2.c"] = [run_c()[0]]
    own = ids["tinyrope"]
    assert len(own[0]) == NEW and all(found == own for found in ids.values()), \
        f"the tokens differ: {ids}"
    rows = compare(take_turns(candidates, rounds), PEER, tokens=batch*NEW)
    return dict(batch_size=batch, same_tokens=list(ids), distinct_tokens=len(set(own[0])),
                rows=rows)


def main():
    p = speed_parser(__doc__, "results/decoding.json", rounds=9)
    p.add_argument("--run-c", metavar="PATH", help="program built from llama2.c's run.c")
    p.add_argument("--threads", type=int, default=1, help="default: 1")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model, groups = varied_model(), {}
    if not a.run_c: print("left out: llama2.c (give its program with --run-c)")
    with tempfile.TemporaryDirectory() as folder:
        write_run_c(model, Path(folder))
        other = partial(run_c, a.run_c, folder, a.threads) if a.run_c else None
        for batch in (1, 16):
            found = measure(model, batch, a.rounds, other if batch == 1 else None)
            groups[f"batch {batch}"] = found
            show(f"batch {batch}, {NEW} tokens", found["rows"])
    write_groups(a.out, groups, PACKAGES, rounds=a.rounds, peer=PEER, seed=SEED,
                 model=vars(CONFIG), new_tokens=NEW, threads=a.threads)


if __name__ == "__main__": main()
