"""What the report tells: a run, the run that it was tuned from, and the artifacts behind them, as far as they exist."""

from dataclasses import dataclass, field
from typing import Any

from infer.curves import Run, read_json, read_run
from narae.artifact import KINDS, Artifact, find, root
from narae.log import Mistake, number, say


@dataclass
class Story:
    run: Run | None
    base: Run | None = None
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # the nearest of each kind
    chain: list[Artifact] = field(default_factory=list)
    demo: dict[str, Any] = field(default_factory=dict)

    @property
    def tuned(self) -> Run | None:
        """The run, where it learned from examples; its base may lie elsewhere, in a folder of somebody else's."""
        if self.run is None:
            return None
        parents = self.run.artifact.manifest["parents"] if self.run.artifact else []
        kinds = {parent.get("kind") for parent in parents} | mapping(self.run.config.get("parents")).keys()
        return self.run if self.base is not None or "examples" in kinds else None

    @property
    def pretrained(self) -> Run | None:
        return self.base if self.tuned else self.run

    @property
    def runs(self) -> list[Run]:
        return [run for run in (self.base, self.run) if run is not None]

    @property
    def stages(self) -> list[dict[str, Any]]:
        """What the chain of stages measured: name, command, seconds and peak_memory_mb of each."""
        found = self.demo.get("stages")
        return [stage for stage in found if isinstance(stage, dict)] if isinstance(found, list) else []

    def counts(self, kind: str) -> dict[str, Any]:
        return mapping(self.artifacts[kind].manifest["counts"]) if kind in self.artifacts else {}


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def of(counts: dict[str, Any], *keys: str) -> float:
    """The number under some keys; 0 where there is none."""
    value: Any = counts
    for key in keys:
        value = mapping(value).get(key)
    return number(value) or 0.0


def gather(wanted: str = "") -> Story:
    name = _choose(wanted)
    measured = read_json(root() / "runs" / name / "chain.json") if name else {}  # `make run` keeps its own
    story = Story(_run(name) if name else None, demo=measured or read_json(root() / "demo.json"))
    base = _base(story.run) if story.run is not None else ""
    if base:
        story.base = _run(base)
    if story.run is not None and story.run.artifact is not None:
        answers = _find("answers", name)
        # Of this very model: a run that was trained again is asked again.
        if answers is not None and _parent(answers, "model", "fingerprint") in ("", story.run.artifact.fingerprint):
            _follow(story, [("answers", name)])
    _follow(story, [("model", run.name) for run in (story.run, story.base) if run is not None])
    # A finished run names its parents. One that is not knows them by fingerprint, or they bear its name.
    if story.run is None or not story.run.finished:
        marks = {kind: mark for run in story.runs for kind, mark in mapping(run.config.get("parents")).items()}
        for kind in ("packed", "examples", "tokenizer", "corpus", "sample"):
            if kind not in story.artifacts:
                known = _by_fingerprint(kind, marks[kind]) if kind in marks else ""
                _follow(story, [(kind, known or (name or "sample").removesuffix("-chat"))])
    story.chain.sort(key=lambda one: list(KINDS).index(one.kind))
    return story


def _choose(wanted: str) -> str:
    """The run that was asked for, else sample-chat, else sample, else the newest."""
    runs = [path for path in (root() / "runs").glob("[!.]*") if path.is_dir()]
    newest = [path.name for path in sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True)]
    if wanted and wanted not in newest:
        there = ", ".join(sorted(newest)) or "none yet: `make demo` makes some"
        raise Mistake(f"there is no run {wanted!r} in {root() / 'runs'}; there are {there}")
    return next((name for name in (wanted, "sample-chat", "sample", *newest) if name in newest), "")


def _base(run: Run) -> str:
    """The run that this one was tuned from, if any."""
    if run.artifact is not None:
        name = _parent(run.artifact, "model", "name")
    else:
        mark = mapping(run.config.get("parents")).get("model")
        name = _by_fingerprint("model", mark) if mark else run.name.removesuffix("-chat")
    return name if name and name != run.name and (root() / "runs" / name).is_dir() else ""


def _by_fingerprint(kind: str, fingerprint: Any) -> str:
    pattern = KINDS[kind][0].format("[!.]*") + "/manifest.json"
    names = [file.relative_to(root()).parts[1] for file in sorted(root().glob(pattern))]
    found = ((name, _find(kind, name)) for name in names)
    return next((name for name, one in found if one is not None and one.fingerprint == fingerprint), "")


def _parent(child: Artifact, kind: str, what: str) -> str:
    return next((str(parent.get(what)) for parent in child.manifest["parents"] if parent.get("kind") == kind), "")


def _run(name: str) -> Run:
    return read_run(name, root() / "runs" / name, _find("model", name))


def _follow(story: Story, ahead: list[tuple[str, str]]) -> None:
    """Breadth first: the nearest of a kind is what the model itself saw, not what its tokenizer was trained on."""
    while ahead:
        kind, name = ahead.pop(0)
        if any((one.kind, one.name) == (kind, name) for one in story.chain):
            continue
        found = _find(kind, name)
        if found is None:
            continue
        position = 0 if kind == "model" else len(story.chain)  # parents first: the base is met after what it became
        story.chain.insert(position, found)
        story.artifacts.setdefault(kind, found)
        ahead += [(str(parent.get("kind")), str(parent.get("name"))) for parent in found.manifest["parents"]]


def _find(kind: str, name: str) -> Artifact | None:
    """A page on the rest is better than none: what cannot be read counts as not there."""
    if kind not in KINDS:
        return None
    try:
        found = find(kind, name)
        if found is None or (found.fingerprint and found.kind == kind and found.manifest["counts"] is not None):
            return found
        problem = "holds something else"
    except (Mistake, KeyError, TypeError, AttributeError, OSError) as error:
        problem = f"{type(error).__name__}: {error}"
    say(f"warning: {kind} '{name}' is left out of the page ({problem})")
    return None


def is_current(parent: dict[str, Any]) -> bool:
    """Whether what something was made from is still there as it was, or gone, but not replaced."""
    now = _find(str(parent.get("kind")), str(parent.get("name")))
    return now is None or now.fingerprint == parent.get("fingerprint")
