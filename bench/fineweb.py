"""What FineWeb-2 does for kor_Hang, by datatrove: filters with the thresholds published there, and MinHash signatures.

The thresholds are those of configs/kor_Hang.yml and fineweb-2-pipeline.py in FineWeb-2's repository. Words are Kiwi's.
The steps run on documents in memory, one after the other, without an executor.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from narae.log import Mistake

LANGUAGE = "kor_Hang"
TOP_N_GRAMS = ((2, 0.282), (3, 0.228), (4, 0.185))
DUP_N_GRAMS = ((5, 0.201), (6, 0.184), (7, 0.168), (8, 0.154), (9, 0.14), (10, 0.127))
STOP_WORDS = "의 다 이 는 에 을 한 년 하 은 를 했 고 에서 가 있 으로 인 월 로 되".split()
# Kiwi's models, fastest first: 0.22, 0.12 and 0.03 MB/s. datatrove asks for the last, which Kiwi left out after 0.21.
MODELS = {"cong": "cong.mdl", "knlm": "sj.knlm", "sbg": "skipbigram.mdl"}


class Peer:
    def __init__(self, folder: Path):
        import kiwipiepy_model
        from datatrove.utils.logging import logger
        from datatrove.utils.word_tokenizers import load_word_tokenizer

        logger.remove()
        there = Path(kiwipiepy_model.__file__).parent
        self.folder = folder
        self.model = next(model for model, file in MODELS.items() if (there / file).exists())
        tokenizer = load_word_tokenizer(LANGUAGE)  # all steps share it
        tokenizer.model_type, tokenizer._tokenizer = self.model, None

    def filters(self, texts: list[str]) -> dict[str, int]:
        from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

        steps = (
            GopherRepetitionFilter(
                language=LANGUAGE,
                dup_para_frac=0,
                dup_line_char_frac=0,
                dup_para_char_frac=0,
                dup_line_frac=0.374,
                top_n_grams=TOP_N_GRAMS,
                dup_n_grams=DUP_N_GRAMS,
            ),
            FineWebQualityFilter(
                language=LANGUAGE,
                short_line_thr=999,
                char_duplicates_ratio=0.1,
                line_punct_thr=0.062,
                new_line_ratio=0.196,
            ),
            GopherQualityFilter(
                language=LANGUAGE,
                min_avg_word_length=1,
                max_avg_word_length=6,
                max_non_alpha_words_ratio=0.791,
                min_stop_words=2,
                stop_words=STOP_WORDS,
            ),
        )
        kept: Iterable[Any] = documents(texts)
        for step in steps:
            kept = step.run(kept)
        count = sum(1 for _ in kept)
        dropped = sum(int(step.stats["dropped"].total) for step in steps)
        if count + dropped != len(texts):
            raise Mistake(f"the peer kept {count:,} and dropped {dropped:,} of {len(texts):,} documents")
        return {"kept": count, "rejected": dropped}

    def signatures(self, texts: list[str]) -> int:
        import xxhash
        from datatrove.pipeline.dedup import MinhashDedupSignature
        from datatrove.pipeline.dedup.minhash import MinhashConfig
        from datatrove.utils.hashing import HashConfig

        hashes = HashConfig(precision=64, hash_fc="xxhash")
        config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=hashes)
        step = MinhashDedupSignature(str(self.folder), config, LANGUAGE)
        step._hash_func = lambda words: xxhash.xxh64_intdigest(words.encode())  # xxhash 4 takes no str
        step.run(documents(texts))
        record = 8 * config.hashes_per_bucket + 4
        counts = {path.stat().st_size // record for path in self.folder.glob("bucket_*/*.minhash.sig")}
        # A text of fewer than 5 words has none.
        if len(counts) != 1 or not 0.99 * len(texts) <= max(counts) <= len(texts):
            raise Mistake(f"the peer wrote {sorted(counts)} signatures for {len(texts):,} documents")
        return max(counts)


def documents(texts: list[str]) -> Iterator[Any]:
    from datatrove.data import Document

    return (Document(text=text, id=str(number)) for number, text in enumerate(texts))
