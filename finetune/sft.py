"""Teach a pretrained model to answer: chat fine-tuning, with the loss on the assistant's words alone.

    python finetune/sft.py                                                  # the sample's config
    python finetune/sft.py --model books --examples mine --name mine-chat --method lora
    deepspeed finetune/sft.py --deepspeed configs/ds/zero2.json --model books --examples mine --name mine-chat

Run it again and an unfinished run goes on from its newest whole checkpoint; a finished one says where its model lies.
Every field of transformers' TrainingArguments is an option, too. `--model` is a run, or any Hugging Face folder.
"""

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narae.artifact import Artifact, begin, current, hash_file, open_artifact, root
from narae.config import deciding, option, parse, parse_first, resolved
from narae.log import Mistake, rank, say
from narae.pulse import IMPORTING, TIMEOUT, beat, long, seconds_for, together

CONFIG = "configs/finetune/sample.yaml"


@dataclass
class SftConfig:
    model: str = option("sample", "what to start from: a run's name, or the path of a Hugging Face folder")
    examples: str = option("sample", "the examples to learn from")
    name: str = option("sample-chat", "the run; its folder is artifacts/runs/<name>")
    method: str = option("full", "full: every weight; lora: adapters of low rank, merged into the result")
    lora_r: int = option(16, "rank of the adapters")
    lora_alpha: int = option(32, "their scale, divided by lora_r")
    lora_dropout: float = option(0.0, "share of their inputs that is dropped")
    max_new_tokens: int = option(128, "the longest answer: generation_config.json carries it")
    repetition_penalty: float = option(1.2, "generation_config.json carries it; 1 is none")
    prompts: list[str] = option([], "questions whose answers are written down before and after; none: held-out ones")
    overwrite: bool = option(False, "replace a run of another config under this name")


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        arguments()
    config, training = parse_first(SftConfig, config=CONFIG)
    if config.method not in ("full", "lora"):
        raise Mistake(f"--method {config.method}: the methods are full and lora")
    examples = open_artifact("examples", config.examples)
    base, parents, inputs = open_base(config.model)
    # What was asked for decides, before seconds go into importing the library that knows what was not
    identity = resolved(config, neutral={"model", "examples", "prompts"})
    identity |= deciding(training)
    parents.append(examples)
    if current("model", config.name, identity, parents, inputs, config.overwrite):
        return
    with together(root() / "runs" / config.name, training.get("hang_timeout", TIMEOUT)):
        work(base, parents, inputs, examples, identity)


def work(
    base: Path, parents: list[Artifact], inputs: dict[str, Any], examples: Artifact, identity: dict[str, Any]
) -> None:
    """All ranks: from the examples to the published model."""
    with long("importing the libraries", IMPORTING):
        from narae.follow import RunFolder
        from narae.ranks import part
        from narae.training import quiet

    beat("reading the options")
    config, args = arguments()
    quiet()
    from finetune.chat import load_tokenizer

    tokenizer = load_tokenizer(base)
    lineage = {"parents": {parent.kind: parent.fingerprint for parent in parents}, "inputs": inputs}
    folder = RunFolder(config.name, identity | lineage, config.overwrite)
    counts, staged = train(config, args, base, tokenizer, examples, folder)
    if rank() == 0:
        draft = begin("model", config.name, identity, parents, inputs, overwrite=True)
        assert draft is not None
        with draft:
            for file in staged.iterdir():
                if file.name != "training_args.bin":
                    file.rename(draft.path / file.name)
            draft.counts |= counts
        shutil.rmtree(staged, ignore_errors=True)
        held_out = f", {counts['exact']:.1%} of {counts['val']:,} held-out answers exact" if counts["val"] else ""
        say(f"finished: {draft.target}{held_out}")
    part()


def arguments() -> tuple[SftConfig, Any]:
    from narae.training import TrainingOptions

    config, args = parse(SftConfig, TrainingOptions, config=CONFIG, about=__doc__)
    args.place(config.name)
    return config, args


def open_base(name: str) -> tuple[Path, list[Artifact], dict[str, Any]]:
    """The base model's folder, and how it is told apart: as a parent, or by its files' hashes."""
    folder = Path(name).expanduser()
    if os.sep not in name and not name.startswith("."):
        found = open_artifact("model", name)
        return found.path, [found], {}
    if (folder / "manifest.json").is_file():
        found = open_artifact("model", str(folder.absolute()))
        return found.path, [found], {}
    if not (folder / "config.json").is_file():
        raise Mistake(f"--model {name}: no config.json in {folder.absolute()}, so it is no Hugging Face model folder")
    files = sorted(file for file in folder.iterdir() if file.suffix in {".json", ".jinja", ".safetensors", ".bin"})
    return folder.absolute(), [], {"model": {file.name: hash_file(file) for file in files}}


