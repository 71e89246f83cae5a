"""Whatever is killed, and whoever writes at the same time: what can be opened is whole."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from narae import artifact
from narae.artifact import Artifact, begin, find, open_artifact
from narae.log import Mistake

pytestmark = pytest.mark.usefixtures("artifacts")


def publish(
    text: str = "one", name: str = "sample", overwrite: bool = False, parents: tuple[Artifact, ...] = ()
) -> Artifact:
    """A tokenizer made of a file and of a folder with a file; the config is its text."""
    draft = begin("tokenizer", name, {"text": text}, parents, overwrite=overwrite)
    if draft is not None:
        with draft:
            (draft.path / "tokenizer.json").write_text(text)
            (draft.path / "more").mkdir()
            (draft.path / "more" / "words.txt").write_text(text * 1000)
            draft.counts["letters"] = len(text)
    return open_artifact("tokenizer", name, verify=True)


def content(made: Artifact) -> str:
    """Its text, after making sure that every file and the manifest agree on it."""
    text = (made.path / "tokenizer.json").read_text()
    assert (made.path / "more" / "words.txt").read_text() == text * 1000
    assert (made.manifest["config"], made.counts) == ({"text": text}, {"letters": len(text)})
    return text


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock"))


def test_published_whole(artifacts: Path) -> None:
    made = publish()
    assert content(made) == "one"
    assert made.path == artifacts / "tokenizer" / "sample"
    assert made.manifest["files"]["tokenizer.json"] == {
        "bytes": 3,
        "sha256": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
    }
    assert sorted(made.manifest["files"]) == ["more/words.txt", "tokenizer.json"]
    assert (made.manifest["kind"], made.manifest["name"], made.manifest["version"]) == ("tokenizer", "sample", 1)
    assert left_in(artifacts / "tokenizer") == ["sample"]


def test_an_error_publishes_nothing(artifacts: Path) -> None:
    draft = begin("tokenizer", "sample", {})
    assert draft is not None
    with pytest.raises(ValueError, match="no"), draft:
        (draft.path / "tokenizer.json").write_text("half")
        raise ValueError("no")
    assert find("tokenizer", "sample") is None
    assert left_in(artifacts / "tokenizer") == []


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from narae import artifact

left = int(sys.argv[1])

def deadly(function):
    def call(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **options)
    return call

for owner, names in ((os, "fsync mkdir"), (Path, "write_text rename stat"), (shutil, "rmtree")):
    for name in names.split():
        setattr(owner, name, deadly(getattr(owner, name)))
with artifact.begin("tokenizer", "sample", {"text": "two"}, overwrite=True) as draft:
    (draft.path / "tokenizer.json").write_text("two")
    (draft.path / "more").mkdir()
    (draft.path / "more" / "words.txt").write_text("two" * 1000)
    draft.counts["letters"] = 3
"""


@pytest.mark.parametrize("before", [None, "one"])
def test_killed_anywhere(artifacts: Path, before: str | None) -> None:
    """Die before each call that touches the disk: afterwards there is the old one, or the new one, or none."""
    seen = []
    for calls in range(1000):
        if before:
            publish(before, overwrite=True)
        ended = subprocess.run([sys.executable, "-c", KILLED, str(calls)], check=False).returncode
        assert ended in (0, -signal.SIGKILL)
        found = find("tokenizer", "sample")
        if found is not None:
            seen.append(content(open_artifact("tokenizer", "sample", verify=True)))
        else:
            seen.append(None)
        # The next one puts everything in order, without being told that something happened.
        assert content(publish("two", overwrite=True)) == "two"
        assert left_in(artifacts / "tokenizer") == ["sample"]
        if ended == 0:
            break
        if not before:
            (artifacts / "tokenizer/sample").rename(artifacts / f"aside-{calls}")
    assert calls > 15
    assert seen[0] == before
    assert seen[-1] == "two"
    turn = next(number for number, text in enumerate(seen) if text != before)
    assert set(seen[:turn]) == {before}
    assert set(seen[turn:]) <= {None, "two"}


