"""Training speed beside `transformers`' Llama of the same shape: `python benchmarks/training_step.py`.

Each step is forward, backward, clipping and AdamW in fp32 on the same tokens. Rounds are interleaved, so that a noisy machine disturbs both
alike; medians and their ratio are printed and written to results/training_step.json."""
import argparse
import json
import os
import platform
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch
import transformers
from laptop import cpu_name
from tinyrope.model import ModelConfig, Transformer
from tinyrope.train import TrainConfig, make_optimizers
from transformers import LlamaConfig, LlamaForCausalLM


PEER = "transformers Llama, AdamW"


def ours(c, optimizer, compiled=False):
    "A training step of tinyrope"
    model = Transformer(c)
    optimizers = make_optimizers(model, TrainConfig(optimizer=optimizer))
    forward = torch.compile(model) if compiled else model

    def step(tokens):
        forward(tokens[:, :-1], tokens[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        for o in optimizers:
            o.step()
            o.zero_grad()
    return step


def llama(c, compiled=False):
    "A training step of transformers' Llama"
    model = LlamaForCausalLM(LlamaConfig(vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.hidden_dim, num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads, num_key_value_heads=c.n_kv_heads, max_position_embeddings=c.seq_len, tie_word_embeddings=True, use_cache=False)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    forward = torch.compile(model) if compiled else model

    def step(tokens):
        targets = tokens[:, 1:].contiguous()
        forward(input_ids=tokens[:, :-1], labels=targets, shift_labels=targets).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        optimizer.step()
        optimizer.zero_grad()
    return step


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--rows", type=int, default=16)
    p.add_argument("--out", default="results/training_step.json")
    a = p.parse_args()
    torch.manual_seed(0)
    c = ModelConfig()
    steps = {"tinyrope, AdamW": ours(c, "adamw"), "tinyrope, AdamW, compiled": ours(c, "adamw", True), "tinyrope, Muon, compiled (the default run)": ours(c, "muon", True),
             PEER: llama(c), f"{PEER}, compiled": llama(c, True)}
    times = {name: [] for name in steps}
    for r in range(a.rounds + 2):
        tokens = torch.randint(c.vocab_size, (a.rows, c.seq_len + 1))
        for name, step in steps.items():
            start = time.perf_counter()
            step(tokens)
            if r >= 2: times[name].append(time.perf_counter() - start)
    speed = {name: round(a.rows*c.seq_len/median(t)) for name, t in times.items()}
    result = dict(command="python benchmarks/training_step.py", rounds=a.rounds, rows=a.rows, threads=torch.get_num_threads(), cpu=cpu_name(), cores=os.cpu_count(), seed=0,
                  versions=dict(python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__), date=str(date.today()), tokens_per_second=speed, ratio={n: round(s/speed[PEER], 2) for n, s in speed.items()}, seconds=times)
    Path(a.out).parent.mkdir(exist_ok=True)
    Path(a.out).write_text(json.dumps(result, indent=1))
    for name, s in speed.items(): print(f"{name:45} {s:8,} tokens/s  {s/speed[PEER]:.2f} x")


if __name__ == "__main__": main()
