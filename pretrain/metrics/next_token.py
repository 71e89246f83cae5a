"""How often the likeliest next token is the right one, for the evaluate library.

    metric = evaluate.load("pretrain/metrics/next_token.py")
    metric.compute(predictions=[[5, 7, 9]], references=[[4, 5, 8]])      # {"accuracy": 0.5, "tokens": 2}

Rows come whole and not shifted: predictions[t] is what the model expects behind token t, so that it is compared with
references[t + 1]. Where that is -100 nothing is predicted. The last prediction of a row has nothing to compare with.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


class NextToken(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        row = datasets.Sequence(datasets.Value("int32"))
        return evaluate.MetricInfo(
            description="The share of next tokens that were predicted right",
            citation="",
            inputs_description="Rows of predicted ids, and the same rows of labels, -100 where none is wanted",
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        right = tokens = 0
        for expected, met in zip(predictions, references, strict=True):
            wanted = np.asarray(met[1:])
            counted = wanted != -100
            right += int(np.count_nonzero(counted & (np.asarray(expected[:-1]) == wanted)))
            tokens += int(np.count_nonzero(counted))
        return {"accuracy": right / tokens if tokens else 0.0, "tokens": tokens}
