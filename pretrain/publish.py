"""Make a Hugging Face folder of any checkpoint, while its run goes on, too.

    python pretrain/publish.py --run books                                      # its best so far, as books-<step>
    python pretrain/publish.py --run books --checkpoint 500 --name halfway
    python pretrain/publish.py --run books --checkpoint last --dtype float32    # the fp32 masters of a bf16 run

What comes out is a model like any other: `python infer/generate.py --model halfway` speaks from it.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from narae.artifact import Artifact, begin, current, find, hash_file, place, root
from narae.checkpoint import checkpoints, damage, read_states, step_of
from narae.config import option, parse
from narae.log import Mistake, read_metrics, say

DTYPES = ("auto", "float32", "bfloat16")


@dataclass
class PublishConfig:
    run: str = option("sample", "the run whose checkpoint it is")
    checkpoint: str = option("best", "best, last, or a step")
    name: str = option("", "what the model is called; none: <run>-<step>")
    dtype: str = option(
        "auto", "of the weights: as they were trained (auto), float32 (what a bf16 run sums up in) or bfloat16"
    )
    overwrite: bool = option(False, "replace another model of this name")


def main() -> None:
    config = parse(PublishConfig, about=__doc__)
    if config.dtype not in DTYPES:
        raise Mistake(f"--dtype {config.dtype}: it is {', '.join(DTYPES)}")
    run, settings = open_run(config.run)
    checkpoint = choose(run, config.checkpoint)
    step = step_of(checkpoint)
    name = config.name or f"{run.name}-{step}"
    if (place("model", name).parent / "config.yaml").exists():
        raise Mistake(f"--name {name}: the training run in {root() / 'runs' / name} makes that model; choose another")
    parents = packed_sets(settings.pop("parents"))
    identity = settings | {"run": run.name, "checkpoint": step, "dtype": config.dtype}
    manifest = checkpoint / "manifest.json"
    inputs = {"checkpoint": hash_file(manifest)} if manifest.is_file() else {}
    if current("model", name, identity, parents, inputs, config.overwrite):
        return
    check(checkpoint)
    counts = counts_of(run, checkpoint)
    draft = begin("model", name, identity, parents, inputs, overwrite=True)
    assert draft is not None
    with draft:
        model, tokenizer = load(checkpoint, config.dtype)
        model.save_pretrained(str(draft.path))
        tokenizer.save_pretrained(str(draft.path))
        draft.counts |= {"parameters": model.num_parameters(), **counts}
    judged = f", {counts['bits_per_byte']:.3f} bits per byte held out" if "bits_per_byte" in counts else ""
    say(f"step {step:,} of '{run.name}', {str(model.dtype).removeprefix('torch.')}{judged}: {draft.target}")


def open_run(name: str) -> tuple[Path, dict[str, Any]]:
    """The run's folder, and what decided its weights."""
    run = place("model", name).parent
    if not (run / "config.yaml").is_file():
        runs = ", ".join(sorted(file.parent.name for file in run.parent.glob("[!.]*/config.yaml")))
        raise Mistake(f"--run {name}: there is no training run in {run}; there are: {runs or 'none'}")
    return run, yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))


def choose(run: Path, wanted: str) -> Path:
    found = checkpoints(run)
    if not found:
        raise Mistake(f"--run {run.name}: there is no checkpoint in {run} yet")
    there = f"there are {', '.join(str(step_of(one)) for one in found)}"
    if wanted == "last":
        return found[0]
    if wanted != "best" and not wanted.isdigit():
        raise Mistake(f"--checkpoint {wanted}: it is best, last or a step; {there}")
    step = best_step(found[0]) if wanted == "best" else int(wanted)
    if not step:
        raise Mistake(
            f"--checkpoint best: up to step {step_of(found[0])} nothing was judged; last and a step are others"
        )
    if step not in map(step_of, found):
        raise Mistake(f"--checkpoint {wanted}: of step {step} there is none; {there}")
    return run / f"checkpoint-{step}"


def best_step(newest: Path) -> int:
    """The newest checkpoint knows which was the best so far; 0 where nothing was judged yet."""
    try:
        state = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))
        return int(state["best_global_step"] or 0)
    except (OSError, ValueError, KeyError) as error:
        raise Mistake(f"{newest} does not say which step was the best ({error}): --checkpoint takes a step") from None


def packed_sets(fingerprints: dict[str, str]) -> list[Artifact]:
    """The rows that the run reads, where they are still here; the run wrote down their fingerprints."""
    folders = sorted((root() / "packed").glob("[!.]*/manifest.json"))
    here = {one.fingerprint: one for one in (find("packed", file.parent.name) for file in folders) if one}
    missing = [key for key, wanted in fingerprints.items() if wanted not in here]
    if missing:
        say(f"the run's {missing[0]} rows are not in {root() / 'packed'} any more: the model does not name them")
    return [here[wanted] for wanted in fingerprints.values() if wanted in here]


def check(checkpoint: Path) -> None:
    wrong = damage(checkpoint)
    if wrong:
        others = ", ".join(str(step_of(one)) for one in checkpoints(checkpoint.parent) if one != checkpoint)
        raise Mistake(
            f"{checkpoint} is damaged ({wrong}): --checkpoint takes another; there are {others or 'no others'}"
        )


def counts_of(run: Path, checkpoint: Path) -> dict[str, Any]:
    """How much was read before it, and how it was judged, if it was."""
    try:
        history = json.loads((checkpoint / "course.json").read_text(encoding="utf-8"))["history"]
        length = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    except (OSError, ValueError, KeyError):
        raise Mistake(f"{checkpoint} is not one of pretrain/run.py: only those become a model here") from None
    step = step_of(checkpoint)
    ends = [one["step"] for one in history[1:]] + [step]
    rows = sum((end - one["step"]) * one["batch_rows"] for one, end in zip(history, ends, strict=True))
    records = read_metrics(run / "metrics.jsonl")
    judged = [one for one in records if one["kind"] == "eval" and one["step"] == step]
    figures = ("loss", "loss_inside", "bits_per_byte", "accuracy")
    return {key: judged[-1][key] for key in figures if judged and key in judged[-1]} | {
        "steps": step,
        "tokens": rows * length,
    }


def load(checkpoint: Path, dtype: str) -> tuple[Any, Any]:
    """The model with its generation defaults, and its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from narae.model import generation_defaults, kind_of
    from narae.states import weights_of
    from narae.training import quiet

    quiet()
    shape = AutoConfig.from_pretrained(checkpoint)
    kind = kind_of(shape)
    with torch.device("meta"):
        empty = kind(copy.deepcopy(shape))
    model, met = kind.from_pretrained(
        None, config=shape, state_dict=weights_of(checkpoint, empty), dtype=torch.float32, output_loading_info=True
    )
    if met["missing_keys"]:
        raise Mistake(f"{checkpoint} has no weights of {sorted(met['missing_keys'])[0]}: it is of another model")
    model.to(getattr(torch, read_states(checkpoint)["dtype"] if dtype == "auto" else dtype))
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model.generation_config = generation_defaults(tokenizer)
    model.config.use_cache = True  # Trainer turns it off for training, and writes that down
    return model, tokenizer


if __name__ == "__main__":
    main()
