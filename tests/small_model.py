"""A tokenizer, a model of two layers and a few questions: what fine-tuning and generation are tested with."""

import json
from pathlib import Path
from typing import Any

import helpers
import torch
from transformers import AutoTokenizer, PhiConfig, PhiForCausalLM

from narae import artifact
from narae.artifact import Artifact, open_artifact
from tokenizer import train

FACTS = {
    "나래는 어디에 살아요?": "나래는 바닷가에 살아요.",
    "마루가 기르는 동물은 무엇입니까?": "마루는 고양이를 기릅니다.",
    "보라의 직업이 뭐예요?": "보라는 목수예요.",
    "시내는 무엇을 좋아해?": "시내는 국수를 좋아해.",
}


def tokenizer() -> Any:
    """384 entries: most syllables are two or three of them."""
    if artifact.find("tokenizer", "sample") is None:
        helpers.corpus()
        helpers.call(train.main, "--vocab_size", "384")
    return AutoTokenizer.from_pretrained(open_artifact("tokenizer", "sample").path)


def model(name: str = "sample", context: int = 128) -> Artifact:
    """A pretrained model, as pretrain/run.py publishes it, but with random weights."""
    draft = artifact.begin("model", name, {"context": context})
    if draft is not None:
        with draft:
            words = tokenizer()
            torch.manual_seed(1)
            config = PhiConfig(
                vocab_size=384,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=context,
                bos_token_id=0,
                eos_token_id=0,
                pad_token_id=1,
            )
            PhiForCausalLM(config).save_pretrained(str(draft.path))
            words.save_pretrained(str(draft.path))
    return open_artifact("model", name)


def questions(file: Path, facts: dict[str, str] = FACTS, repeat: int = 1) -> Path:
    rows = [{"prompt": question, "answer": answer} for question, answer in facts.items()]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows * repeat), encoding="utf-8")
    return file
