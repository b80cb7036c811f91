"""Texts a second of every engine and precision of headrace, and of what else people embed with.

    python -m benchmarks.engines --json FILE [--data ../shared/data] [--full] [--peer-python NAME=PYTHON ...]

Each contender loads once in a process of its own and embeds the same texts, one contender at a time, round after
round; a rate is the median over rounds, a ratio the median of the ratios within each round, to sentence-transformers
at its best batch size. Figures are saved after every answer, and a second start with the same `--json` goes on where
the first was stopped. What cannot be measured is in the table with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.ceiling import ceilings, measure
from benchmarks.corpora import histogram, make_corpora
from benchmarks.figures import USD_PER_HOUR, cosines
from benchmarks.hardware import code_digest, load_average, machine
from benchmarks.model_folders import export_onnx, pinned_folder, write_reference_folder
from benchmarks.rows import Corpus, print_table, row_of
from benchmarks.suite import WORK
from benchmarks.workers import Contender, Worker
from schemas.config import Model
from schemas.spaces import Precision
from transforms.embedders.encoder import read_shape
from transforms.embedders.loading import load_tokenizer
from transforms.embedders.padding import check_lengths
from transforms.embedders.tokenizer import cut

MAX_TOKENS = 256
SIZES_QUICK = {"short": 256, "mixed": 96, "long": 16}
SIZES_FULL = {"short": 2048, "mixed": 512, "jira": 256, "long": 128}
ROUNDS_QUICK, ROUNDS_FULL = 2, 5
BATCH_SIZES = (32, 64, 100, 256)
"""Of sentence-transformers; 32 is its default."""
BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)
"""Padded tokens of a call into one of headrace's engines."""
BEAM_TEXTS_QUICK, BEAM_TEXTS_FULL = 64, 512
REST_S = 0.3
"""Between two contenders: the threads of the one before spin a while before they sleep."""
REFERENCE = "sentence-transformers"

Answers = dict[str, dict[str, Any]]
"""`contender|corpus|what` -> answer of its worker."""


def own_contenders() -> list[Contender]:
    """Every precision with the engine that headrace chooses, then with each engine by name."""
    engines = [name for name in _choices(Model.model_fields["engine"].annotation) if name is not None]
    chosen: list[str | None] = [None]
    found = []
    for engine in [*chosen, *engines]:
        for precision in get_args(Precision):
            settings = {"precision": precision} | ({"engine": engine} if engine else {})
            name = f"headrace {precision}" + (f" {engine}" if engine else "")
            found.append(Contender(name, {"kind": "headrace", "model": settings}))
    return found


def peer_contenders(
    folder: Path, dimensions: int, beam_texts: int, pythons: dict[str, str]
) -> list[Contender]:
    """What else embeds with the same weights.

    Args:
        folder: the model as its publisher lays it out.
        beam_texts: of a whole Beam job.
        pythons: contender -> interpreter of an environment of its own.
    """
    common = {"kind": REFERENCE, "folder": str(folder), "max_tokens": MAX_TOKENS}
    peers = [
        *(Contender(f"{REFERENCE} batch {size}", common, batch_size=size) for size in BATCH_SIZES),
        Contender(f"{REFERENCE} onnx", common | {"backend": "onnx"}, batch_size=32),
        Contender(f"{REFERENCE} openvino", common | {"backend": "openvino"}, batch_size=32),
        Contender("fastembed", {"kind": "fastembed", "folder": str(folder), "dimensions": dimensions}),
        Contender("beam MLTransform, whole job", {"kind": "beam", "folder": str(folder)}, limit=beam_texts),
    ]
    return [
        Contender(peer.name, peer.spec, peer.batch_size, pythons.get(peer.name), peer.limit) for peer in peers
    ]


