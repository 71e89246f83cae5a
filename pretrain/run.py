"""Train a model from random weights on packed rows.

    deepspeed pretrain/run.py --deepspeed configs/ds/zero2.json                   # the sample's config
    deepspeed pretrain/run.py --deepspeed configs/ds/zero2.json --config configs/pretrain/books-1.3b.yaml
    python pretrain/run.py --packed books --name first --size 125m --max_steps 1000

Run it again and an unfinished run goes on from its newest whole checkpoint; a finished one says where its model lies.
Every field of transformers' TrainingArguments is an option, too.
"""

import math
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narae.artifact import Artifact, begin, current, open_artifact
from narae.config import deciding, option, parse, parse_first
from narae.log import Mistake, rank, say
from narae.model import read_json
from narae.packed import PackedRows, parent

CONFIG = "configs/pretrain/sample.yaml"


@dataclass
class Config:
    name: str = option("sample", "the run; its folder is artifacts/runs/<name>")
    overwrite: bool = option(False, "replace a run of another config under this name")
    packed: str = option("sample", "the packed rows to read")
    size: str = option("tiny", "the model's shape, from the table in narae/model.py")
    model_config: str | None = option(None, "config.json of another causal LM to start from random weights")
    batch_rows: int = option(64, "rows in one step, over all ranks and accumulation")


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        arguments()
    config, asked = parse_first(Config, config=CONFIG)
    packed = open_artifact("packed", config.packed)
    # What was asked for decides, before seconds go into importing the library that knows what was not
    identity = {"model": config.size, "batch_rows": config.batch_rows}
    if config.model_config:
        identity["model"] = read_json(Path(config.model_config))
    identity |= deciding(asked, "per_device_train", "gradient_accumulation", "max_eval")
    if current("model", config.name, identity, [packed], overwrite=config.overwrite):
        return
    config, args = arguments()
    share_batch(config, args, packed)
    metrics = train(config, args, packed, identity)
    if rank() == 0:
        publish(config, args, packed, identity, metrics)


def arguments() -> tuple[Config, Any]:
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ:
        # srun is no launcher: it says who we are in words of its own. The batch script exports MASTER_ADDR.
        for name, slurm in (("RANK", "SLURM_PROCID"), ("LOCAL_RANK", "SLURM_LOCALID"), ("WORLD_SIZE", "SLURM_NTASKS")):
            os.environ[name] = os.environ[slurm]
    from narae.training import TrainingOptions, quiet

    quiet()
    config, args = parse(Config, TrainingOptions, config=CONFIG, about=__doc__)
    args.place(config.name)
    return config, args


def share_batch(config: Config, args: Any, packed: Artifact) -> None:
    """Micro-batch and accumulation follow from the ranks that there are, the number of steps from the epochs."""
    ranks = args.world_size
    if config.batch_rows % ranks:
        raise Mistake(f"--batch_rows {config.batch_rows} cannot be shared evenly by {ranks} ranks")
    share = config.batch_rows // ranks
    fitting = [micro for micro in range(1, args.per_device_train_batch_size + 1) if share % micro == 0]
    args.per_device_train_batch_size = fitting[-1]
    args.gradient_accumulation_steps = share // fitting[-1]
    if args.max_steps <= 0:
        args.max_steps = max(1, math.ceil(args.num_train_epochs * packed.counts["train"]["rows"] / config.batch_rows))


