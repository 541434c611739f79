"""Speed of tokenizing a corpus: `python benchmarks/tokenizing.py` writes results/tokenizing.json.

The training stories are turned into token ids by `tinyrope.data.build_store`, which leaves a file of them, checked by its hash; by `datasets`' `map`,
which leaves an Arrow file; and by transformers' `PreTrainedTokenizerFast`, a thousand stories at a time, and a loop over `Tokenizer.encode`, both of
which leave lists in memory. All use one byte-level BPE tokenizer of 4,096 words and as many threads as they take by themselves (RAYON_NUM_THREADS
limits them). That all find the same tokens is asserted first; the end-of-text that tinyrope adds to each story is not counted."""
import os
import tempfile
from functools import partial
from itertools import chain, count
from pathlib import Path

import numpy as np
from common import build, compare, parser, show, take_turns, write
from tinyrope.corpora import load_stories
from tinyrope.data import train_bpe
from tinyrope.store import EOT, build_store

VOCAB_SIZE, PEER = 4096, "transformers"
PACKAGES = ("torch", "tinyrope", "tokenizers", "transformers", "datasets", "pyarrow")


def flat(lists):
    "Join lists of ids to one array"
    return np.fromiter(chain.from_iterable(lists), np.int64)


def tinyrope(stories, tokenizer, folder):
    "Tokenizing by tinyrope, and its ids"
    fresh, eot = count(), tokenizer.token_to_id(EOT)
    return lambda: build_store(stories, tokenizer, folder/f"store-{next(fresh)}"), lambda store: store[:][store[:] != eot].astype(np.int64)


def loop(stories, tokenizer, folder):
    "Tokenizing story by story, and its ids"
    return lambda: [tokenizer.encode(story, add_special_tokens=False).ids for story in stories], flat


def batch_encoder(tokenizer):
    "A function from texts to lists of ids, by transformers"
    from transformers import PreTrainedTokenizerFast
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return lambda texts: fast(texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)["input_ids"]


def transformers(stories, tokenizer, folder):
    "Tokenizing by transformers, and its ids"
    encode, stories = batch_encoder(tokenizer), list(stories)
    return lambda: [ids for i in range(0, len(stories), 1000) for ids in encode(stories[i:i+1000])], flat


def datasets(stories, tokenizer, folder):
    "Tokenizing by datasets with the tokenizer of transformers, and its ids"
    from datasets import Dataset, disable_progress_bars
    disable_progress_bars()
    encode, data, fresh = batch_encoder(tokenizer), Dataset.from_dict({"text": list(stories)}), count()
    def run(): return data.map(lambda rows: {"input_ids": encode(rows["text"])}, batched=True, remove_columns="text", load_from_cache_file=False,
                               cache_file_name=str(folder/f"map-{next(fresh)}.arrow"))
    return run, lambda result: flat(result["input_ids"])


def main():
    p = parser(__doc__, "tokenizing", rounds=5)
    a = p.parse_args()
    stories = load_stories("train")
    tokenizer, megabytes = train_bpe(stories, VOCAB_SIZE), sum(len(story.encode()) for story in stories)/1e6
    with tempfile.TemporaryDirectory() as folder:
        makers = {"tinyrope": tinyrope, "transformers": transformers, "datasets": datasets, "loop over encode": loop}
        candidates = build({name: partial(make, stories, tokenizer, Path(folder)) for name, make in makers.items()})
        ids = {name: ids_of(run()) for name, (run, ids_of) in candidates.items()}
        assert all(np.array_equal(found, ids["tinyrope"]) for found in ids.values()), f"the tokens differ: {ids}"
        seconds = take_turns({name: run for name, (run, _) in candidates.items()}, a.rounds)
    n = len(ids["tinyrope"])
    rows = compare(seconds, PEER, tokens=n, megabytes=megabytes)
    groups = {"train": dict(stories=len(stories), tokens=n, megabytes=megabytes, same_tokens=list(ids), rows=rows)}
    show(f"{len(stories):,} stories, {n:,} tokens, {megabytes:.1f} MB", groups["train"]["rows"])
    threads = int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count()))
    write(a.out, groups, PACKAGES, rounds=a.rounds, peer=PEER, seed=None, vocab_size=VOCAB_SIZE, threads=threads)


if __name__ == "__main__": main()