class Run:
    """Asks contenders, and keeps what they answered in a file.

    Args:
        path: of the file; answers in it are not asked for again.
        settings: answers of a file with other ones are forgotten.
    """

    def __init__(self, path: Path, settings: dict[str, Any], work: Path) -> None:
        self._path = path
        self._settings = settings
        self.work = work
        self.workers: dict[str, Worker] = {}
        self.answers: Answers = {}
        if path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved.get("settings") == settings:
                self.answers = saved["answers"]

    def ask(self, contender: Contender, corpus: str, what: str, **request: Any) -> dict[str, Any]:
        """The answer, from the file if it is there."""
        key = f"{contender.name}|{corpus}|{what}"
        if key not in self.answers:
            worker = self._worker(contender)
            time.sleep(REST_S)
            found = worker.ask(self.work / f"{corpus}.json", **request)
            self.answers[key] = found | {"facts": worker.facts, "load": load_average()}
            self._say(key, found)
            self.save({})
        return self.answers[key]

    def save(self, result: dict[str, Any]) -> None:
        """Write the file as a whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        content = {"benchmark": "engines", **result, "settings": self._settings, "answers": self.answers}
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.rename(self._path)

    def end(self, contender: Contender) -> None:
        """End one contender's process, if it was started."""
        worker = self.workers.pop(_process(contender), None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """End all contenders."""
        for worker in self.workers.values():
            worker.close()

    def _worker(self, contender: Contender) -> Worker:
        key = _process(contender)
        if key not in self.workers:
            self.workers[key] = Worker(contender, self.work / "workers.log")
        worker = self.workers[key]
        worker.contender = contender
        return worker

    def _say(self, key: str, found: dict[str, Any]) -> None:
        rate = f"{found['texts'] / found['seconds']:10.1f} texts/s" if "seconds" in found else found["error"]
        print(f"{key.replace('|', ', '):60} {rate}", file=sys.stderr, flush=True)


def _process(contender: Contender) -> str:
    """Batch sizes of one peer share its process."""
    return json.dumps([contender.spec, contender.python])


def run_rounds(run: Run, contenders: Sequence[Contender], corpora: Iterable[str], rounds: int) -> None:
    """First a pass that warms up and keeps the vectors, then the timed rounds."""
    for number in range(rounds + 1):
        for corpus in corpora:
            for contender in _rotated(contenders, number):
                first = run.answers.get(f"{contender.name}|{corpus}|0", {})
                if "error" in first or (number > 1 and contender.spec["kind"] == "beam"):
                    continue
                vectors = {"vectors": str(_vectors(run.work, contender.name, corpus))} if number == 0 else {}
                run.ask(contender, corpus, str(number), **vectors)


def without_twins(
    run: Run, contenders: Sequence[Contender], corpus: str
) -> tuple[list[Contender], dict[str, str]]:
    """Leave out an engine asked for by name that computes as one before it does.

    Returns:
        The others, and name of the one left out -> name of its twin.
    """
    kept: list[Contender] = []
    seen: dict[tuple[str, ...], str] = {}
    twins: dict[str, str] = {}
    for contender in contenders:
        # What a short corpus costs is little, and it loads the engine, which says what it is.
        found = run.ask(contender, corpus, "hello", limit=8)
        facts = found.get("facts") or {}
        key = (facts.get("engine", contender.name), facts.get("arithmetic", ""))
        if key in seen and "engine" in contender.spec["model"]:
            twins[contender.name] = seen[key]
            run.end(contender)
        else:
            seen.setdefault(key, contender.name)
            kept.append(contender)
    return kept, twins


def main() -> int:
    options = _options()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    folder = write_reference_folder(work / "model")
    reason = export_onnx(folder)
    if reason:
        print(reason, file=sys.stderr)
    shape = read_shape(folder / "config.json")
    sizes = {
        name: max(8, int(size * options.scale))
        for name, size in (SIZES_FULL if options.full else SIZES_QUICK).items()
    }
    corpora = _corpora(sizes, folder, options.data, work)
    rounds = options.rounds or (ROUNDS_FULL if options.full else ROUNDS_QUICK)
    settings = {
        "rounds": rounds,
        "texts": {name: len(corpus.texts) for name, corpus in corpora.items()},
        "max_tokens": MAX_TOKENS,
        "code": code_digest(),
    }
    run = Run(options.json, settings, work)
    beam_texts = max(8, int((BEAM_TEXTS_FULL if options.full else BEAM_TEXTS_QUICK) * options.scale))
    try:
        own, twins = without_twins(run, own_contenders(), next(iter(corpora)))
        peers = peer_contenders(folder, shape.hidden, beam_texts, dict(options.peer_python))
        run_rounds(run, [*own, *peers], corpora, rounds)
        # How large a batch is best, of the engines that are chosen by themselves.
        for contender in own[: 2 if options.full else 0]:
            for number in range(3):
                for budget in BUDGETS:
                    run.ask(contender, "mixed", f"budget {budget} {number}", max_batch_tokens=budget)
    finally:
        run.close()
    best = ceilings(measure(seconds=0.5 if options.full else 0.2))
    gflops = {arithmetic: rate.gflops for arithmetic, rate in best.items()}
    agreement = {
        contender.name: _agreement(work, contender, peers[0], corpora) for contender in [*own, *peers]
    }
    rows = [
        row_of(
            contender,
            corpus,
            run.answers,
            rounds,
            shape,
            gflops,
            agreement[contender.name],
            options.usd_per_hour,
        )
        for corpus in corpora.values()
        for contender in [*own, *peers]
    ]
    run.save(
        {
            "machine": machine(),
            "usd_per_hour": options.usd_per_hour,
            "corpora": {
                name: {
                    "texts": len(corpus.texts),
                    "tokens_mean": round(float(np.mean(corpus.lengths)), 1),
                    "lengths": histogram(corpus.lengths),
                }
                for name, corpus in corpora.items()
            },
            "ceilings": {arithmetic: asdict(rate) for arithmetic, rate in best.items()},
            "same_as": twins,
            "rows": rows,
            "budgets": _budgets(own, run.answers, corpora["mixed"]),
        }
    )
    print_table(rows, twins)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="figures, saved after every answer")
    parser.add_argument("--data", type=Path, help="folder with jira/: adds its chunks to a full run")
    parser.add_argument("--full", action="store_true", help="more texts, more rounds, batch budgets")
    parser.add_argument("--rounds", type=int, help="timed ones")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of texts, to try things out")
    parser.add_argument(
        "--usd-per-hour", type=float, default=USD_PER_HOUR, help="price of the machine (%(default)s)"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="where models and vectors are kept")
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        type=lambda pair: tuple(pair.split("=", 1)),
        help="interpreter of an environment that a peer needs for itself",
    )
    return parser.parse_args()