def train(config: Config, args: Any, packed: Artifact, identity: dict[str, Any]) -> dict[str, float]:
    """All ranks. Leaves the weights in runs/<name>/.final; a signal ends it with a checkpoint instead."""
    from transformers import AutoTokenizer

    from narae.checkpoint import last_good
    from narae.model import from_values, new_config, new_model
    from narae.training import STOPPED, Follow, RunFolder
    from pretrain.loss import use_loss_head
    from pretrain.trainer import Pretrainer

    rows, held_out = PackedRows(packed, "train"), PackedRows(packed, "val")
    length, entries = rows.sequence_length, packed.counts["entries"]
    tokenizer = AutoTokenizer.from_pretrained(parent(packed, "tokenizer").path)
    shape = (
        from_values(read_json(Path(config.model_config)), entries, length)
        if config.model_config
        else new_config(config.size, entries, length)
    )
    shape.bos_token_id = shape.eos_token_id = tokenizer.eos_token_id
    shape.pad_token_id = tokenizer.pad_token_id
    lineage = {"parents": {"packed": packed.fingerprint}}  # an unfinished run does not go on with other rows
    folder = RunFolder(config.name, identity | lineage, config.overwrite)
    model = new_model(shape, args.seed)
    use_loss_head(model)
    args.eval_strategy = args.eval_strategy if len(held_out) else "no"
    # Padding is not predicted, nor is the first token of a row
    targets = (rows.counts["tokens"] - len(rows)) / len(rows)
    resume = last_good(folder.path)
    trainer = Pretrainer(
        rows,
        held_out,
        config.batch_rows,
        first_step=int(resume.name.rsplit("-", 1)[1]) if resume else 0,
        follow=Follow(folder, config.name, tokens_per_step=config.batch_rows * targets),
        model=model,
        args=args,
        processing_class=tokenizer,
    )
    say(
        f"{'goes on from ' + resume.name if resume else 'starts'}: {size_of(model) / 1e6:,.1f}M parameters, "
        f"{args.max_steps:,} steps of {config.batch_rows} rows × {length} tokens out of {len(rows):,} rows; "
        f"{args.world_size} ranks × {args.per_device_train_batch_size} rows × {args.gradient_accumulation_steps}, "
        f"{'bf16' if args.bf16 else 'fp16' if args.fp16 else 'fp32'}"
    )
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if trainer.state.global_step < args.max_steps:
        trainer.follow.close()
        say(f"stopped by a signal after step {trainer.state.global_step:,}; the same command goes on from there")
        sys.exit(STOPPED)
    history = [record for record in trainer.state.log_history if "eval_loss" in record]
    if len(held_out) and not (history and history[-1]["step"] == args.max_steps):
        history.append(trainer.evaluate())
    trainer.follow.close()
    folder.metrics.write("end", step=args.max_steps, seconds=round(time.monotonic() - began, 1))
    model.generation_config = generation_defaults(tokenizer)
    trainer.save_model(str(folder.path / ".final"))
    last = history[-1] if history else {}
    figures = {key: last[f"eval_{key}"] for key in ("loss", "bits_per_byte") if f"eval_{key}" in last}
    return {"parameters": size_of(model), **figures}


def publish(config: Config, args: Any, packed: Artifact, identity: dict[str, Any], metrics: dict[str, float]) -> None:
    """final/: a plain Hugging Face folder with its tokenizer and its manifest."""
    draft = begin("model", config.name, identity, [packed], overwrite=True)
    assert draft is not None
    staged = Path(args.output_dir) / ".final"
    with draft:
        for file in staged.iterdir():
            if file.name != "training_args.bin":
                file.rename(draft.path / file.name)
        tokens = args.max_steps * config.batch_rows * packed.counts["sequence_length"]
        draft.counts |= {**metrics, "steps": args.max_steps, "tokens": tokens}
    shutil.rmtree(staged)
    judged = f": {metrics['bits_per_byte']:.3f} bits per byte held out" if "bits_per_byte" in metrics else ""
    say(f"finished{judged}: {draft.target}")


def size_of(model: Any) -> int:
    return sum(getattr(weights, "ds_numel", weights.numel()) for weights in model.parameters())


def generation_defaults(tokenizer: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        max_new_tokens=128,
        do_sample=True,
        temperature=0.8,
        top_p=0.95,
        repetition_penalty=1.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


if __name__ == "__main__":
    main()
