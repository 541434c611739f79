"""Run folders that were damaged, edited or prepared by someone else.

A run says so, loses nothing silently, and goes on or is refused.
"""
import errno
import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import tinyrope.train as training
from conftest import log, rows, same_weights
from tinyrope.checkpoint import Run
from tinyrope.train import train

HOW = dict(device="cpu", eval_every=10, max_stories=60)
QUICK = HOW | dict(steps=10)
DIVERGING = HOW | dict(learning_rate=1000., steps=20)   # e to the loss is no number


# ---- how to damage a run

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


def edit_json(path, change):
    "Let a function change what a JSON file holds"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=1))


def checkpoints(folder):
    "The checkpoints of a run, the oldest first"
    return sorted((folder/"checkpoints").iterdir())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    "A finished run that nobody disturbed"
    folder = tmp_path_factory.mktemp("straight")/"run"
    assert train("smoke", out=folder, **HOW).result["best_step"] == 40
    return folder


@pytest.fixture
def run(straight, tmp_path):
    "A copy of it, to be damaged"
    return Path(shutil.copytree(straight, tmp_path/"run"))


def resume(folder):
    "Go on with a run"
    return train("smoke", out=folder, resume=True, **HOW)


def unfinished(folder, step=30):
    "Take a run back to where it was when it had been killed after a step"
    for checkpoint in checkpoints(folder):
        if int(checkpoint.name[5:]) > step: shutil.rmtree(checkpoint)
    for name in ("model.safetensors", "result.json", "curves.png"): (folder/name).unlink()


def make_best(folder, step):
    "Let a run believe that its best evaluation was another one"
    for checkpoint in checkpoints(folder):
        progress = json.loads((checkpoint/"progress.json").read_text())
        progress |= dict(best_step=step, best_loss=.5)
        reseal(checkpoint, "progress.json", json.dumps(progress).encode())


# ---- one run, one writer

@pytest.fixture
def meddled(tmp_path, monkeypatch):
    "A run that another tried to resume at each evaluation; and what the other was told"
    folder, told, real = tmp_path/"run", [], training.Recorder.report
    def meddle(*args):
        with pytest.raises(FileExistsError) as e: resume(folder)
        told.append(str(e.value))
        return real(*args)
    with monkeypatch.context() as changed:
        changed.setattr(training.Recorder, "report", meddle)
        train("smoke", out=folder, **HOW)
    return folder, told


def test_a_run_that_is_being_written_is_refused_and_free_afterwards(straight, meddled):
    "The other is told who writes, and changes nothing"
    folder, told = meddled
    assert len(told) == 4
    assert f"is being written by process {os.getpid()} on " in told[0]
    assert log(folder) == log(straight)
    resume(folder)


# ---- the best checkpoint

def test_a_best_checkpoint_damaged_while_the_run_was_stopped(run, straight, capsys):
    "It is named, and the best that is whole takes its place"
    make_best(run, 30)
    spoil(run/"checkpoints"/"step-0000030"/"model.safetensors")
    resume(run)
    assert "the best checkpoint, step-0000030" in capsys.readouterr().out
    assert Run(run).result["best_step"] == 40
    assert same_weights(run, straight)


def test_a_best_checkpoint_damaged_before_the_end_is_not_sealed(
        straight, tmp_path, monkeypatch, capsys):
    "The one that was the best before it is sealed"
    folder, real = tmp_path/"run", training.fit
    def damaging(*args):
        done = real(*args)
        spoil(folder/"checkpoints"/"step-0000040"/"model.safetensors")
        return done
    monkeypatch.setattr(training, "fit", damaging)
    assert train("smoke", out=folder, **HOW).result["best_step"] == 30
    assert "is damaged" in capsys.readouterr().out
    assert same_weights(folder, straight/"checkpoints"/"step-0000030")


def test_the_best_weights_are_written_one_at_a_time(tmp_path, monkeypatch):
    "No more than the largest tensor is in memory twice"
    import torch.distributed.checkpoint as dcp
    real, held = dcp.load, []
    def noting(tensors, **more):
        held.append(sum(t.numel() for t in tensors.values()))
        return real(tensors, **more)
    monkeypatch.setattr(dcp, "load", noting)
    run = train("smoke", out=tmp_path/"run", **QUICK)
    assert held and max(held) == max(p.numel() for p in run.model.parameters())


# ---- the log

def broken_character(text):
    "A log whose third row is no JSON"
    first, second, third, *others = text.splitlines(keepends=True)
    return "".join([first, second, third.replace(":", ";", 1), *others])


