"""Under torchrun: a loss head whose weights lie in pieces under ZeRO-3. Each rank prints how far off the gradients are.

Beside those of the stock model with the rows of all ranks, in fp64; relative to their norm.
"""

import json
import os
import sys
import warnings

import torch
from torch import distributed
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from narae.training import before_deepspeed
from pretrain import loss

SHAPE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# Nothing stays whole between passes, however small
OPTIONS = {
    "train_micro_batch_size_per_gpu": 2,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


def gradients_apart(kind: type, shape: type) -> dict[str, float]:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(1)
    model = kind(shape(**SHAPE))
    plain = kind(shape(**SHAPE)).double()
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(0, 96, (2 * ranks, 16))
    labels = ids.clone()
    labels[:, 5] = loss.IGNORED  # as many in each row: the mean of the ranks' means is the mean of all
    plain(input_ids=ids, labels=labels).loss.backward()
    assert loss.use_loss_head(model)
    loss.CHUNK_ELEMENTS = 7 * 96
    engine = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=OPTIONS)[0]
    weight = model.lm_head.weight
    assert isinstance(model.lm_head, loss.LossHead) and weight.numel() == 0
    assert weight.ds_tensor.numel() == weight.ds_numel // ranks
    rows = slice(2 * rank, 2 * rank + 2)
    engine.backward(engine(input_ids=ids[rows], labels=labels[rows]).loss)
    assert weight.numel() == 0
    return {
        name: float((safe_get_full_grad(weights).double() - exact.grad).norm() / exact.grad.norm().clamp(min=1e-6))
        for (name, weights), exact in zip(model.named_parameters(), plain.parameters(), strict=True)
    }


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.simplefilter("ignore")
    before_deepspeed()
    import deepspeed

    deepspeed.init_distributed("gloo", verbose=False)
    for one in ((PhiForCausalLM, PhiConfig), (LlamaForCausalLM, LlamaConfig)):
        sys.stdout.write(json.dumps(gradients_apart(*one)) + "\n")  # in one piece, beside the other rank's
    sys.stdout.flush()
    distributed.destroy_process_group()
