"""A DeepSpeed config, read before DeepSpeed reads it: what would fail late, or train something else, is said first."""

import difflib
import json
import os
from pathlib import Path
from typing import Any

from narae.log import Mistake, say

TOP = """
    zero_optimization bf16 fp16 data_types gradient_clipping gradient_accumulation_steps train_batch_size
    train_micro_batch_size_per_gpu zero_force_ds_cpu_optimizer communication_data_type
""".split()
OFFLOAD = ("offload_optimizer", "offload_param")
DTYPES = {"fp32": "fp32", "float32": "fp32", "float": "fp32"} | {"bf16": "bf16", "bfloat16": "bf16"}
DTYPES |= {"fp16": "fp16", "float16": "fp16", "half": "fp16"}


def check(config: str | Path | dict[str, Any], args: Any) -> None:
    """One clear line for a config that contradicts the run's TrainingArguments, or itself."""
    name = "--deepspeed" if isinstance(config, dict) else str(config)
    values = config if isinstance(config, dict) else read(Path(config))
    for key in values:
        near = difflib.get_close_matches(key, TOP, 1, 0.85)
        if near and key not in TOP:
            raise Mistake(f"{name}: DeepSpeed would pass over {key!r} without a word: is {near[0]!r} meant?")
    no_recipe(name, values)
    sizes(name, values, args)
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    precisions(name, values, precision)
    stages(name, values.get("zero_optimization", {}), values, precision)


def read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Mistake(f"{path} is no JSON that can be read ({error}): configs/ds holds working ones") from None
    if not isinstance(values, dict):
        raise Mistake(f"{path} holds a {type(values).__name__} instead of an object: configs/ds holds working ones")
    return values


def no_recipe(name: str, values: dict[str, Any]) -> None:
    if "optimizer" in values:
        raise Mistake(
            f"{name} has an optimizer block, with which norms and biases would lose their group without weight decay: "
            "remove it, and use --optim, --learning_rate, --adam_beta1, --adam_beta2, --weight_decay"
        )
    if "scheduler" in values:
        raise Mistake(
            f"{name} has a scheduler block, which would go beside the run's own: remove it, and use "
            "--lr_scheduler_type, --learning_rate, --warmup_steps"
        )


def sizes(name: str, values: dict[str, Any], args: Any) -> None:
    """Numbers that the run has as well; "auto" takes the run's."""
    micro, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    world = int(os.environ.get("WORLD_SIZE", "1"))
    for key, ours, flag in (
        ("train_micro_batch_size_per_gpu", micro, "--per_device_train_batch_size is"),
        ("gradient_accumulation_steps", accumulated, "--gradient_accumulation_steps is"),
        ("train_batch_size", world * micro * accumulated, f"{world} ranks × {micro} × {accumulated} are"),
        ("gradient_clipping", args.max_grad_norm, "--max_grad_norm is"),
    ):
        value = values.get(key, 1.0 if key == "gradient_clipping" else "auto")  # DeepSpeed clips where nobody says so
        if value != "auto" and value != ours:
            raise Mistake(f'{name}: {key} is {value}, but {flag} {ours}: write "auto", which takes the run\'s')


def precisions(name: str, values: dict[str, Any], precision: str) -> None:
    on = {}
    for kind in ("bf16", "fp16"):
        block = values.get(kind, {})
        on[kind] = block.get("enabled", False) if isinstance(block, dict) else block
    if on["bf16"] is True and on["fp16"] is True:
        raise Mistake(f'{name} turns bf16 and fp16 on: write "enabled": "auto" in both, and --bf16 or --fp16 decides')
    for kind, value in on.items():
        if value != "auto" and bool(value) != (kind == precision):
            says = f"turns {kind} {'on' if value else 'off'}" if kind in values else f"has no {kind} block"
            raise Mistake(
                f"{name} {says}, but the run is in {precision}: "
                f'write "{kind}": {{"enabled": "auto"}}, and --bf16, --no_bf16 or --fp16 decides'
            )


