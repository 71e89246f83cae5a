"""The command follows a loop that is plain enough to be believed, step by step.

`make test` follows it with every ZeRO stage; NARAE_TEST_FULL=1 with every stage, number of ranks and precision.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import oracle
import pytest
import torch
from oracle import Step, labels_of, sum_of_losses
from runs import PHI, TWO_RANKS, finish, pretrain, run_folder, small_world
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from narae.artifact import open_artifact
from narae.chain import free_port
from narae.log import read_metrics
from narae.mixture import Mixture
from narae.order import batch
from narae.packed import PackedRows
from pretrain.batches import Boundaries, tensors
from pretrain.loss import use_loss_head

# 10 steps of warm-up, 40 of cosine, each of 4 micro-batches in all: of 4 on one rank, of 2 on each of two
OPTIONS = (
    "--batch_rows 8 --per_device_train_batch_size 2 --max_steps 50 --warmup_steps 10 --learning_rate 0.002 "
    "--save_strategy no --eval_strategy no --logging_steps 1"
)
# A record has five decimals of a loss of 4 to 6, four of a norm of 0.5 to 3: fp32 differs by no more than that. Weight
# decay on norms, a schedule one step late, no clipping, another beta2: each moves some loss by 2e-4 at least.
FP32 = {"loss": 1e-5, "grad_norm": 5e-4, "mean": 1e-5}
# bf16 keeps 8 bits: a product is off by up to 0.4 percent, at random. Over a step's 248 tokens most of it cancels out,
# over 50 steps more: 6e-4 and 2e-4 were met.
BF16 = {"loss": 5e-3, "grad_norm": 5e-2, "mean": 1e-3}
STAGES = ["zero0", "zero1", "zero2", "zero3"]
SAMPLE = ["inside-1", "zero2-1-bf16", "ddp-2", "zero0-2", "zero1-2", "zero2-2", "zero3-2"]
FULL = ["inside-1", "plain-1", "ddp-2", "plain-1-bf16", "ddp-2-bf16"]
FULL += [f"{stage}-{ranks}{dtype}" for stage in STAGES for ranks in (1, 2) for dtype in ("", "-bf16")]
CASES = FULL if os.environ.get("NARAE_TEST_FULL") else SAMPLE


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_world(tmp_path_factory.mktemp("oracle")) as folder:
        yield folder


@pytest.fixture(scope="module")
def expected(world: Path) -> list[Step]:
    return followed(inside=False)


def followed(inside: bool) -> list[Step]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = oracle.steps(PHI, inside=inside)
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_run_follows_the_plain_loop(case: str, world: Path, expected: list[Step]) -> None:
    kind, ranks, *dtype = case.split("-")
    words, start = OPTIONS.split(), TWO_RANKS if ranks == "2" else [sys.executable]
    if kind in STAGES:
        pytest.importorskip("deepspeed")
        words += ["--deepspeed", f"configs/ds/{kind}.json"]
        launcher = shutil.which("deepspeed", path=str(Path(sys.executable).parent))
        assert launcher
        start = start if ranks == "2" else [launcher, "--master_port", str(free_port())]
    if kind == "inside":  # micro-batches with unlike numbers of tokens; what is computed twice changes nothing
        words += ["--document_loss", "inside", "--gradient_checkpointing", "true"]
        expected = followed(inside=True)
    finish(pretrain(world, case, *words, *([] if dtype else ["--no_bf16"]), start=start))
    follow(case, expected, BF16 if dtype else FP32)
    assert open_artifact("model", case, verify=True).counts["steps"] == 50


def follow(name: str, expected: list[Step], tolerance: dict[str, float]) -> None:
    records = [one for one in read_metrics(run_folder(name) / "metrics.jsonl") if one["kind"] == "train"]
    assert [one["step"] for one in records] == list(range(1, len(expected) + 1))
    for figure in ("loss", "grad_norm"):
        ours = [one[figure] for one in records]
        assert ours == pytest.approx([getattr(one, figure) for one in expected], rel=tolerance[figure]), figure
    mean = sum(one["loss"] for one in records) / len(records)
    assert mean == pytest.approx(sum(one.loss for one in expected) / len(expected), rel=tolerance["mean"])


def test_the_loop_learns_and_clips(expected: list[Step]) -> None:
    """Else following it would prove little."""
    assert expected[-1].loss < expected[0].loss - 1.5
    assert sum(one.grad_norm > 1 for one in expected) > 10


@pytest.mark.parametrize("head", ["loss head", "stock"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("kind", "shape"), [(PhiForCausalLM, PhiConfig), (LlamaForCausalLM, LlamaConfig)])
def test_both_losses_are_the_stock_models(
    kind: type, shape: type, apart: bool, inside: bool, head: str, world: Path
) -> None:
    """On the batch that training reads: what transformers makes of logits under a mask that is written out."""
    rows = Mixture([PackedRows(open_artifact("packed", "sample"))], seed=42)
    packed = rows.sets[0]
    numbers = batch(rows.mixing, 0, 8).tolist()
    ids = torch.stack([torch.from_numpy(rows[number]) for number in numbers])
    labels = labels_of(ids, packed.pad, packed.eos, inside)
    torch.manual_seed(1)
    values = {key: value for key, value in PHI.items() if key != "model_type"}
    model = kind(shape(**values, vocab_size=packed.artifact.counts["entries"], max_position_embeddings=32))
    stock = sum_of_losses(model, ids, labels, packed.eos, apart) / (labels[:, 1:] != -100).sum()
    stock.backward()
    gradients = {name: weights.grad.clone() for name, weights in model.named_parameters()}
    model.zero_grad()
    assert head == "stock" or use_loss_head(model)
    ours = model(**tensors(rows, numbers, Boundaries(attention=apart, inside=inside))).loss
    ours.backward()
    assert ours.item() == pytest.approx(stock.item(), rel=1e-6)
    for name, weights in model.named_parameters():
        torch.testing.assert_close(weights.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)