def _corpora(sizes: dict[str, int], folder: Path, data: Path | None, work: Path) -> dict[str, Corpus]:
    model = Model(folder=pinned_folder())
    tokenizer = load_tokenizer(model)
    found = {}
    for name, texts in make_corpora(sizes, model, folder / "tokenizer.json", data).items():
        (work / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
        lengths = check_lengths([cut(ids, MAX_TOKENS) for ids in tokenizer.encode(texts)], MAX_TOKENS)
        found[name] = Corpus(name, texts, lengths)
    return found


def _vectors(work: Path, contender: str, corpus: str) -> Path:
    return work / f"{contender.replace(' ', '-')}-{corpus}.npy"


def _agreement(
    work: Path, contender: Contender, reference: Contender, corpora: Iterable[str]
) -> dict[str, tuple[float, float]]:
    """Corpus -> lowest and mean cosine to the reference in fp32."""
    found = {}
    for corpus in corpora:
        ours, theirs = (_vectors(work, name, corpus) for name in (contender.name, reference.name))
        if ours.is_file() and theirs.is_file():
            values = cosines(np.load(ours), np.load(theirs))
            found[corpus] = (float(values.min()), float(values.mean()))
    return found


def _budgets(
    contenders: Sequence[Contender], answers: Answers, corpus: Corpus
) -> dict[str, dict[str, float]]:
    """Contender -> padded tokens of a call -> texts/s, the median."""
    found: dict[str, dict[str, float]] = {}
    for contender in contenders:
        for budget in BUDGETS:
            asked = [
                answers.get(f"{contender.name}|mixed|budget {budget} {number}", {}) for number in range(3)
            ]
            seconds = [answer["seconds"] for answer in asked if "seconds" in answer]
            if seconds:
                rate = round(len(corpus.texts) / float(np.median(seconds)), 1)
                found.setdefault(contender.name, {})[str(budget)] = rate
    return found


def _rotated(contenders: Sequence[Contender], number: int) -> list[Contender]:
    start = number % len(contenders)
    return [*contenders[start:], *contenders[:start]]


def _choices(annotation: Any) -> list[Any]:
    """The values of a (nested) Literal."""
    inner = get_args(annotation)
    return [
        value
        for part in inner
        for value in (_choices(part) if get_args(part) else [part])
        if isinstance(value, str)
    ]


if __name__ == "__main__":
    sys.exit(main())
