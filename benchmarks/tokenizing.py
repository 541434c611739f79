"""Speed of tokenizing a corpus: `python benchmarks/tokenizing.py` writes results/tokenizing.json.

The training stories are turned into token ids by `tinyrope.store.build_store`, which leaves a file
of them, checked by its hash; by `datasets`' `map`, which leaves an Arrow file; and by transformers'
`PreTrainedTokenizerFast`, a thousand stories at a time, and a loop over `Tokenizer.encode`, both of
which leave lists in memory. All use one byte-level BPE tokenizer of 4,096 words and as many threads
as they take by themselves (RAYON_NUM_THREADS limits them). That all find the same tokens is
asserted first; the end-of-text that tinyrope adds to each story is not counted."""
import os
import tempfile
from functools import partial
from itertools import chain, count
from pathlib import Path

import numpy as np
from common import build, compare, show, speed_parser, take_turns, write_groups
from tinyrope.corpora import load_stories
from tinyrope.data import train_bpe
from tinyrope.store import EOT, build_store

VOCAB_SIZE, PEER = 4096, "transformers"
PACKAGES = ("tinyrope", "transformers", "datasets", "pyarrow")


# ---- candidates: each a function that tokenizes, and one that finds the ids in what it returns

def flat(lists):
    "Join lists of ids to one array"
    return np.fromiter(chain.from_iterable(lists), np.int64)


def tinyrope(stories, tokenizer, folder):
    "Tokenizing by tinyrope, and its ids"
    fresh, eot = count(), tokenizer.token_to_id(EOT)
    def run(): return build_store(stories, tokenizer, folder/f"store-{next(fresh)}")
    def ids_of(store):
        ids = store[:]
        return ids[ids != eot].astype(np.int64)
    return run, ids_of


def loop(stories, tokenizer, folder):
    "Tokenizing story by story, and its ids"
    def run(): return [tokenizer.encode(story, add_special_tokens=False).ids for story in stories]
    return run, flat


def batch_encoder(tokenizer):
    "A function from texts to lists of ids, by transformers"
    from transformers import PreTrainedTokenizerFast
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    options = dict(add_special_tokens=False, return_attention_mask=False,
                   return_token_type_ids=False)
    return lambda texts: fast(texts, **options)["input_ids"]


def transformers(stories, tokenizer, folder):
    "Tokenizing by transformers, and its ids"
    encode, stories = batch_encoder(tokenizer), list(stories)
    def run():
        parts = (stories[i:i+1000] for i in range(0, len(stories), 1000))
        return [ids for part in parts for ids in encode(part)]
    return run, flat


def datasets(stories, tokenizer, folder):
    "Tokenizing by datasets with the tokenizer of transformers, and its ids"
    from datasets import Dataset, disable_progress_bars
    disable_progress_bars()
    encode, fresh = batch_encoder(tokenizer), count()
    data = Dataset.from_dict({"text": list(stories)})
    def encode_rows(rows): return {"input_ids": encode(rows["text"])}
    def run():
        return data.map(encode_rows, batched=True, remove_columns="text",
                        load_from_cache_file=False,
                        cache_file_name=str(folder/f"map-{next(fresh)}.arrow"))
    return run, lambda result: flat(result["input_ids"])


MAKERS = {"tinyrope": tinyrope, "transformers": transformers, "datasets": datasets,
          "loop over encode": loop}


# ---- the measurement

def measure(stories, rounds):
    "Measure the tokenizing of stories, after asserting that all find the same tokens"
    tokenizer = train_bpe(stories, VOCAB_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        makers = {name: partial(make, stories, tokenizer, Path(folder))
                  for name, make in MAKERS.items()}
        candidates = build(makers)
        ids = {name: ids_of(run()) for name, (run, ids_of) in candidates.items()}
        same = all(np.array_equal(found, ids["tinyrope"]) for found in ids.values())
        assert same, f"the tokens differ: {ids}"
        seconds = take_turns({name: run for name, (run, _) in candidates.items()}, rounds)
    n = len(ids["tinyrope"])
    megabytes = sum(len(story.encode()) for story in stories)/1e6
    rows = compare(seconds, PEER, tokens=n, megabytes=megabytes)
    return dict(stories=len(stories), tokens=n, megabytes=megabytes, same_tokens=list(ids),
                rows=rows)


def main():
    a = speed_parser(__doc__, "results/tokenizing.json", rounds=5).parse_args()
    found = measure(load_stories("train"), a.rounds)
    title = f"{found['stories']:,} stories, {found['tokens']:,} tokens, {found['megabytes']:.1f} MB"
    show(title, found["rows"])
    threads = int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count()))
    write_groups(a.out, {"train": found}, PACKAGES, rounds=a.rounds, peer=PEER, seed=None,
                 vocab_size=VOCAB_SIZE, threads=threads)


if __name__ == "__main__": main()