def test_killed_between_the_renames_the_old_one_comes_back(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish("one")
    folder = artifacts / "tokenizer"
    (folder / "sample").rename(folder / ".old-sample")
    assert content(publish("one")) == "one"
    assert "is up to date" in capsys.readouterr().err


def test_up_to_date_refused_overwritten(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = publish("one")
    changed = (made.path / "manifest.json").stat().st_mtime_ns
    assert begin("tokenizer", "sample", {"text": "one"}) is None
    assert f"tokenizer 'sample' is up to date: {made.path}" in capsys.readouterr().err
    assert (made.path / "manifest.json").stat().st_mtime_ns == changed
    with pytest.raises(Mistake) as refused:
        publish("two")
    assert str(refused.value) == (
        "tokenizer 'sample' is there already, with text = 'one' instead of 'two': "
        "--name makes another one, --overwrite replaces it"
    )
    del refused
    assert content(publish("two", name="other")) == "two"
    assert content(publish("two", overwrite=True)) == "two"
    assert left_in(artifacts / "tokenizer") == ["other", "sample"]


def test_other_inputs_and_parents_are_refused() -> None:
    parent = publish("one")
    first = begin("packed", "sample", {}, [parent], inputs={"file": "a"})
    assert first is not None
    with first:
        pass
    assert begin("packed", "sample", {}, [parent], inputs={"file": "a"}) is None
    with pytest.raises(Mistake, match=r"with other input \(file\)"):
        begin("packed", "sample", {}, [parent], inputs={"file": "b"})
    with pytest.raises(Mistake, match="with another tokenizer 'sample' as its parent"):
        begin("packed", "sample", {}, [publish("two", overwrite=True)], inputs={"file": "a"})


def test_the_same_content_has_the_same_fingerprint() -> None:
    one = publish("one").fingerprint
    assert publish("two", overwrite=True).fingerprint != one
    assert publish("one", overwrite=True).fingerprint == one


def test_a_parent_that_changed() -> None:
    before = publish("one")
    draft = begin("packed", "sample", {}, [before])
    assert draft is not None
    with draft:
        pass
    open_artifact("packed", "sample")
    after = publish("two", overwrite=True)
    with pytest.raises(Mistake) as error:
        open_artifact("packed", "sample")
    assert str(error.value) == (
        f"packed 'sample' was made from tokenizer 'sample' {before.fingerprint}, which is now {after.fingerprint}: "
        "run `python pretrain/pack.py --overwrite`"
    )


def test_wrong_size_and_missing_file() -> None:
    words = publish().path / "more" / "words.txt"
    words.write_text("short")
    with pytest.raises(
        Mistake, match=r"words.txt has 5 bytes, its manifest says 3,000: run `python tokenizer/train.py"
    ):
        open_artifact("tokenizer", "sample")
    words.unlink()
    with pytest.raises(Mistake, match=r"words.txt is missing, its manifest says 3,000"):
        open_artifact("tokenizer", "sample")


def test_one_flipped_bit_is_found_by_verify() -> None:
    file = publish().path / "more" / "words.txt"
    data = bytearray(file.read_bytes())
    data[1234] ^= 1
    file.write_bytes(data)
    open_artifact("tokenizer", "sample")
    with pytest.raises(Mistake, match=r"words.txt does not have the hash in its manifest: run `python tokenizer/train"):
        open_artifact("tokenizer", "sample", verify=True)


def test_what_is_not_there_or_not_it(artifacts: Path) -> None:
    with pytest.raises(Mistake) as error:
        open_artifact("corpus", "books")
    assert str(error.value) == (
        f"there is no corpus in {artifacts}/corpus/books: `python corpus/collect.py --name books` makes it"
    )
    made = publish()
    with pytest.raises(Mistake, match=r"holds a tokenizer, not a corpus"):
        open_artifact("corpus", str(made.path))
    manifest = made.path / "manifest.json"
    manifest.write_text(json.dumps({**made.manifest, "version": 99}))
    with pytest.raises(Mistake, match="has format 99, this program reads 1"):
        open_artifact("tokenizer", "sample")
    manifest.write_text("{")
    with pytest.raises(Mistake, match=r"manifest.json is not JSON"):
        open_artifact("tokenizer", "sample")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b"])
def test_names_are_folders(name: str) -> None:
    with pytest.raises(Mistake, match="a name is one folder"):
        begin("tokenizer", name, {})


def test_somebody_elses_folder_is_left_alone(artifacts: Path) -> None:
    thesis = artifacts / "tokenizer/sample/thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    with pytest.raises(Mistake, match="is in the way"):
        publish(overwrite=True)
    assert thesis.read_text() == "years of work"
    thesis.unlink()
    assert content(publish()) == "one"


@pytest.fixture
def memory() -> Iterator[Path]:
    if not Path("/dev/shm").is_dir() or not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_on_another_file_system(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARAE_ARTIFACTS", str(memory / "far" / "away"))
    assert content(publish("one")) == "one"
    made = publish("two", overwrite=True)
    assert (content(made), made.path) == ("two", memory / "far/away/tokenizer/sample")


WAITING = """
import sys
from narae import artifact
with artifact.begin("tokenizer", "sample", {"text": "theirs"}) as draft:
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_two_at_once(artifacts: Path) -> None:
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        with pytest.raises(
            Mistake, match=r"another process is writing .*sample: wait for it, or choose another --name"
        ):
            publish("ours")
        assert content(publish("ours", name="other")) == "ours"
        other.communicate("")
    assert other.returncode == 0
    assert open_artifact("tokenizer", "sample").manifest["config"] == {"text": "theirs"}
    assert left_in(artifacts / "tokenizer") == ["other", "sample"]


def test_every_kind_has_its_command() -> None:
    for kind, (place, command) in artifact.KINDS.items():
        assert "{}" in place, kind
        assert command.split()[0] in ("python", "deepspeed")


@pytest.mark.parametrize("script", ["finetune/sft.py", "pretrain/run.py"])
def test_a_stale_model_names_the_command_that_made_it(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    draft = begin("model", "sample-chat", {}, [publish("one")])
    assert draft is not None
    with draft:
        (draft.path / "config.json").write_text("{}")
    publish("two", overwrite=True)
    made_by = "`python finetune/sft.py" if "finetune" in script else "`deepspeed .* --name sample-chat"
    with pytest.raises(Mistake, match=f"{made_by} --overwrite`"):
        open_artifact("model", "sample-chat")
