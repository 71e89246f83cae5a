"""python corpus/collect.py [--sources PATH ...] [--name sample] [--quality books|news|web|chat] [--workers 4]

Sources -> documents: cleaned, judged, without duplicates, split into train and val, in shards. Without --sources it
reads the sample. AIHub and NIKL archives are read as they were downloaded; txt, jsonl and csv may be compressed (gz,
bz2, xz, zst); parquet files, folders of `save_to_disk` and hub:OWNER/NAME work as well. In yaml a source may be a
mapping:

    sources:
      - {path: /data/029*, name: books, quality: books}
      - {path: /data/news.jsonl.zst, name: news, quality: news, licence: CC BY 4.0, weight: 2}

    python corpus/collect.py --config my.yaml --explain ID      what each step did to one document
    bash slurm/corpus.sh --config my.yaml --jobs 32             the same on a cluster, from its login node

A killed run goes on behind the pieces that are done.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from corpus import benchmarks, explain, quality
from corpus.clean import STEPS
from corpus.marks import Settings
from corpus.plain import Raw
from corpus.plan import Plan, pieces_of
from corpus.publish import Publish, publish, report
from corpus.reader import Reader, members
from corpus.reader import units as cut
from corpus.sources import DEFAULTS, File, files_of, fingerprints, sources_of
from corpus.stages import Clean, Groups, Match, Write
from narae import artifact
from narae.artifact import Artifact
from narae.config import option, parse, resolved
from narae.documents import find_lines
from narae.executors import may_submit, run_here, submit
from narae.log import Mistake
from narae.work import Stage, prepare, refusals_told, work_folder

STAGES = {"clean": Clean, "match": Match, "groups": Groups, "write": Write}
SWITCHES = {"boilerplate": "boilerplate", "personal data": "mask"}  # steps of cleaning that limits may turn off
# How it is done and shown, not what comes out.
HOW = {"sources", "quality", "explain", "jobs", "max_unreadable", "benchmarks"}


@dataclass
class CollectConfig:
    name: str = option("sample", "what the artifact is called")
    overwrite: bool = option(False, "replace what is there under this name")
    sources: list[str] = option([], "folders, files or patterns; in yaml also mappings; none: the sample")
    sample: str = option("sample", "which sample to read where there are no sources")
    schema: str = option("", "how archives are read, e.g. aihub653-json; detected from their content by default")
    document: str = option("blank", "what is a document in txt: line, blank (what stands between blank lines) or file")
    text_field: str = option("text", "where the text lies in jsonl, csv and tables")
    licence: str = option("", "licence of sources that bring none, carried along")
    quality: str = option("web", "thresholds: a name in configs/corpus/quality or a yaml file")
    val_fraction: float = option(0.01, "share of documents held out where the sources bring no Validation archives")
    max_documents: int = option(0, "read no more than this many of each source (0: all)")
    similarity: float = option(
        0.8, "Jaccard similarity from which documents repeat one another (0: the same text only)"
    )
    bands: int = option(16, "bands of the MinHash signature")
    rows: int = option(4, "values per band")
    shingle: int = option(5, "characters, spaces left out, that make one shingle")
    near_duplicates: str = option("drop", "drop all but one of a group, or keep them all, on one side of the split")
    benchmarks: list[str] = option([], "jsonl files with questions that must not be trained on")
    max_unreadable: float = option(
        0.001, "share of unreadable members that stops the run; 8 are always allowed, of broken documents 1 in 100"
    )
    shard_megabytes: int = option(256, "text per shard")
    no_text: bool = option(False, "leave texts out of the page, for sources that may not be passed on")
    workers: int = option(0, "processes (0: one per core)")
    jobs: int = option(0, "on the login node of a Slurm cluster: jobs per stage")
    explain: str = option("", "id of a document: show what each step does to it, and stop")


def main() -> None:
    config = parse(CollectConfig, config="configs/corpus/sample.yaml", about=__doc__)
    check(config)
    parents = [] if config.sources else [artifact.open_artifact("sample", config.sample)]
    entries: list[Any] = list(config.sources)
    if parents:
        folders = [str(path) for path in sorted(parents[0].path.iterdir()) if path.is_dir()]
        entries = [{"path": folders, "name": "aihub653", "quality": "sample"}]
    given = sources_of(entries, {key: getattr(config, key) for key in DEFAULTS})
    limits = {source.name: quality.load(source.quality or config.quality) for source in given}
    files = files_of(given)
    if config.explain:
        print(explained(config, files, limits))
        return

    settings = resolved(config, neutral=HOW) | {
        "sources": [source.described() for source in given],
        "quality": {name: asdict(limit) for name, limit in limits.items()},
    }
    inputs = {} if parents else fingerprints(files)
    inputs |= {f"benchmark {Path(path).name}": benchmarks.fingerprint(path) for path in config.benchmarks}
    work = work_folder("corpus", config.name)
    with refusals_told(work):
        if config.jobs:
            if not artifact.current("corpus", config.name, settings, parents, inputs, config.overwrite):
                may_submit()
                plan = plan_for(config, files, limits, settings, inputs, parents)
                submit(stages(ready(plan, config)) | {"publish": Publish(work)}, plan, work, config.jobs)
            return
        draft = artifact.begin("corpus", config.name, settings, parents, inputs, config.overwrite)
        if draft is None:
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed after publishing
            return
        with draft:
            plan = plan_for(config, files, limits, settings, inputs, parents)
            sizes = [plan.size(piece) for piece in plan.largest_first]
            run_here(stages(ready(plan, config)), plan, work, config.workers, sizes)
            publish(plan, work, draft)
        report(draft.counts, draft.target)
        shutil.rmtree(work)


def check(config: CollectConfig) -> None:
    for key, choices in (("document", ("line", "blank", "file")), ("near_duplicates", ("drop", "keep"))):
        if getattr(config, key) not in choices:
            raise Mistake(f"--{key} {getattr(config, key)}: it is {', '.join(choices[:-1])} or {choices[-1]}")
    for key in ("val_fraction", "similarity", "max_unreadable"):
        if not 0 <= getattr(config, key) <= 1:
            raise Mistake(f"--{key} {getattr(config, key)}: a share lies between 0 and 1")
    for key, least in (("shard_megabytes", 1), ("max_documents", 0), ("workers", 0), ("jobs", 0)):
        if getattr(config, key) < least:
            raise Mistake(f"--{key} {getattr(config, key)}: at least {least}")


def plan_for(
    config: CollectConfig,
    files: list[File],
    limits: dict[str, quality.Limits],
    settings: dict[str, Any],
    inputs: dict[str, Any],
    parents: list[Artifact],
) -> Plan:
    units = cut(files)
    shard_bytes = config.shard_megabytes * 10**6
    alike = Settings(config.shingle, config.bands, config.rows, config.similarity)
    alike.advise()
    return Plan(
        name=config.name,
        overwrite=config.overwrite,
        command=artifact.command(),
        settings=settings,
        inputs=inputs,
        parents=parents,
        files=files,
        pieces=pieces_of(files, units, shard_bytes),
        # A handful of broken members is normal even in a small delivery.
        allowed=max(8, int(members(units) * config.max_unreadable)),
        broken_share=config.max_unreadable,
        limits=limits,
        held_out={file.source.name for file in files if file.validation} if config.val_fraction else set(),
        alike=alike,
        keep_near=config.near_duplicates == "keep",
        val_fraction=config.val_fraction,
        shard_bytes=shard_bytes,
        no_text=config.no_text,
    )


def ready(plan: Plan, config: CollectConfig) -> Path:
    """The work folder, with the plan and the benchmarks' index in it."""
    work = prepare(plan)
    benchmarks.build(config.benchmarks, work / "benchmarks")
    return work


