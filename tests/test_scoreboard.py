"""Tokenizers that fail in Rust, where Python's `except Exception` does not reach."""
import pytest
from tinyrope.data import load_tokenizer
from tinyrope.model import SIZES, Transformer
from tinyrope.scoreboard import HFTokenizer, check_tokens, read_hf
from tinyrope.store import EOT
from tokenizers import Regex, Tokenizer, pre_tokenizers


@pytest.fixture
def endless():
    "A tokenizer whose regular expression takes time exponential in the length of a run of a's"
    tokenizer = Tokenizer.from_str(load_tokenizer("gpt2").to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    return tokenizer


def of_hugging_face(tokenizer):
    "The same tokenizer, as transformers wraps it"
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOT)
    return HFTokenizer(fast)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_regular_expression_without_end_is_told_in_one_sentence(endless, wrapped):
    "The panic of the library becomes a ValueError"
    tokenizer = of_hugging_face(endless) if wrapped else endless
    with pytest.raises(ValueError, match="the tokenizer fails at this text") as e:
        check_tokens(Transformer(SIZES["smoke"]), tokenizer, ["a"*40 + "b"])
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("size", [2**62, 2**20, 0])
def test_a_header_larger_than_its_file_is_told_in_one_sentence(tmp_path, size):
    "A damaged file of weights becomes a ValueError"
    pytest.importorskip("transformers")
    (tmp_path/"config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    (tmp_path/"model.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="transformers cannot read") as e: read_hf(tmp_path)
    assert "\n" not in str(e.value)
