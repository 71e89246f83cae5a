"""Turn a corpus into rows of token ids, ready for pretraining.

    python pretrain/pack.py                                    # the sample's
    python pretrain/pack.py --config configs/pack/books.yaml --sequence_length 1024
    bash slurm/pack.sh --config configs/pack/books.yaml --jobs 32      # on a cluster, from its login node

Documents follow each other, <|endoftext|> after each; the stream is cut into rows and no token is lost. With --packing
best_fit only documents longer than a row are cut, for some padding. The documents of a source with weight 2 come twice
in train, those of one with weight 0.5 by halves. The format is narae/packed.py's. A killed run goes on behind the parts
that are done.
"""

import math
import shutil
import time
from dataclasses import dataclass
from typing import Any

from narae import artifact
from narae.artifact import open_artifact
from narae.config import option, parse, resolved
from narae.documents import parts, shards
from narae.log import Mistake
from narae.packed import dtype_for
from narae.work import Stage, prepare, refusals_told, work_folder
from pretrain.pieces import SPLITS, Pack, Plan, Publish, Task, encoder_of, publish, report

SMALL = 20_000_000  # bytes of text that one process has packed before others are under way


@dataclass
class Config:
    name: str = option("sample", "the name of the packed artifact")
    overwrite: bool = option(False, "replace a packed artifact of that name")
    verify: bool = option(False, "hash corpus and tokenizer before reading them")
    corpus: str = option("sample", "the corpus to pack")
    tokenizer: str = option("sample", "the tokenizer to pack it with")
    sequence_length: int = option(512, "tokens in a row")
    packing: str = option("stream", "stream (no padding) or best_fit (few documents cut)")
    shard_rows: int = option(262_144, "rows in a shard file")
    workers: int = option(0, "processes (0: one per core)")
    jobs: int = option(0, "on the login node of a Slurm cluster: jobs")


def main() -> None:
    config = parse(Config, config="configs/pack/sample.yaml", about=__doc__)
    check(config)
    parents = [
        open_artifact("corpus", config.corpus, verify=config.verify),
        open_artifact("tokenizer", config.tokenizer, verify=config.verify),
    ]
    settings = resolved(config, neutral={"jobs"})
    work = work_folder("packed", config.name)
    with refusals_told(work):
        if config.jobs:
            if not artifact.current("packed", config.name, settings, parents, overwrite=config.overwrite):
                from narae.executors import may_submit, submit

                may_submit()
                plan = plan_for(config, settings, parents)
                stages: dict[str, Stage] = {"pack": Pack(prepare(plan)), "publish": Publish(work)}
                submit(stages, plan, work, config.jobs)
            return
        draft = artifact.begin("packed", config.name, settings, parents, overwrite=config.overwrite)
        if draft is None:
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed after publishing
            return
        with draft:
            began = time.monotonic()
            plan = plan_for(config, settings, parents)
            stage = Pack(prepare(plan))
            sizes = [task.part.end - task.part.begin for task in plan.parts]
            if sum(plan.corpus.counts[split]["bytes"] for split in SPLITS) <= SMALL:
                for task in range(len(plan.parts)):
                    stage.do(plan, task)
            else:
                from narae.executors import run_here

                run_here({"pack": stage}, plan, work, config.workers, sizes)
            publish(plan, work, draft)
        report(draft, time.monotonic() - began)
        shutil.rmtree(work)


def check(config: Config) -> None:
    if config.sequence_length < 2 or config.shard_rows < 1:
        raise Mistake(
            f"--sequence_length {config.sequence_length} --shard_rows {config.shard_rows}: "
            "a row has at least 2 tokens, a shard at least 1 row"
        )
    if config.packing not in ("stream", "best_fit"):
        raise Mistake(f"--packing {config.packing}: it is stream or best_fit")
    for key in ("workers", "jobs"):
        if getattr(config, key) < 0:
            raise Mistake(f"--{key} {getattr(config, key)}: at least 0")


def plan_for(config: Config, settings: dict[str, Any], parents: list[artifact.Artifact]) -> Plan:
    corpus, tokenizer = parents
    sources = corpus.counts.get("sources", {})
    weights = {name: source["weight"] for name, source in sources.items() if source["weight"] != 1}
    encoder = encoder_of(tokenizer.path, tokenizer.fingerprint)
    encoder.tell()
    found = []
    for split in SPLITS:
        turns = math.ceil(max([1, *weights.values()])) if split == "train" else 1
        cut = parts(shards(corpus.path, split))
        found += [Task(split, turn, part) for turn in range(turns) for part in cut]
    return Plan(
        name=config.name,
        overwrite=config.overwrite,
        command=artifact.command(),
        settings=settings,
        inputs={},
        parents=parents,
        parts=found,
        weights=weights,
        row=config.sequence_length,
        shard_rows=config.shard_rows,
        best_fit=config.packing == "best_fit",
        dtype=dtype_for(encoder.entries).str,
        entries=encoder.entries,
        eos=encoder.eos,
        pad=encoder.pad,
    )


if __name__ == "__main__":
    main()