def train(
    config: SftConfig, args: Any, base: Path, tokenizer: Any, examples: Artifact, folder: Any
) -> tuple[dict[str, Any], Path]:
    """Returns what the manifest counts, and the folder with the model."""
    from finetune.chat import AnswerTrainer, count, load_model, with_adapters
    from finetune.examples import encode, read_messages
    from narae.checkpoint import checkpoints, last_good
    from narae.follow import Follow
    from narae.ranks import first_says
    from narae.restarts import check_restarts

    began = time.monotonic()
    beat("loading the model")
    model = load_model(base, args.seed)
    context = int(getattr(model.config, "max_position_embeddings", 0) or tokenizer.model_max_length)
    conversations = {split: read_messages(examples.path / f"{split}.jsonl") for split in ("train", "val")}
    with long("encoding the examples", 500 * seconds_for(examples.path)):
        rows, too_long = encode(tokenizer, conversations["train"], context)
        held_out, too_long_val = encode(tokenizer, conversations["val"], context)
    if not rows:
        raise Mistake(f"all {too_long:,} examples of '{examples.name}' are longer than the model's {context} tokens")
    if too_long + too_long_val:
        say(f"{too_long + too_long_val:,} examples are longer than the model's {context} tokens and left out")
    beat("preparing the model")
    model.generation_config = generation(config, tokenizer, rows[0])
    parameters = count(model.parameters())
    if config.method == "lora":
        model = with_adapters(model, config, args)
    trained = count(p for p in model.parameters() if p.requires_grad)
    per_step = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    tokens = sum(len(row["input_ids"]) for row in rows)
    follow = Follow(folder, config.name, tokens_per_step=per_step * tokens / len(rows))
    prompts = config.prompts or [chat[-2]["content"] for chat in conversations["val"][:5]]
    trainer = AnswerTrainer(model, args, tokenizer, rows, held_out, follow, prompts)
    trainer.mark = folder.mark
    with long("looking for the newest whole checkpoint", seconds_for(*checkpoints(folder.path))):
        resume = last_good(folder.path, folder.mark)
    step = int(resume.name.rsplit("-", 1)[1]) if resume else 0
    first_says(lambda: check_restarts(folder.path, step, args.max_restarts))
    steps = f"{args.max_steps:,} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs, steps"
    say(
        f"{'goes on from ' + resume.name if resume else 'starts'}: {trained / 1e6:,.1f}M of {parameters / 1e6:,.1f}M "
        f"parameters, {steps} of {per_step} examples, {len(rows):,} examples with {tokens:,} tokens, "
        f"{'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'}; ready after {time.monotonic() - began:.1f} s"
    )
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    step = trainer.state.global_step
    if step < trainer.state.max_steps:
        follow.stopped(step)
    beat("the last pages and weights are written")
    follow.close()
    folder.metrics.write("end", step=step, seconds=round(time.monotonic() - began, 1))
    staged = save(config, trainer, tokenizer, folder.path)
    counts = {"parameters": parameters, "trained_parameters": trained, "steps": step}
    counts |= {"train": len(rows), "val": len(held_out), "too_long": too_long + too_long_val}
    return counts | trainer.figures, staged


def generation(config: SftConfig, tokenizer: Any, row: dict[str, list[int]]) -> Any:
    """What generation_config.json says. An answer ends with the last token that the template lets the assistant say."""
    from transformers import GenerationConfig

    end = [token for token, mine in zip(row["input_ids"], row["answer"], strict=True) if mine][-1]
    return GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        repetition_penalty=config.repetition_penalty,
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(dict.fromkeys([end, tokenizer.eos_token_id])),
        pad_token_id=tokenizer.pad_token_id,
    )


def save(config: SftConfig, trainer: Any, tokenizer: Any, run: Path) -> Path:
    """A plain Hugging Face folder with its tokenizer. All ranks take part: ZeRO-3 gathers the weights."""
    staged = run / ".final"
    if rank() == 0:
        shutil.rmtree(staged, ignore_errors=True)
    if config.method == "full":
        trainer.save_model(str(staged))
    elif rank() == 0:
        trainer.model.save_pretrained(str(run / "adapter"))
        merged = trainer.model.merge_and_unload()
        merged.save_pretrained(str(staged))
        tokenizer.save_pretrained(str(staged))
    return staged


if __name__ == "__main__":
    main()
