"""Run folders that were damaged, edited or prepared by someone else: a run says so, loses nothing silently, and goes on or is refused."""
import errno
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from tinyrope.checkpoint import Run
from tinyrope.train import train

HOW = dict(device="cpu", eval_every=10, max_stories=60)
TIMES = ("seconds", "tokens_per_second", "mfu", "first_step_seconds")
DIVERGING = dict(HOW, learning_rate=1000., steps=20)            # the loss stays a number, but e to the loss is none


def timeless(folder):
    "The rows of metrics.jsonl without the columns that hold times"
    rows = [json.loads(line) for line in (folder/"metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def spoil(path, at=5000):
    "Change one byte of a file"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def reseal(checkpoint, name, content):
    "Give a checkpoint another file, and the checksum that belongs to it"
    (checkpoint/name).write_bytes(content)
    sums = json.loads((checkpoint/"sha256.json").read_text())
    sums[name] = hashlib.sha256(content).hexdigest()
    (checkpoint/"sha256.json").write_text(json.dumps(sums))


@pytest.fixture(scope="module")
def straight(tmp_path_factory, environment):
    "A finished run that nobody disturbed"
    os.environ["TINYROPE_CACHE"] = environment["TINYROPE_CACHE"]
    folder = tmp_path_factory.mktemp("straight")/"run"
    assert train("smoke", out=folder, **HOW).result["best_step"] == 40
    return folder


@pytest.fixture
def run(straight, tmp_path):
    "A copy of it, to be damaged"
    return Path(shutil.copytree(straight, tmp_path/"run"))


def resume(folder, **settings): return train("smoke", out=folder, resume=True, **HOW, **settings)


def unfinished(folder, step=30):
    "Take a run back to where it was when it had been killed after a step"
    for checkpoint in (folder/"checkpoints").iterdir():
        if int(checkpoint.name[5:]) > step: shutil.rmtree(checkpoint)
    for name in ("model.safetensors", "result.json", "curves.png"): (folder/name).unlink()


def make_best(folder, step):
    "Let a run believe that its best evaluation was another one"
    for checkpoint in (folder/"checkpoints").iterdir():
        progress = json.loads((checkpoint/"progress.json").read_text())
        reseal(checkpoint, "progress.json", json.dumps(progress | dict(best_step=step, best_loss=.5)).encode())


# one run, one writer

def test_a_run_that_is_being_written_is_refused_and_free_afterwards(straight, tmp_path, monkeypatch):
    import tinyrope.train as module
    told, real = [], module.Recorder.report
    def meddle(*args):
        with pytest.raises(FileExistsError) as e: resume(tmp_path/"run")
        told.append(str(e.value))
        return real(*args)
    monkeypatch.setattr(module.Recorder, "report", meddle)
    train("smoke", out=tmp_path/"run", **HOW)
    assert len(told) == 4 and f"is being written by process {os.getpid()} on " in told[0]
    assert timeless(tmp_path/"run") == timeless(straight)
    monkeypatch.setattr(module.Recorder, "report", real)
    resume(tmp_path/"run")


# the best checkpoint

def test_a_best_checkpoint_damaged_while_the_run_was_stopped(run, straight, capsys):
    make_best(run, 30)
    spoil(run/"checkpoints"/"step-0000030"/"model.safetensors")
    resume(run)
    assert "the best checkpoint, step-0000030" in capsys.readouterr().out
    assert Run(run).result["best_step"] == 40
    assert (run/"model.safetensors").read_bytes() == (straight/"model.safetensors").read_bytes()


def test_a_best_checkpoint_damaged_while_the_run_goes_on_is_not_sealed(straight, tmp_path, monkeypatch, capsys):
    import tinyrope.train as module
    real, folder = module.fit, tmp_path/"run"
    def damaging(t, *args):
        done = real(t, *args)
        spoil(folder/"checkpoints"/"step-0000040"/"model.safetensors")
        return done
    monkeypatch.setattr(module, "fit", damaging)
    run = train("smoke", out=folder, **HOW)
    assert run.result["best_step"] == 30 and "is damaged" in capsys.readouterr().out
    assert (folder/"model.safetensors").read_bytes() == (straight/"checkpoints"/"step-0000030"/"model.safetensors").read_bytes()


def test_the_best_weights_are_written_one_at_a_time(tmp_path, environment, monkeypatch):
    import torch.distributed.checkpoint as dcp
    real, held = dcp.load, []
    def noting(tensors, **more):
        held.append(sum(t.numel() for t in tensors.values()))
        return real(tensors, **more)
    monkeypatch.setattr(dcp, "load", noting)
    run = train("smoke", out=tmp_path/"run", **HOW | dict(steps=10))
    assert held and max(held) == max(p.numel() for p in run.model.parameters())


# the log

@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("how", ["a broken character", "another number", "emptied", "deleted", "cut"])
def test_a_damaged_log_is_told_and_comes_back(run, straight, capsys, name, how):
    before = (run/name).read_text()
    unfinished(run)
    rows = before.splitlines(keepends=True)
    changed = {"a broken character": "".join([*rows[:2], rows[2].replace(":", ";", 1), *rows[3:]]),
               "another number": before.replace('"step": 30', '"step": 29', 1), "emptied": "", "deleted": None, "cut": before[:100]}[how]
    if changed is None: (run/name).unlink()
    else: (run/name).write_text(changed)
    resume(run)
    printed = capsys.readouterr().out
    if name == "metrics.jsonl": assert timeless(run) == timeless(straight)
    else: assert (run/name).read_text() == before
    assert f"{name} is " in printed
    if changed: assert "row" in printed and (run/f"{name}.damaged-1").read_text() == changed


def test_an_emptied_history_of_a_finished_run_comes_back(run, straight, capsys):
    (run/"metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="metrics.jsonl is empty or gone"): Run(run).best
    resume(run)
    assert timeless(run) == timeless(straight) and "restored from step-0000040" in capsys.readouterr().out


def test_a_broken_row_is_named_to_readers(run):
    text = (run/"metrics.jsonl").read_text().replace("{", "[", 1)
    (run/"metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match="row 1 of .*metrics.jsonl is damaged"): Run(run).metrics


def test_rows_are_synced_before_the_checkpoint_that_counts_on_them(tmp_path, environment, monkeypatch):
    synced, real = [], os.fsync
    def noting(fd):
        synced.append(os.fstat(fd).st_ino)
        real(fd)
    monkeypatch.setattr(os, "fsync", noting)
    train("smoke", out=tmp_path/"run", **HOW | dict(steps=10))
    place = [(tmp_path/"run"/name).stat().st_ino for name in ("metrics.jsonl", "checkpoints")]
    assert place[0] in synced and synced.index(place[0]) < synced.index(place[1])


def test_metrics_are_plain_rows_for_pandas(straight):
    pandas = pytest.importorskip("pandas")
    assert list(pandas.read_json(straight/"metrics.jsonl", lines=True)["step"]) == [10, 20, 30, 40]


# a run of the version before: no checksum in config.json, no log in checkpoints

@pytest.fixture
def earlier(run):
    config = json.loads((run/"config.json").read_text())
    config.pop("sha256", None)
    (run/"config.json").write_text(json.dumps(config, indent=1))
    for checkpoint in (run/"checkpoints").iterdir():
        sums = json.loads((checkpoint/"sha256.json").read_text())
        for name in ("metrics.jsonl", "samples.jsonl"):
            (checkpoint/name).unlink(missing_ok=True)
            sums.pop(name, None)
        (checkpoint/"sha256.json").write_text(json.dumps(sums))
        reseal(checkpoint, "config.json", json.dumps(config, indent=1).encode())
    return run


def test_an_earlier_run_opens_and_resumes_to_the_bit(earlier, straight):
    assert Run(earlier).result == Run(straight).result
    unfinished(earlier)
    resume(earlier)
    assert timeless(earlier) == timeless(straight)
    assert (earlier/"model.safetensors").read_bytes() == (straight/"model.safetensors").read_bytes()


def test_an_earlier_run_with_a_broken_row_keeps_the_others_and_a_copy(earlier, capsys):
    rows = (earlier/"metrics.jsonl").read_text().splitlines(keepends=True)
    damaged = "".join([rows[0], rows[1].replace(":", ";", 1), *rows[2:]])
    (earlier/"metrics.jsonl").write_text(damaged)
    resume(earlier)
    assert [row["step"] for row in timeless(earlier)] == [10, 30, 40]
    assert "damaged in row 2" in capsys.readouterr().out and (earlier/"metrics.jsonl.damaged-1").read_text() == damaged


@pytest.mark.parametrize("gone", [True, False])
def test_an_earlier_run_without_its_history_ends_all_the_same(earlier, capsys, gone):
    if gone: (earlier/"metrics.jsonl").unlink()
    else: (earlier/"metrics.jsonl").write_text("")
    for _ in range(2): resume(earlier)
    assert "that history is lost" in capsys.readouterr().out


# a run that diverges

def test_a_diverged_run_ends_in_a_sentence_each_time(tmp_path, environment):
    for resuming in (False, True, True):
        with pytest.raises(FloatingPointError, match="lower learning rate"): train("smoke", out=tmp_path/"hot", resume=resuming, **DIVERGING)


# what is read is checked

@pytest.mark.parametrize("part, name, value", [("model", "rope_base", 20000.), ("model", "position", "alibi"), ("train", "seed", 1)])
def test_an_edited_configuration_is_refused(run, part, name, value):
    config = json.loads((run/"config.json").read_text())
    config[part][name] = value
    (run/"config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json is damaged .*edited"): Run(run).model


def test_an_edited_packed_run_is_refused(tmp_path):
    folder = Path(shutil.copytree(Run("bundled").folder, tmp_path/"packed"))
    text = (folder/"config.json").read_text()
    (folder/"config.json").write_text(text.replace('"rope_base": 10000.0', '"rope_base": 20000.0'))
    with pytest.raises(ValueError, match="about.json has another checksum"): Run(folder).model


KINDS = [b"null", b"[]", b"{}", b"{", b"[" * 10**5]


@pytest.mark.parametrize("content", KINDS)
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_json_of_another_kind_ends_in_a_sentence(run, name, content):
    (run/name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} (is damaged|holds neither)"): Run(run).result
    if name == "config.json":
        with pytest.raises(ValueError, match=name): resume(run)


@pytest.mark.parametrize("change", [dict(model=None), dict(train=[]), dict(model=dict(wings=2)), dict(model=dict(dim="wide")), dict(train=dict(wings=2))])
def test_fields_of_another_kind_in_config_json_end_in_a_sentence(earlier, change):
    config = json.loads((earlier/"config.json").read_text())
    part, value = next(iter(change.items()))
    config[part] = config[part] | value if value else value
    (earlier/"config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json is"): resume(earlier)


@pytest.mark.parametrize("content", [*KINDS, b'{"step": 40, "wings": 2}', b'{"step": "40"}', b'{"step": 39}'])
@pytest.mark.parametrize("name", ["progress.json", "sha256.json"])
def test_damaged_records_of_a_checkpoint_are_named_and_passed_over(run, straight, capsys, name, content):
    newest = run/"checkpoints"/"step-0000040"
    if name == "progress.json": reseal(newest, name, content)
    else: (newest/name).write_bytes(content)
    resume(run)
    assert "checkpoint step-0000040 is damaged" in capsys.readouterr().out
    assert timeless(run) == timeless(straight)


@pytest.mark.parametrize("content", [b"null\n", b"[1]\n", b"{}\n", b'{"step": "many"}\n'])
def test_rows_of_another_kind_end_in_a_sentence(run, content):
    (run/"metrics.jsonl").write_bytes(content + (run/"metrics.jsonl").read_bytes())
    with pytest.raises(ValueError, match="row 1 of .*metrics.jsonl is damaged"): Run(run).best


def test_a_foreign_config_json_is_no_run(tmp_path, environment):
    (tmp_path/"llama").mkdir()
    (tmp_path/"llama"/"config.json").write_text('{"model_type": "llama"}')
    for resuming in (True, False):
        with pytest.raises(ValueError, match="is no run of tinyrope"): train("smoke", out=tmp_path/"llama", resume=resuming, **HOW)


# links, strangers and leftovers

@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "curves.png", "config.json", "last", "model.safetensors", ".lock", "checkpoints/.step-0000050"])
def test_links_in_a_run_folder_are_refused(run, tmp_path, name):
    outside = tmp_path/"outside"
    shutil.move(run/name, outside) if (run/name).is_file() else outside.write_text("mine")
    content = outside.read_bytes()
    (run/name).unlink(missing_ok=True)
    (run/name).symlink_to(outside)
    with pytest.raises(ValueError, match="is a link"): resume(run)
    assert outside.read_bytes() == content


def test_only_what_the_run_wrote_is_removed(run, straight):
    checkpoints = run/"checkpoints"
    for name in ("step-0000020-backup", "zstep-notes", "step-0000050.txt", "step-best"): (checkpoints/name).mkdir()
    (checkpoints/"notes.txt").write_text("mine")
    for name in (".step-0000050", "step-0000060"): (checkpoints/name).mkdir()
    for name in (".model.safetensors-a1b2c3d4", ".last-12345678", ".model.safetensors-copy"): (run/name).write_text("half")
    resume(run)
    assert {c.name for c in checkpoints.iterdir()} == {"step-0000030", "step-0000040", "step-0000020-backup", "zstep-notes", "step-0000050.txt", "step-best", "notes.txt"}
    assert not (run/".model.safetensors-a1b2c3d4").exists() and not (run/".last-12345678").exists()
    assert (run/".model.safetensors-copy").exists()
    assert timeless(run) == timeless(straight)


def test_further_weights_in_a_checkpoint_are_refused(run, straight):
    unfinished(run, 40)
    newest = run/"checkpoints"/"step-0000040"
    shutil.copy(run/"checkpoints"/"step-0000030"/"model.safetensors", newest/"a.safetensors")
    with pytest.raises(ValueError, match="a.safetensors has no checksum"): Run(run).model
    with pytest.raises(ValueError, match="a.safetensors has no checksum"): resume(run)
    assert (newest/"a.safetensors").exists()


class Bomb:
    def __reduce__(self): return os.mkdir, ("unpickled",)


def test_a_pickle_with_right_checksums_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unfinished(run, 40)
    reseal(run/"checkpoints"/"step-0000040", "model.safetensors", pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="cannot be read as weights of this model"): resume(run)
    with pytest.raises(ValueError, match="cannot be read as weights of this model"): Run(run).model
    assert not Path("unpickled").exists()


def test_a_tokenizer_of_the_users_own_is_not_written_over(tmp_path, environment):
    (tmp_path/"mine").mkdir()
    (tmp_path/"mine"/"tokenizer.json").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a run"): train("smoke", out=tmp_path/"mine", **HOW)
    assert (tmp_path/"mine"/"tokenizer.json").read_text() == "mine"


# late, or unclear

def test_a_folder_that_cannot_be_written_is_told_before_tokenizing(tmp_path, environment, monkeypatch):
    import tinyrope.train as module
    monkeypatch.setattr(module, "prepare", lambda *args: pytest.fail("text was read before"))
    (tmp_path/"file").write_text("")
    with pytest.raises(OSError, match="cannot be written to"): train("smoke", out=tmp_path/"file"/"run", **HOW)


def test_a_context_of_one_token_is_refused_before_training(tmp_path, environment):
    with pytest.raises(ValueError, match="seq_len must be"): train("smoke", out=tmp_path/"run", seq_len=1, **HOW | dict(steps=2))
    assert not (tmp_path/"run").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "model.safetensors", "last"])
def test_a_full_disk_names_the_file(tmp_path, environment, monkeypatch, name):
    real = os.fsync
    def full(fd):
        target = os.readlink(f"/proc/self/fd/{fd}")
        if Path(target).name in (name, *(f for f in [Path(target).name] if f.startswith(f".{name}-"))) and "checkpoints" not in target:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)
    if not Path("/proc/self/fd").exists(): pytest.skip("asks Linux which file is synced")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"the disk is full: .*{name} was not written"): train("smoke", out=tmp_path/"run", **HOW | dict(steps=10))
    monkeypatch.setattr(os, "fsync", real)
    train("smoke", out=tmp_path/"run", resume=True, **HOW | dict(steps=10))
    assert not [p for p in (tmp_path/"run").iterdir() if p.name.startswith(f".{name}-")]
