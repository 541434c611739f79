"""What may be typed after a command: everything that makes no sense is refused by one sentence.

All of it is typed in this process; test_commands.py starts the installed commands.
"""
import inspect
import math
import shlex
import sys
from dataclasses import fields
from typing import Literal, get_args, get_origin

import pytest
from annotated_types import Interval
from conftest import ROOT
from fastcore.script import parse_cli
from pydantic import AfterValidator
from tinyrope import commands
from tinyrope.generation import Sampling
from tinyrope.model import ModelConfig
from tinyrope.settings import Text, optional
from tinyrope.train import TrainConfig

PEER, TOK512 = ((ROOT/"benchmarks"/"peers"/name).as_posix()
                for name in ("stories260K.bin", "tok512.bin"))


# ---- values that are refused

NO_NUMBERS = ["nan", "inf", "-inf", "1e400", "True", "False", "many", "", "-5", "9"*5000,
              "9**9**9", "("*5000]


def interval(kind):
    "The limits of a number"
    found, = (rule for rule in get_args(kind) if isinstance(rule, Interval))
    return found


def beyond(limits):
    "Numbers outside of an interval, as near to it as a whole number can be"
    low = limits.gt if limits.ge is None else limits.ge - 1
    high = limits.lt if limits.le is None else limits.le + 1
    return [low] if high is None else [low, high]


def is_name(kind):
    "Is a setting the name of something in a dictionary?"
    return any(isinstance(rule, AfterValidator) for rule in get_args(kind))


def odd_values(kind):
    "Texts that no setting of this kind may have"
    if kind is bool: return ["maybe", "1", "None", "nan"]
    if get_origin(kind) is Literal or is_name(kind): return ["other", "5", "True", "nan", "inf", "x"*5000]
    if kind in (Text, optional(Text)): return [""]
    base = get_args(kind)[0]
    kinds = {base, *get_args(base)}
    fractions = ["1.5"] if int in kinds else []
    none = [] if type(None) in kinds else ["None"]
    return [*map(str, beyond(interval(kind))), *NO_NUMBERS, *fractions, *none]


def option(name, value):
    "An option as it is typed"
    return f"--{name.replace('_', '-')}={value}"


def parameters_of(command):
    "The parameters of a command, by name"
    return inspect.signature(getattr(commands, f"{command}_command")).parameters


def is_number(parameter):
    "Is a parameter of a command a number, whether limits are declared beside it or not?"
    kind = (get_args(parameter.annotation) or (parameter.annotation,))[0]
    return kind in (int, float)


COMMANDS = ("train", "generate", "evaluate", "study", "page", "export")
SETTINGS = {f.name: odd_values(f.type) for c in (ModelConfig, TrainConfig) for f in fields(c)
            if f.name not in ("seed", "init")}                  # which are options
SAMPLING = [option(f.name, odd) for f in fields(Sampling) for odd in odd_values(f.type)
            if odd != "None"]
NUMBERS = {command: [name for name, p in parameters_of(command).items() if is_number(p)]
           for command in COMMANDS}
ODD_NUMBERS = ("nan", "-1", "inf", "-inf", "many", "", "1e400", str(10**20))


# ---- typing

@pytest.fixture
def nothing_begins(monkeypatch, tmp_path):
    "Let a test fail that trains, generates or scores; it runs in an empty folder that stays so"
    def begun(*args, **kwargs): raise AssertionError("this was accepted")
    for place in ("train.prepare", "generation.Reader", "scoreboard.evaluate_stories",
                  "studies.run_study", "studies.prepare_corpora", "live.write_page"):
        monkeypatch.setattr(f"tinyrope.{place}", begun)
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.fixture
def answer(nothing_begins, monkeypatch, capsys):
    "Type a command line in this process; returns the sentence that refused it"
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))      # put back afterwards

    def type_in(name, words):
        command = getattr(commands, f"{name}_command")
        monkeypatch.setattr(sys, "argv", [f"tinyrope-{name}", *words])
        with pytest.raises(SystemExit) as stopped:
            positional, named, _ = parse_cli(command)
            command(*positional, **named)
        status, said = stopped.value.code, capsys.readouterr().err
        if status == 2: return said                             # argparse
        assert isinstance(status, str) and status.startswith("tinyrope: ")
        assert "\n" not in status and len(status) < 1500
        return status
    return type_in