def stages(work: Path) -> dict[str, Stage]:
    return {name: stage(work) for name, stage in STAGES.items()}


def explained(config: CollectConfig, files: list[File], limits: dict[str, quality.Limits]) -> str:
    """The document as its source holds it, taken through every step again."""
    name = config.explain
    units = cut(files)
    near = [unit for unit in units if files[unit.file].archive in name or files[unit.file].place in name]
    with Reader(files) as reader:
        for unit in near or units:
            for place, number, raw in reader.read(unit):
                if f"{place}#{number}" == name:
                    return told(
                        config, name, raw, files[unit.file], reader.licence, limits[files[unit.file].source.name]
                    )
    raise Mistake(f'--explain {name}: no document of these sources has this id; it stands in the shards, as "id"')


def told(config: CollectConfig, name: str, raw: Raw, file: File, licence: str, limits: quality.Limits) -> str:
    steps = [(step, change) for step, change in STEPS if getattr(limits, SWITCHES.get(step, ""), True)]
    passed = [] if raw.fault else explain.trace(raw.text, steps)
    text = passed[-1].after if passed else raw.text
    reason = raw.fault or quality.verdict(text, limits)
    matches: list[str] = []
    if config.benchmarks and not reason:
        matches = [str(match) for _, found in benchmarks.of(config.benchmarks).find([text]) for match in found]
        reason = "benchmark" if matches else ""
    end, duplicate = f"rejected: {reason}" if reason else "good; the corpus has not been made yet", None
    corpus = artifact.find("corpus", config.name)
    if corpus and not reason:
        duplicate = next(find_lines([corpus.path / "duplicates.jsonl.zst"], name), None)
        shards = sorted(corpus.path.glob("*-*.jsonl.zst"))
        holding = next((shard for shard in shards if any(find_lines([shard], name))), None)
        end = "a duplicate" if duplicate else f"in {holding.name}" if holding else f"not in corpus '{config.name}'"
    return explain.render(
        name,
        text=raw.text,
        source={"source": file.source.name, "licence": licence, "quality": file.source.quality or config.quality},
        meta=raw.meta,
        passed=passed,
        measured={} if raw.fault else quality.measure(text),
        limits=limits,
        reason=reason,
        matches=matches,
        duplicate=duplicate,
        end=end,
    )


if __name__ == "__main__":
    main()
