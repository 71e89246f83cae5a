"""Artifacts: what one stage leaves on disk for the next, published whole or not at all.

    draft = artifact.begin("tokenizer", config.name, resolved(config), parents=[corpus], overwrite=config.overwrite)
    if draft is None:  # the same config and parents made what is there: nothing to do, and it was said
        return
    with draft:
        (draft.path / "tokenizer.json").write_text(...)
        draft.counts["entries"] = 32_000

Files are written in a folder beside the final one, hashed and fsynced; the manifest comes last; a rename publishes.
Whatever is killed on the way leaves a folder whose name starts with a dot: nobody opens it, the next begin removes it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from narae.config import HOME
from narae.log import Mistake, differs, say, stage

# Where each kind lies below the root, and the command that makes it.
KINDS = {
    "sample": ("sample/{}", "python corpus/sample.py"),
    "corpus": ("corpus/{}", "python corpus/collect.py"),
    "tokenizer": ("tokenizer/{}", "python tokenizer/train.py"),
    "packed": ("packed/{}", "python pretrain/pack.py"),
    "examples": ("examples/{}", "python finetune/prepare.py"),
    "model": ("runs/{}/final", "deepspeed pretrain/run.py --deepspeed configs/ds/zero2.json"),
    "answers": ("answers/{}", "python infer/generate.py --file questions.jsonl"),
}
VERSIONS = dict.fromkeys(KINDS, 1) | {"packed": 3}  # of each kind's format


def root() -> Path:
    """NARAE_ARTIFACTS moves everything elsewhere, temporaries included."""
    return Path(os.environ.get("NARAE_ARTIFACTS") or HOME / "artifacts").expanduser().absolute()


def place(kind: str, name: str) -> Path:
    if not name or name.startswith(".") or name != Path(name).name:
        raise Mistake(f"--name {name!r}: a name is one folder, without '/' and without a dot in front")
    return root() / KINDS[kind][0].format(name)


@dataclass(frozen=True)
class Artifact:
    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def counts(self) -> dict[str, Any]:
        return dict(self.manifest["counts"])

    @property
    def fingerprint(self) -> str:
        """The same content gives the same fingerprint, whenever and wherever it was made."""
        parts = {key: self.manifest[key] for key in ("kind", "version", "config", "parents", "inputs", "files")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def find(kind: str, name: str) -> Artifact | None:
    """The artifact, or None where none was published. `name` may be the path of a folder, too."""
    folder = Path(name) if os.sep in name else place(kind, name)
    file = folder / "manifest.json"
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise Mistake(f"{file} is not JSON: remove {folder} and run `{KINDS[kind][1]}` again") from None
    return Artifact(folder, manifest)


def maker(kind: str, name: str, found: Artifact | None = None) -> str:
    """The command that makes an artifact; a model that learned to answer came from another one than the first model."""
    command = KINDS[kind][1]
    made = str(found.manifest.get("command")) if found is not None else ""
    if kind == "model" and made.startswith("finetune/sft.py"):
        return "python finetune/sft.py" + ("" if name == "sample-chat" else f" --name {name}")
    if found is not None and made.startswith("pretrain/publish.py"):
        words = " ".join(f"--{key} {found.manifest['config'][key]}" for key in ("run", "checkpoint", "dtype"))
        return f"python pretrain/publish.py {words} --name {name}"
    return command + ("" if name == "sample" else f" --name {name}")


def open_artifact(kind: str, name: str, verify: bool = False) -> Artifact:
    """Open what another stage published: kind, version, sizes and parents are checked, with `verify` every byte."""
    found = find(kind, name)
    if found is None:
        folder = Path(name) if os.sep in name else place(kind, name)
        raise Mistake(f"there is no {kind} in {folder}: `{maker(kind, name)}` makes it")
    remake = f"run `{maker(kind, name, found)} --overwrite`"
    manifest = found.manifest
    if manifest["kind"] != kind:
        raise Mistake(f"{found.path} holds a {manifest['kind']}, not a {kind}")
    if manifest["version"] != VERSIONS[kind]:
        raise Mistake(f"{found.path} has format {manifest['version']}, this program reads {VERSIONS[kind]}: {remake}")
    for relative, known in manifest["files"].items():
        file = found.path / relative
        size = file.stat().st_size if file.is_file() else None
        if size != known["bytes"]:
            met = "is missing" if size is None else f"has {size:,} bytes"
            raise Mistake(f"{file} {met}, its manifest says {known['bytes']:,}: {remake}")
        if verify and hash_file(file) != known["sha256"]:
            raise Mistake(f"{file} does not have the hash in its manifest: {remake}")
    for parent in manifest["parents"]:
        now = find(parent["kind"], parent["name"])
        if now is not None and now.fingerprint != parent["fingerprint"]:
            raise Mistake(
                f"{kind} '{found.name}' was made from {parent['kind']} '{parent['name']}' {parent['fingerprint']}, "
                f"which is now {now.fingerprint}: {remake}"
            )
    return found


@dataclass
class Draft:
    """A folder to fill. Leaving the `with` block publishes it; an exception drops it."""

    kind: str
    name: str
    config: dict[str, Any]
    parents: Sequence[Artifact]
    inputs: dict[str, Any]
    target: Path
    path: Path
    lock: IO[str]
    counts: dict[str, Any] = field(default_factory=dict)
    command: str = ""  # where it is not the one that runs now

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._publish()
        finally:
            shutil.rmtree(self.path, ignore_errors=True)
            self.lock.close()

    def _publish(self) -> None:
        files = {}
        for file in sorted(path for path in self.path.rglob("*") if path.is_file()):
            files[str(file.relative_to(self.path))] = {"bytes": file.stat().st_size, "sha256": hash_file(file)}
            sync(file)
        manifest = {
            "kind": self.kind,
            "name": self.name,
            "version": VERSIONS[self.kind],
            "command": self.command or command(),
            "commit": commit(),
            "config": self.config,
            "parents": [{"kind": p.kind, "name": p.name, "fingerprint": p.fingerprint} for p in self.parents],
            "inputs": self.inputs,
            "counts": self.counts,
            "files": files,
        }
        file = self.path / "manifest.json"
        file.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        for path in (file, self.path):
            sync(path)
        before = _beside(self.target, "old")
        if self.target.exists():
            self.target.rename(before)
        self.path.rename(self.target)
        sync(self.target.parent)
        shutil.rmtree(before, ignore_errors=True)


def begin(
    kind: str,
    name: str,
    config: dict[str, Any],
    parents: Sequence[Artifact] = (),
    inputs: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Draft | None:
    """A draft to fill, or None where the same config, parents and inputs have made this artifact already.

    Another artifact under the same name is replaced with `overwrite` and refused without.
    """
    target = place(kind, name)
    config, inputs = plain(config), plain(inputs or {})
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = (target.parent / f".lock-{target.name}").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Mistake(f"another process is writing {target}: wait for it, or choose another --name") from None
    try:
        draft, old = _beside(target, "draft"), _beside(target, "old")
        if old.exists() and not target.exists():  # killed between the two renames
            old.rename(target)
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)
        if current(kind, name, config, parents, inputs, overwrite):
            lock.close()
            return None
        if target.exists() and not (target / "manifest.json").exists():
            if any(target.iterdir()):
                raise Mistake(f"{target} is in the way: it has no manifest, so nothing here made it. Move it elsewhere")
            target.rmdir()
        draft.mkdir(parents=True)
    except BaseException:
        lock.close()
        raise
    return Draft(kind, name, config, parents, inputs, target, draft, lock)


def current(
    kind: str,
    name: str,
    config: dict[str, Any],
    parents: Sequence[Artifact] = (),
    inputs: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> bool:
    """True where the same config, parents and inputs made what is published; it is said, so that main can return."""
    found = find(kind, name)
    if found is None:
        return False
    difference = _difference(found, plain(config), parents, plain(inputs or {}))
    if not difference:
        say(f"{kind} '{name}' is up to date: {found.path}")
    elif not overwrite:
        raise Mistake(
            f"{kind} '{name}' is there already, with {difference}: --name makes another one, --overwrite replaces it"
        )
    return not difference


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a manifest: tuples are lists, keys are strings."""
    return json.loads(json.dumps(values))


