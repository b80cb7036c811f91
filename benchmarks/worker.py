"""One contender in a process of its own, which loads once and embeds when told to.

Told by lines of JSON on its input, answers by lines of JSON on its output; `benchmarks.workers` is the other end.
What libraries print goes to the error stream. Nothing of headrace is imported unless headrace is the contender, so
that a peer may run in an environment of its own.

Request: `texts` (a JSON file with a list), and where they apply `batch_size`, `max_batch_tokens`, `limit` (of texts)
and `vectors` (an .npy file to write). Answer: `seconds`, `peak_mib`, and where known `padding`; or `error`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str], dict[str, Any]], tuple[Floats | None, dict[str, Any]]]
"""Texts and a request to their vectors, and what else is worth telling."""


class NotMeasured(Exception):
    """This contender cannot run here, and why."""


def load_headrace(spec: dict[str, Any]) -> tuple[Embed, dict[str, Any]]:
    from benchmarks.embedding import embed_stream
    from schemas.config import Model
    from transforms.embedders.loading import load_engine, load_tokenizer

    model = Model.model_validate(spec["model"])
    engine, tokenizer = load_engine(model), load_tokenizer(model)
    if model.engine is not None and engine.facts.engine != model.engine:
        raise NotMeasured(f"asked for the engine {model.engine}, headrace gives {engine.facts.engine}")

    def embed(texts: Sequence[str], request: dict[str, Any]) -> tuple[Floats | None, dict[str, Any]]:
        results = list(
            embed_stream(engine, tokenizer, texts, model.max_buffer_tokens, request.get("max_batch_tokens"))
        )
        failed = sum(len(result.failed) for result in results)
        if failed:
            raise NotMeasured(f"{failed} of {len(texts)} texts could not be embedded")
        padded = sum(result.computed_tokens for result in results)
        padding = 1 - sum(result.tokens for result in results) / padded
        return np.concatenate([result.vectors for result in results]), {"padding": round(padding, 4)}

    facts = engine.facts
    return embed, {
        "engine": facts.engine,
        "arithmetic": facts.arithmetic,
        "version": facts.version,
        "threads": facts.threads,
        "streams": facts.streams,
        "max_batch_tokens": facts.max_batch_tokens,
    }


def load_sentence_transformers(spec: dict[str, Any]) -> tuple[Embed, dict[str, Any]]:
    import sentence_transformers

    backend = spec.get("backend", "torch")
    more = {} if backend == "torch" else {"model_kwargs": spec.get("model_kwargs", {})}
    model = sentence_transformers.SentenceTransformer(
        spec["folder"], device="cpu", backend=backend, local_files_only=True, **more
    )
    model.max_seq_length = spec["max_tokens"]

    def embed(texts: Sequence[str], request: dict[str, Any]) -> tuple[Floats | None, dict[str, Any]]:
        size = request.get("batch_size") or 32
        return model.encode(list(texts), batch_size=size, show_progress_bar=False), {}

    arithmetic = _openvino_arithmetic(model) if backend == "openvino" else "fp32"
    return embed, {"version": sentence_transformers.__version__, "engine": backend, "arithmetic": arithmetic}


def _openvino_arithmetic(model: Any) -> str:
    """OpenVINO takes a lower precision by itself where the processor has one; it says so only once compiled."""
    encoder = model[0].auto_model
    encoder.compile()
    hint: str = encoder.request.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {"f32": "fp32", "f16": "fp16"}.get(hint, hint)


def load_fastembed(spec: dict[str, Any]) -> tuple[Embed, dict[str, Any]]:
    import fastembed
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "benchmark/local"
    fastembed.TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(url="file:///not-used"),  # the folder is given below; one of two must be set
        dim=spec["dimensions"],
        model_file="onnx/model.onnx",
    )
    model = fastembed.TextEmbedding(name, specific_model_path=spec["folder"])

    def embed(texts: Sequence[str], request: dict[str, Any]) -> tuple[Floats | None, dict[str, Any]]:
        size = request.get("batch_size") or 256
        return np.stack(list(model.embed(list(texts), batch_size=size))).astype(np.float32), {}

    return embed, {"version": fastembed.__version__, "engine": "onnxruntime", "arithmetic": "fp32"}


def load_beam(spec: dict[str, Any]) -> tuple[Embed, dict[str, Any]]:
    import tempfile

    import apache_beam as beam
    from apache_beam.ml.transforms.base import MLTransform
    from apache_beam.ml.transforms.embeddings.huggingface import SentenceTransformerEmbeddings

    def embed(texts: Sequence[str], request: dict[str, Any]) -> tuple[Floats | None, dict[str, Any]]:
        counted: list[int] = []
        with tempfile.TemporaryDirectory() as artifacts:
            transform = MLTransform(write_artifact_location=artifacts).with_transform(
                SentenceTransformerEmbeddings(
                    model_name=spec["folder"], columns=["text"], inference_args={"show_progress_bar": False}
                )
            )
            with beam.Pipeline(runner="FnApiRunner") as pipeline:
                (
                    pipeline
                    | beam.Create([{"text": text} for text in texts])
                    | transform
                    | beam.combiners.Count.Globally()
                    | beam.Map(counted.append)
                )
        return None, {}

    return embed, {"version": beam.__version__, "engine": "torch", "arithmetic": "fp32"}


LOADERS: dict[str, Callable[[dict[str, Any]], tuple[Embed, dict[str, Any]]]] = {
    "headrace": load_headrace,
    "sentence-transformers": load_sentence_transformers,
    "fastembed": load_fastembed,
    "beam": load_beam,
}


@cache
def _texts(path: str) -> list[str]:
    texts: list[str] = json.loads(Path(path).read_text(encoding="utf-8"))
    return texts


def answer(embed: Embed, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked; the time is that of embedding alone."""
    texts = _texts(request["texts"])[: request.get("limit")]
    started = time.perf_counter()
    try:
        vectors, more = embed(texts, request)
    except Exception as error:  # each library fails in its own words
        return {"error": _line(error)}
    seconds = time.perf_counter() - started
    if request.get("vectors") and vectors is not None:
        np.save(request["vectors"], np.asarray(vectors, np.float32))
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "texts": len(texts), "peak_mib": round(peak / 2**20), **more}


def _line(error: Exception) -> str:
    text = f"{error}" if isinstance(error, NotMeasured) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]


def main() -> int:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    try:
        embed, facts = LOADERS[spec["kind"]](spec)
    except Exception as error:  # each library fails in its own words
        answers.write(json.dumps({"error": _line(error)}) + "\n")
        return 1
    answers.write(json.dumps({"facts": facts}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(answer(embed, json.loads(line))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