# ---- values

@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_no_setting_takes_a_value_it_does_not_allow(answer, name):
    "Each refusal names the setting"
    for odd in SETTINGS[name]:
        assert f"{name} must be" in answer("train", ["--set", f"{name}={odd}"]), odd[:50]


def test_no_option_of_sampling_takes_a_value_it_does_not_allow(answer):
    "Each odd value of each option is refused"
    assert len(SAMPLING) > 50
    for words in SAMPLING:
        said = answer("generate", ["Tom", words])
        assert "must be" in said or "invalid" in said, words[:50]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_takes_a_number_that_makes_no_sense(answer, command):
    "Each odd text is refused by each option that is a number"
    asked = [] if command == "train" else ["x"]
    for name in NUMBERS[command]:
        for odd in ODD_NUMBERS:
            said = answer(command, [*asked, option(name, odd)])
            assert "must be" in said or "invalid" in said, (name, odd)


def test_there_are_numbers_to_refuse():
    "The tests above are not empty"
    assert sum(map(len, SETTINGS.values())) > 300
    assert {name for names in NUMBERS.values() for name in names} >= {
        "steps", "seed", "temperature", "max_new_tokens", "seeds", "minutes"}


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig, Sampling])
def test_every_field_refuses_what_is_of_no_kind(config):
    "Values of other types than the declared one raise ValueError"
    for f in fields(config):
        other = 1 if f.type is bool else True
        for odd in (math.nan, math.inf, -math.inf, [], {}, b"", object(), other):
            with pytest.raises(ValueError, match=f"{f.name} must be"): config(**{f.name: odd})


def test_options_of_generate_are_the_fields_of_sampling():
    "The command and the dataclass have the same names and defaults"
    options = parameters_of("generate")
    for f in fields(Sampling):
        assert f.name == "seed" or options[f.name].default == f.default, f.name


# ---- command lines

