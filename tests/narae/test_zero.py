"""A DeepSpeed config that contradicts itself or the run gets one line, and the shipped ones get none."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import HOME

from narae import zero
from narae.log import Mistake

SHIPPED = sorted((HOME / "configs/ds").glob("*.json"), key=lambda path: path.stem)
GOOD = json.loads((HOME / "configs/ds/zero2.json").read_text())


@dataclass
class Args:
    bf16: bool = True
    fp16: bool = False
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 2
    max_grad_norm: float = 1.0
    deepspeed: str | None = "zero.json"
    hf_deepspeed_config: Any = None


@dataclass
class Filled:
    config: dict[str, Any]


def changed(**words: Any) -> dict[str, Any]:
    """zero2.json with these keys; `zero` adds to zero_optimization."""
    config = copy.deepcopy(GOOD)
    config["zero_optimization"] |= words.pop("zero", {})
    return config | words


def test_five_are_shipped() -> None:
    assert [path.stem for path in SHIPPED] == ["zero0", "zero1", "zero2", "zero3", "zero3-offload"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize(("bf16", "fp16"), [(True, False), (False, True), (False, False)], ids=["bf16", "fp16", "fp32"])
def test_the_shipped_fit_every_precision(path: Path, bf16: bool, fp16: bool) -> None:
    zero.check(path, Args(bf16=bf16, fp16=fp16))
    values = json.loads(path.read_text())
    assert not {"optimizer", "scheduler"} & values.keys()
    summed = values.get("data_types", {}).get("grad_accum_dtype")
    assert summed == (None if values["zero_optimization"]["stage"] == 0 else "fp32")


@pytest.mark.parametrize("content", ["", "[1, 2]", "{'stage': 2}"])
def test_what_is_no_config(content: str, tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(content)
    with pytest.raises(Mistake, match=r"zero\.json .*: configs/ds holds working ones"):
        zero.check(file, Args())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"optimizer": {"type": "AdamW"}}, "norms and biases would lose their group without weight decay: remove it"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler block.*: remove it, and use --lr_scheduler_type"),
        ({"train_micro_batch_size_per_gpu": 4}, "train_micro_batch_size_per_gpu is 4, but --per_device_.* is 8"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps is 1, but --gradient_acc.* is 2: .*auto"),
        ({"train_batch_size": 64}, "train_batch_size is 64, but 1 ranks × 8 × 2 are 16"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, but --max_grad_norm is 1.0"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "turns bf16 and fp16 on"),
        ({"bf16": {"enabled": False}}, "turns bf16 off, but the run is in bf16"),
        ({"fp16": {"enabled": True}}, "turns fp16 on, but the run is in bf16"),
        ({"zero_optimization": 2}, r"zero_optimization is 2 instead of an object such as \{.stage.: 2\}"),
        ({"zero": {"stage": 4}}, "stage is 4: the stages are 0, 1, 2 and 3"),
        ({"zero": {"stage": "two"}}, "stage is 'two': the stages are"),
        ({"zero": {"stage": 0}}, "stage 0 cannot sum gradients in fp32 in a run in bf16"),
        ({"data_types": {"grad_accum_dtype": "fp8"}}, "grad_accum_dtype is 'fp8': it is fp32, bf16 or fp16"),
        ({"zero": {"stage": 3}}, "without stage3_gather_16bit_weights_on_model_save the saved folder would hold no"),
        ({"zero": {"offload_param": {"device": "cpu"}}}, "offload_param needs stage 3, but the stage is 2"),
        ({"zero": {"offload_optimizer": {"device": "nvme"}}}, "nvme needs stage 3, but the stage is 2"),
        ({"zero": {"offload_optimizer": {"device": "cpu"}}}, "write \"zero_force_ds_cpu_optimizer\": false"),
        ({"zero": {"overlap_com": True}}, "has 'overlap_com', which DeepSpeed does not know: is 'overlap_comm' meant"),
        ({"zero": {"offload_optimizer": {"devise": "cpu"}}}, "offload_optimizer has 'devise', .* 'device' meant"),
        ({"zero_optimisation": {"stage": 3}}, "pass over 'zero_optimisation' .*: is 'zero_optimization' meant"),
    ],
)  # fmt: skip
def test_a_conflict_is_one_line(words: dict[str, Any], says: str) -> None:
    with pytest.raises(Mistake, match=says) as refused:
        zero.check(changed(**words), Args())
    assert len(str(refused.value).splitlines()) == 1


def test_offload_needs_a_stage() -> None:
    config = changed(zero={"stage": 0, "offload_optimizer": {"device": "cpu"}})
    del config["data_types"]
    with pytest.raises(Mistake, match="offload_optimizer needs stage 1 or higher, but the stage is 0"):
        zero.check(config, Args())


def test_deepspeed_clips_where_nobody_says_so() -> None:
    config = copy.deepcopy(GOOD)
    del config["gradient_clipping"]
    zero.check(config, Args())
    with pytest.raises(Mistake, match=r'gradient_clipping is 1.0, but --max_grad_norm is 0.5: write "auto"'):
        zero.check(config, Args(max_grad_norm=0.5))


def test_numbers_that_agree_are_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    agreed = {"train_micro_batch_size_per_gpu": 8, "train_batch_size": 64, "gradient_clipping": 1}
    zero.check(changed(**agreed, bf16={"enabled": True}, fp16={"enabled": False}), Args())


def test_muon_changes_the_config_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    args = Args(hf_deepspeed_config=Filled(changed(gradient_clipping=1.0, zero={"stage": 3})))
    zero.for_muon(args)
    assert "--max_grad_norm 1.0 is not applied" in capsys.readouterr().err
    assert args.max_grad_norm == args.hf_deepspeed_config.config["gradient_clipping"] == 0
    assert args.hf_deepspeed_config.config["zero_optimization"]["reduce_scatter"] is False
    asked = Args(hf_deepspeed_config=Filled(changed(zero={"stage": 3, "reduce_scatter": True})))
    with pytest.raises(Mistake, match='under ZeRO-3 write "reduce_scatter": false'):
        zero.for_muon(asked)


def test_muon_sums_in_bf16_where_deepspeed_gets_fp32_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for words, left in (
        ({}, {}),
        ({"zero": {"stage": 1}}, {"grad_accum_dtype": "fp32"}),
    ):
        args = Args(max_grad_norm=0.0, hf_deepspeed_config=Filled(changed(**words)))
        zero.for_muon(args)
        assert args.hf_deepspeed_config.config["data_types"] == left
        assert ("Muon under ZeRO-2 sums gradients in bf16" in capsys.readouterr().err) == (not left)
    whole = Args(bf16=False, max_grad_norm=0.0, hf_deepspeed_config=Filled(changed()))
    zero.for_muon(whole)
    assert whole.hf_deepspeed_config.config["data_types"] == {"grad_accum_dtype": "fp32"}


def test_without_deepspeed_there_is_no_stage() -> None:
    assert zero.stage(Args(deepspeed=None)) is None
    assert zero.stage(Args(hf_deepspeed_config=Filled(GOOD))) == 2