DAMAGES = {"a broken character": broken_character,
           "another number": lambda text: text.replace('"step": 30', '"step": 29', 1),
           "emptied": lambda text: "",
           "cut": lambda text: text[:100]}


def assert_restored(folder, straight, name):
    "Assert that a log is the one of an undisturbed run"
    if name == "metrics.jsonl": assert log(folder) == log(straight)
    else: assert (folder/name).read_text() == (straight/name).read_text()


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_log_is_told_and_comes_back(run, straight, capsys, name, how):
    "What it held is kept beside it, if it held anything"
    damaged = DAMAGES[how]((run/name).read_text())
    unfinished(run)
    (run/name).write_text(damaged)
    resume(run)
    printed = capsys.readouterr().out
    assert_restored(run, straight, name)
    assert f"{name} is " in printed
    if damaged: assert "row" in printed and (run/f"{name}.damaged-1").read_text() == damaged


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_deleted_log_is_told_and_comes_back(run, straight, capsys, name):
    "The checkpoint has a copy of the log"
    unfinished(run)
    (run/name).unlink()
    resume(run)
    assert_restored(run, straight, name)
    assert f"{name} is " in capsys.readouterr().out


def test_an_emptied_history_of_a_finished_run_comes_back(run, straight, capsys):
    "Reading it raises an error; resuming restores it"
    (run/"metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="metrics.jsonl is empty or gone"): Run(run).best
    resume(run)
    assert log(run) == log(straight)
    assert "restored from step-0000040" in capsys.readouterr().out


def test_a_broken_row_is_named_to_readers(run):
    "The error says which row of which file"
    text = (run/"metrics.jsonl").read_text().replace("{", "[", 1)
    (run/"metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match="row 1 of .*metrics.jsonl is damaged"): Run(run).metrics


def test_rows_are_synced_before_the_checkpoint_that_counts_on_them(tmp_path, monkeypatch):
    "After a power cut, no checkpoint is ahead of the log"
    synced, real = [], os.fsync
    def noting(fd):
        synced.append(os.fstat(fd).st_ino)
        real(fd)
    monkeypatch.setattr(os, "fsync", noting)
    train("smoke", out=tmp_path/"run", **QUICK)
    first, then = ((tmp_path/"run"/name).stat().st_ino for name in ("metrics.jsonl", "checkpoints"))
    assert first in synced and synced.index(first) < synced.index(then)


def test_metrics_are_plain_rows_for_pandas(straight):
    "Other programs can read the log"
    pandas = pytest.importorskip("pandas")
    assert list(pandas.read_json(straight/"metrics.jsonl", lines=True)["step"]) == [10, 20, 30, 40]


# ---- a run of the version before: no checksum in config.json, no log in checkpoints

@pytest.fixture
def earlier(run):
    "The run as that version would have left it"
    edit_json(run/"config.json", lambda config: config.pop("sha256"))
    content = (run/"config.json").read_bytes()
    for checkpoint in checkpoints(run):
        reseal(checkpoint, "config.json", content)
        for name in ("metrics.jsonl", "samples.jsonl"):
            (checkpoint/name).unlink(missing_ok=True)
            edit_json(checkpoint/"sha256.json", lambda sums: sums.pop(name, None))
    return run


def test_an_earlier_run_opens_and_resumes_to_the_bit(earlier, straight):
    "What that version did not write is not missed"
    assert Run(earlier).result == Run(straight).result
    unfinished(earlier)
    resume(earlier)
    assert log(earlier) == log(straight)
    assert same_weights(earlier, straight)


def test_an_earlier_run_with_a_broken_row_keeps_the_others_and_a_copy(earlier, capsys):
    "Without a copy of the log, one row is lost, and named"
    first, second, *others = (earlier/"metrics.jsonl").read_text().splitlines(keepends=True)
    damaged = "".join([first, second.replace(":", ";", 1), *others])
    (earlier/"metrics.jsonl").write_text(damaged)
    resume(earlier)
    assert [row["step"] for row in rows(earlier)] == [10, 30, 40]
    assert "damaged in row 2" in capsys.readouterr().out
    assert (earlier/"metrics.jsonl.damaged-1").read_text() == damaged


def assert_ends_twice(folder, capsys):
    "Assert that a run without its history ends, and ends again"
    for _ in range(2): resume(folder)
    assert "that history is lost" in capsys.readouterr().out


def test_an_earlier_run_without_its_history_ends_all_the_same(earlier, capsys):
    "The loss of the history is told"
    (earlier/"metrics.jsonl").unlink()
    assert_ends_twice(earlier, capsys)


def test_an_earlier_run_with_an_empty_history_ends_all_the_same(earlier, capsys):
    "The loss of the history is told"
    (earlier/"metrics.jsonl").write_text("")
    assert_ends_twice(earlier, capsys)


# ---- a run that diverges

def test_a_diverged_run_ends_in_a_sentence_each_time(tmp_path):
    "Resuming it gives the same advice"
    for resuming in (False, True, True):
        with pytest.raises(FloatingPointError, match="lower learning rate"):
            train("smoke", out=tmp_path/"hot", resume=resuming, **DIVERGING)


# ---- what is read is checked

@pytest.mark.parametrize("part, name, value", [
    ("model", "rope_base", 20000.), ("model", "position", "alibi"), ("train", "seed", 1)])
def test_an_edited_configuration_is_refused(run, part, name, value):
    "config.json has a checksum of its own"
    edit_json(run/"config.json", lambda config: config[part].update({name: value}))
    with pytest.raises(ValueError, match="config.json is damaged .*edited"): Run(run).model


def test_an_edited_packed_run_is_refused(tmp_path):
    "The record of a packed model has a checksum of its configuration"
    folder = Path(shutil.copytree(Run("bundled").folder, tmp_path/"packed"))
    before = (folder/"config.json").read_text()
    after = before.replace('"rope_base": 10000.0', '"rope_base": 20000.0')
    assert after != before
    (folder/"config.json").write_text(after)
    with pytest.raises(ValueError, match="about.json has another checksum"): Run(folder).model


KINDS = [b"null", b"[]", b"{}", b"{", b"[" * 10**5]


@pytest.mark.parametrize("content", KINDS)
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_json_of_another_kind_ends_in_a_sentence(run, name, content):
    "Valid JSON that is no record, or too deep, is named as damaged"
    (run/name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} (is damaged|holds neither)"): Run(run).result


@pytest.mark.parametrize("content", KINDS)
def test_no_run_goes_on_with_a_configuration_of_another_kind(run, content):
    "Resuming names config.json, too"
    (run/"config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json"): resume(run)


@pytest.mark.parametrize("change", [
    dict(model=None), dict(train=[]), dict(model=dict(wings=2)), dict(model=dict(dim="wide")),
    dict(train=dict(wings=2))])
def test_fields_of_another_kind_in_config_json_end_in_a_sentence(earlier, change):
    "Without a checksum, each field is checked"
    (part, value), = change.items()
    def put(config): config[part] = config[part] | value if value else value
    edit_json(earlier/"config.json", put)
    with pytest.raises(ValueError, match="config.json is"): resume(earlier)


PROGRESS = [b'{"step": 40, "wings": 2}', b'{"step": "40"}', b'{"step": 39}']


@pytest.mark.parametrize("content", [*KINDS, *PROGRESS])
@pytest.mark.parametrize("name", ["progress.json", "sha256.json"])
def test_damaged_records_of_a_checkpoint_are_named_and_passed_over(
        run, straight, capsys, name, content):
    "The checkpoint before it is used, and the run comes out the same"
    newest = run/"checkpoints"/"step-0000040"
    if name == "progress.json": reseal(newest, name, content)
    else: (newest/name).write_bytes(content)
    resume(run)
    assert "checkpoint step-0000040 is damaged" in capsys.readouterr().out
    assert log(run) == log(straight)


@pytest.mark.parametrize("content", [b"null\n", b"[1]\n", b"{}\n", b'{"step": "many"}\n'])
def test_rows_of_another_kind_end_in_a_sentence(run, content):
    "Valid JSON that is no row is named as damaged"
    (run/"metrics.jsonl").write_bytes(content + (run/"metrics.jsonl").read_bytes())
    with pytest.raises(ValueError, match="row 1 of .*metrics.jsonl is damaged"): Run(run).best


@pytest.mark.parametrize("resuming", [True, False])
def test_a_foreign_config_json_is_no_run(tmp_path, resuming):
    "The folder of another model is not written into"
    (tmp_path/"llama").mkdir()
    (tmp_path/"llama"/"config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="is not a run of tinyrope"):
        train("smoke", out=tmp_path/"llama", resume=resuming, **HOW)


# ---- links, strangers and leftovers

@pytest.mark.parametrize("name", [
    "metrics.jsonl", "samples.jsonl", "curves.png", "config.json", "last", "model.safetensors",
    ".lock", "checkpoints/.step-0000050"])
def test_links_in_a_run_folder_are_refused(run, tmp_path, name):
    "What they lead to is left as it was"
    outside = tmp_path/"outside"
    if (run/name).is_file(): shutil.move(run/name, outside)
    else: outside.write_text("mine")
    content = outside.read_bytes()
    (run/name).unlink(missing_ok=True)
    (run/name).symlink_to(outside)
    with pytest.raises(ValueError, match="is a link"): resume(run)
    assert outside.read_bytes() == content


def test_only_checkpoints_that_the_run_wrote_are_removed(run, straight):
    "Folders with similar names, and files, stay"
    place = run/"checkpoints"
    foreign = {"step-0000020-backup", "zstep-notes", "step-0000050.txt", "step-best"}
    for name in (*foreign, ".step-0000050", "step-0000060"): (place/name).mkdir()
    (place/"notes.txt").write_text("mine")
    resume(run)
    assert {path.name for path in place.iterdir()} == {
        "step-0000030", "step-0000040", "notes.txt", *foreign}
    assert log(run) == log(straight)


def test_only_half_written_files_of_the_run_are_removed(run):
    "A file with a similar name stays"
    leftovers, foreign = (".model.safetensors-a1b2c3d4", ".last-12345678"), ".model.safetensors-copy"
    for name in (*leftovers, foreign): (run/name).write_text("half")
    resume(run)
    assert not [name for name in leftovers if (run/name).exists()]
    assert (run/foreign).exists()


@pytest.mark.parametrize("read", [resume, lambda folder: Run(folder).model], ids=["resume", "open"])
def test_further_weights_in_a_checkpoint_are_refused(run, read):
    "A file that has no checksum is not read, and not removed"
    unfinished(run, 40)
    older, newest = checkpoints(run)
    shutil.copy(older/"model.safetensors", newest/"a.safetensors")
    with pytest.raises(ValueError, match="a.safetensors has no checksum"): read(run)
    assert (newest/"a.safetensors").exists()


class Bomb:
    "Makes a folder when it is unpickled"
    def __reduce__(self): return os.mkdir, ("unpickled",)


def test_the_bomb_goes_off_where_it_is_unpickled(tmp_path, monkeypatch):
    "The test below can fail"
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("unpickled").exists()


@pytest.mark.parametrize("read", [resume, lambda folder: Run(folder).model], ids=["resume", "open"])
def test_a_pickle_with_right_checksums_is_refused(run, tmp_path, monkeypatch, read):
    "The checkpoint is refused, and nothing is unpickled"
    monkeypatch.chdir(tmp_path)
    unfinished(run, 40)
    reseal(checkpoints(run)[-1], "model.safetensors", pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="cannot be read as weights of this model"): read(run)
    assert not Path("unpickled").exists()


def test_a_tokenizer_of_the_users_own_is_not_written_over(tmp_path):
    "A folder that holds other files is not taken for a run"
    (tmp_path/"mine").mkdir()
    (tmp_path/"mine"/"tokenizer.json").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a run"):
        train("smoke", out=tmp_path/"mine", **HOW)
    assert (tmp_path/"mine"/"tokenizer.json").read_text() == "mine"


# ---- told early

def test_a_folder_that_cannot_be_written_is_told_before_tokenizing(tmp_path, monkeypatch):
    "The error comes before any text is read"
    def prepare(*args): pytest.fail("text was read before")
    monkeypatch.setattr(training, "prepare", prepare)
    (tmp_path/"file").write_text("")
    with pytest.raises(OSError, match="cannot be written to"):
        train("smoke", out=tmp_path/"file"/"run", **HOW)


def test_a_context_of_one_token_is_refused_before_training(tmp_path):
    "Nothing is written"
    with pytest.raises(ValueError, match="seq_len must be"):
        train("smoke", out=tmp_path/"run", seq_len=1, **QUICK)
    assert not (tmp_path/"run").exists()


# ---- a full disk

def fill_disk(monkeypatch, name):
    "Let the disk be full when a file of a run, or what becomes it, is synced"
    real = os.fsync
    def full(fd):
        target = Path(os.readlink(f"/proc/self/fd/{fd}"))
        named = target.name == name or target.name.startswith(f".{name}-")
        if named and "checkpoints" not in target.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)
    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux which file is synced")
@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "model.safetensors", "last"])
def test_a_full_disk_names_the_file(tmp_path, monkeypatch, name):
    "Once there is room again, the run goes on and leaves nothing half-written"
    with monkeypatch.context() as changed:
        fill_disk(changed, name)
        with pytest.raises(OSError, match=f"the disk is full: .*{name} was not written"):
            train("smoke", out=tmp_path/"run", **QUICK)
    train("smoke", out=tmp_path/"run", resume=True, **QUICK)
    assert not list((tmp_path/"run").glob(f".{name}-*"))