LINES = [                                       # as typed, and what the answer says
    # settings that are options
    ("train --set out=5", "use --out"),
    ("train --set device=5", "use --device"),
    ("train --set device=None", "use --device"),
    ("train --set resume=maybe", "use --resume"),
    ("train --set preset=smoke", "use --preset"),
    ("train --set seed=3", "use --seed"),
    ("train --set shard=True", "use --shard"),
    ("train --set track=wandb", "use --track"),
    ("train --set init=pytorch", "use --init"),
    # given weights
    ("train --init ''", "init must be a text"),
    ("train --init nowhere --preset smoke", "no run at nowhere"),
    ("train --init bundled --set n_layers=8", "the weights of bundled have another shape"),
    ("train --init bundled --set tokenizer=gpt2", "leave out --set tokenizer=gpt2"),
    (f"train --init '{PEER}'", "name it, e.g. --set tokenizer=tok512.bin"),
    # settings that do not fit each other
    ("train --set steps=None --set epochs=None", "give either steps or epochs"),
    ("train --set steps=None", "give either steps or epochs"),
    ("train --set steps=3 --set epochs=3", "give either steps or epochs"),
    ("train --set keep_every=30", "keep_every must be a multiple of eval_every"),
    ("train --set rope_factor=2", "needs a rope_method"),
    ("train --set n_heads=5", "n_heads must divide dim"),
    ("train --set dim=1048576 --set n_heads=3", "n_heads must divide"),
    # exports
    ("export bundled --to ggml", "--to must be one of"),
    ("export bundled --bits 9", "must be 32 or 8"),
    ("export bundled --to hf --bits 8", "hf has no 8 bits"),
    ("export bundled --to gguf --push me/stories", "can be uploaded"),
    ("export bundled --push stories", "--push must be OWNER/NAME"),
    ("export nowhere", "no run at nowhere"),
    # what does not fit into memory
    ("train --set n_layers=100000", "GB of memory"),
    ("train --set seq_len=100000000", "GB of memory"),
    ("train --set vocab_size=999999999999", "of memory"),
    ("train --set batch_size=1000000",
     "make batch_size (or accumulate larger), seq_len or n_layers smaller"),
    ("generate Tom --model bundled --max-new-tokens 100000000000",
     "make --max-new-tokens smaller"),
    # options of training
    ("train --set n_layers", "--set expects NAME=VALUE"),
    ("train --set =5", "unknown setting"),
    ("train --set learning=1", "unknown setting ['learning']"),
    ("train --set n_layers=many",
     "n_layers must be a whole number from 1 to 1,000,000,000,000, got 'many'"),
    ("train --preset desktop", "unknown preset 'desktop'"),
    ("train --preset ''", "unknown preset ''"),
    ("train --track yes", "track must be one of"),
    ("train --out ''", "out must be a text that is not empty"),
    ("train --device ''", "device must be a text"),
    ("train --device cuda:99 --preset smoke", "is not available here"),
    ("train --steps 0", "steps must be"),
    ("train more", "unrecognized"),
    # of generation
    ("generate", "required: prompt"),
    ("generate ' ' --model bundled", "the prompt is empty"),
    ("generate --n 1 ''", "the prompt is empty"),
    ("generate 'Tom \udcff'", "not valid UTF-8"),
    ("generate 'Tom \udcff' --model bundled", "the prompt is not valid UTF-8"),
    (f"generate '{'and then '*600}' --model bundled", "shorten the prompt"),
    ("generate Tom --extend more", "extend must be one of"),
    ("generate Tom --n 0", "n must be"),
    ("generate Tom --device tpu", "is not available here"),
    ("generate Tom --model ''", "model must be a text"),
    ("generate Tom --model nowhere", "no run at nowhere"),
    (f"generate Tom --model '{PEER}'", "add --tokenizer"),
    ("generate Tom --model bundled --temperature -1",
     "temperature must be a finite number from 0 to 100, got -1.0"),
    ("generate Tom --model bundled --top-p 2",
     "top_p must be a finite number from 1e-06 to 1, got 2.0"),
    # of evaluation
    ("evaluate", "required: model"),
    ("evaluate bundled", "give either --text, a file, or --split"),
    ("evaluate bundled --text a --split b", "give either --text"),
    ("evaluate bundled --text missing.txt", "no file missing.txt"),
    ("evaluate bundled --split ''", "split must be a text"),
    ("evaluate bundled --split dev", "has splits ['train', 'valid', 'test'], got 'dev'"),
    ("evaluate nowhere --split valid", "no run at nowhere"),
    (f"evaluate bundled --split valid --tokenizer '{TOK512}'", "leave --tokenizer out"),
    (f"evaluate '{PEER}' --split valid", "add --tokenizer"),
    (f"evaluate '{PEER}' --split valid --tokenizer missing.bin", "no file missing.bin"),
    (f"evaluate '{PEER}' --split valid --tokenizer '{PEER}'", "is not a llama2.c tokenizer"),
    (f"evaluate '{TOK512}' --split valid", "is not a llama2.c model"),
    # of studies
    ("study width", "unknown study 'width'"),
    ("study depth --size huge", "unknown size 'huge'"),
    ("study depth --seeds 1", "seeds must be a whole number from 2 to 1,000, got 1"),
    ("study arms --minutes nan", "minutes must be a finite number"),
    ("study web", "add --web FILE"),
    ("study none.py", "no file none.py"),
    ("study arms --out ''", "out must be a text"),
    ("study arms --folder ''", "folder must be a text"),
    ("study arms --size ''", "size must be a text"),
]


def short(line):
    "A line of the table, as the name of its test"
    return line.encode("ascii", "replace").decode().replace(f"{ROOT.as_posix()}/", "")[:60]


@pytest.mark.parametrize("line, says", LINES, ids=[short(line) for line, _ in LINES])
def test_odd_command_lines_are_refused(answer, line, says):
    "The answer says what is wrong, and nothing was begun"
    name, *words = shlex.split(line)
    assert says in answer(name, words)