def stages(name: str, zero: Any, values: dict[str, Any], precision: str) -> None:
    if not isinstance(zero, dict):
        raise Mistake(f'{name}: zero_optimization is {zero!r} instead of an object such as {{"stage": 2}}')
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3) or isinstance(stage, bool):
        raise Mistake(f"{name}: zero_optimization.stage is {stage!r}: the stages are 0, 1, 2 and 3")
    known_keys(name, zero)
    summed = (values.get("data_types") or {}).get("grad_accum_dtype")
    if summed is not None and summed not in DTYPES:
        raise Mistake(f"{name}: data_types.grad_accum_dtype is {summed!r}: it is fp32, bf16 or fp16")
    if summed and stage == 0 and DTYPES[summed] != precision:
        raise Mistake(
            f"{name}: stage 0 cannot sum gradients in {summed} in a run in {precision}: "
            "remove data_types.grad_accum_dtype, or take stage 1"
        )
    for key, first in (("offload_optimizer", 1), ("offload_param", 3)):
        device = (zero.get(key) or {}).get("device", "none")
        if device != "none" and stage < first:
            raise Mistake(
                f"{name}: {key} needs stage {first}{'' if first == 3 else ' or higher'}, but the stage is {stage}: "
                f"remove it, or take configs/ds/zero3-offload.json"
            )
        if device == "nvme" and stage < 3:
            raise Mistake(f"{name}: {key} to nvme needs stage 3, but the stage is {stage}: offload to cpu")
    if offloads(zero) and values.get("zero_force_ds_cpu_optimizer", True):
        raise Mistake(
            f"{name}: offload_optimizer asks for an optimizer that DeepSpeed compiles on first use; torch's is as fast "
            'and needs no compiler: write "zero_force_ds_cpu_optimizer": false'
        )
    gathers = zero.get("stage3_gather_16bit_weights_on_model_save", zero.get("gather_16bit_weights_on_model_save"))
    if stage == 3 and gathers is not True:
        raise Mistake(
            f"{name}: without stage3_gather_16bit_weights_on_model_save the saved folder would hold no weights: "
            'write "stage3_gather_16bit_weights_on_model_save": true'
        )


def known_keys(name: str, zero: dict[str, Any]) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    kinds = (DeepSpeedZeroConfig, DeepSpeedZeroOffloadOptimizerConfig, DeepSpeedZeroOffloadParamConfig)
    blocks = (("zero_optimization", zero), *((f"zero_optimization.{key}", zero.get(key) or {}) for key in OFFLOAD))
    for kind, (place, block) in zip(kinds, blocks, strict=True):
        if not isinstance(block, dict):
            raise Mistake(f'{name}: {place} is {block!r} instead of an object such as {{"device": "cpu"}}')
        known = {*kind.model_fields, *(field.alias for field in kind.model_fields.values() if field.alias)}
        for key in sorted(block.keys() - known):
            near = difflib.get_close_matches(key, known, 1)
            meant = f": is {near[0]!r} meant?" if near else ""
            raise Mistake(f"{name}: {place} has {key!r}, which DeepSpeed does not know{meant}")


def offloads(zero: dict[str, Any]) -> bool:
    return (zero.get("offload_optimizer") or {}).get("device", "none") != "none"


def stage(args: Any) -> int | None:
    """The ZeRO stage of these TrainingArguments; nothing without DeepSpeed."""
    if not args.deepspeed:
        return None
    return int(args.hf_deepspeed_config.config.get("zero_optimization", {}).get("stage", 0))


def for_muon(args: Any) -> None:
    """What Muon asks of a run and of its DeepSpeed config, before anything is allocated.

    Stages disagree about clipping: 2 and 3 would clip what Muon made of the gradients, whose norm is near 100, and so
    divide its learning rate by it; 1 in bf16 clips the gradients. An update of Muon's has its size from its shape.
    """
    if args.max_grad_norm:
        say(f"--max_grad_norm {args.max_grad_norm} is not applied: the size of a Muon update does not follow gradients")
        args.max_grad_norm = 0.0
    level = stage(args)
    if level is None:
        return
    config = args.hf_deepspeed_config.config
    config["gradient_clipping"] = 0.0
    if not level:
        return
    zero = config["zero_optimization"]
    summed = (config.get("data_types") or {}).get("grad_accum_dtype")
    if level == 2 and (args.bf16 or args.fp16) and DTYPES.get(str(summed)) == "fp32":
        # Measured, DeepSpeed 0.19.8: with fp32 sums 0.01 beside the losses of a plain loop after two steps, with bf16
        # sums within 0.002, as stages 1 and 3 are with either
        say("Muon under ZeRO-2 sums gradients in bf16; configs/ds/zero1.json and zero3.json sum them in fp32")
        del config["data_types"]["grad_accum_dtype"]
    if level == 3 and zero.setdefault("reduce_scatter", False):
        raise Mistake('Muon needs whole gradients: under ZeRO-3 write "reduce_scatter": false in zero_optimization')