def _difference(found: Artifact, config: dict[str, Any], parents: Sequence[Artifact], inputs: dict[str, Any]) -> str:
    """What the published artifact was made with that is not what was asked for now."""
    was = found.manifest
    version = VERSIONS[was["kind"]]
    if was["version"] != version:
        return f"format {was['version']} instead of {version}"
    for key in sorted(was["config"].keys() | config.keys()):
        before, now = was["config"].get(key), config.get(key)
        if before != now:
            return differs(key, before, now)
    before_parents = {(p["kind"], p["name"]): p["fingerprint"] for p in was["parents"]}
    now_parents = {(p.kind, p.name): p.fingerprint for p in parents}
    for parent in sorted(before_parents.keys() | now_parents.keys()):
        if before_parents.get(parent) != now_parents.get(parent):
            return f"another {parent[0]} '{parent[1]}' as its parent"
    if was["inputs"] != inputs:
        changed = [key for key in was["inputs"].keys() | inputs.keys() if was["inputs"].get(key) != inputs.get(key)]
        return f"other input ({sorted(changed)[0]})"
    return ""


def _beside(target: Path, what: str) -> Path:
    return target.parent / f".{what}-{target.name}"


def command() -> str:
    return shlex.join([f"{stage()}.py", *sys.argv[1:]])


def hash_file(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit() -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        words = ["git", "-C", str(HOME), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return "unknown"
