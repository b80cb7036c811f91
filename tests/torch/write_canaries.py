"""Write the known vectors of a model with sentence-transformers, the reference: needs the [torch] extra.

python tests/torch/write_canaries.py MODEL_FOLDER OUTPUT.json
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import orjson
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer

MAX_TOKENS = 256

TEXTS = (
    "Login fails with a 500 after the session store was moved to the new cluster.",
    "ok",
    "fix(parser): accept CRLF line endings (#482)\n\nThe reader split on \\n alone, so every second line was lost.",
    "数据库连接池在高并发下耗尽，重启后恢复正常。接続プールが枯渇する問題を修正しました。",
    "def retry(call, attempts=3):\n    for attempt in range(attempts):\n        try:\n            return call()\n"
    "        except TimeoutError as error:\n            last = error\n    raise last",
    "ÄÖÜ naïve café – 12,5 % … 🚀 \u200b\t[SEP]",
    " ".join(
        f"Step {number}: open the valve, read gauge {number * 7 % 31} and note the pressure before going on."
        for number in range(60)
    ),
)


def main(folder: Path, output: Path) -> None:
    """Encode one by one, so that no padding is involved, and save little-endian float32."""
    model = SentenceTransformer(str(folder), device="cpu").float()
    model.max_seq_length = MAX_TOKENS
    vectors = [model.encode(text, normalize_embeddings=True) for text in TEXTS]
    versions = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
    saved = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "reference": f"{versions}, fp32 on the CPU",
        "sentences": [
            {"text": text, "vector": base64.b64encode(vector.astype("<f4").tobytes()).decode()}
            for text, vector in zip(TEXTS, vectors, strict=True)
        ],
    }
    output.write_bytes(orjson.dumps(saved, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
