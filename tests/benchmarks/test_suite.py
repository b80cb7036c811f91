"""The suite runs what is missing, in order; the machine and its ceiling are described as they are."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.bare_engine import EngineRate, mean_rate
from benchmarks.ceiling import Rate, ceilings, measure
from benchmarks.engines import own_contenders, without_twins
from benchmarks.hardware import ROOT, code_digest, instruction_sets, machine
from benchmarks.model_folders import SHAPES, random_tensors, write_random_folder
from benchmarks.overhead import comparison
from benchmarks.overhead import misses as job_misses
from benchmarks.plots import quality_points
from benchmarks.retrieval import differences, lost
from benchmarks.suite import Step, run, save, steps
from benchmarks.workers import Contender
from runners.bench import run_benchmarks
from schemas.config import Model
from schemas.errors import MissingFile
from transforms.embedders.loading import load_engine, load_tokenizer


def test_a_step_whose_figures_are_there_is_not_run_again(tmp_path: Path) -> None:
    save(tmp_path / "ceiling.json", {"kept": 1})
    assert run(Step("ceiling", "no_such_module"), tmp_path, again=False, quiet=True) == {
        "kept": True,
        "code": 0,
    }
    assert run(Step("ceiling", "no_such_module"), tmp_path, again=True, quiet=True)["code"] == 1


def test_quality_and_the_whole_job_need_the_payloads(tmp_path: Path) -> None:
    quick = [step.name for step in steps(False, None, 1000, None, [], tmp_path)]
    assert quick == ["ceiling", "engines", "growth-exact", "growth-fast"]
    full = [step.name for step in steps(True, None, 1000, None, [], tmp_path)]
    assert full == [*quick, "base_size", "connectors", "backfill", "plots"]
    with_data = {step.name: step for step in steps(True, tmp_path, 1000, None, [], tmp_path)}
    assert with_data.keys() - set(full) == {
        "retrieval-exact",
        "retrieval-fast",
        "overhead-exact",
        "overhead-fast",
    }
    assert str(tmp_path / "retrieval-exact.json") in with_data["retrieval-fast"].arguments


def test_without_a_checkout_the_command_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="clone it") as raised:
        run_benchmarks([], tmp_path)
    assert "\n" not in str(raised.value)


def test_the_command_passes_its_options_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_benchmarks(["--only", "nothing"]) == 2
    assert "no step nothing; there are ceiling, engines" in capfd.readouterr().err


def test_the_ceiling_is_the_fastest_library_in_each_arithmetic() -> None:
    rates = [
        Rate("fp32", "a", (1, 1, 1), 5.0),
        Rate("fp32", "b", (1, 1, 1), 7.0),
        Rate("int8", "b", (1, 1, 1), 20.0),
    ]
    found = ceilings(rates)
    assert (found["fp32"].library, found["fp32"].gflops) == ("b", 7.0)
    assert found["int16"].gflops == 10.0


def test_a_ceiling_is_measured_without_any_extra() -> None:
    found = ceilings(measure(shapes=((64, 64, 64),), seconds=0.01))
    assert found["fp32"].gflops > 0
    assert found["int8"].gflops > 0


def test_instruction_sets_are_read_by_whole_names() -> None:
    assert instruction_sets("model name\t: x\nflags\t\t: fpu avx512f avx512_vnni_not\n\n") == ["avx512f"]


def test_the_machine_is_described_in_json(tmp_path: Path) -> None:
    described = json.loads(json.dumps(machine()))
    assert described["versions"]["onnxruntime"]
    assert described["cores"] >= 1
    assert code_digest() == code_digest()
    assert code_digest() != code_digest(tmp_path)


@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_of_random_weights_is_a_model_that_loads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
    monkeypatch.setitem(SHAPES, name, SHAPES[name] | small)
    folder = write_random_folder(name, tmp_path / name)
    model = Model(name=f"benchmark/{name}", folder=folder, engine="onnx")
    vectors = load_engine(model).run(load_tokenizer(model).encode(["one text", "another one"]))
    assert vectors.shape == (2, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1])


def test_random_weights_are_the_same_for_a_seed() -> None:
    small = SHAPES["bert-base"] | {"num_hidden_layers": 1, "vocab_size": 10}
    first, again = random_tensors(small), random_tensors(small)
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_an_engine_that_is_chosen_anyway_is_measured_once() -> None:
    ended: list[str] = []

    class Told:
        def ask(self, contender: object, corpus: str, what: str, limit: int) -> dict[str, object]:
            return {"facts": {"engine": "onnx", "arithmetic": "fp32"}}

        def end(self, contender: Contender) -> None:
            ended.append(contender.name)

    kept, twins = without_twins(Told(), own_contenders(), "short")  # type: ignore[arg-type]
    assert [contender.name for contender in kept] == ["headrace exact", "headrace fast"]
    assert twins["headrace fast onnx"] == "headrace exact"
    assert ended == list(twins)


def test_what_fast_loses_beyond_its_bounds_is_named() -> None:
    exact = {"stsb_spearman": 86.7, "scifact_exhaustive_ndcg": 0.66, "jira_exhaustive_ndcg": 0.42}
    assert (
        lost({"stsb_spearman": 86.3, "scifact_exhaustive_ndcg": 0.655, "jira_exhaustive_ndcg": 0.43}, exact)
        == []
    )
    short = lost(
        {"stsb_spearman": 86.1, "scifact_exhaustive_ndcg": 0.65, "jira_exhaustive_ndcg": 0.41}, exact
    )
    assert [line.split()[0] for line in short] == list(exact)
    assert differences({"jira_exhaustive_ndcg": 0.441, "queries": 3}, exact) == {"jira_exhaustive_ndcg": 0.05}


def test_the_whole_job_is_held_against_the_bare_engine_and_beams_own_job() -> None:
    rates = [EngineRate(90.0, 80.0), EngineRate(110.0, 110.0)]
    found = comparison(95.0, rates, [60.0], {"tokens_per_s": 10.0})
    assert (found["share_of_bare_engine"], found["times_beam_mltransform"]) == (0.95, 9.5)
    assert found["share_of_engine_from_text"] == 1.0
    good = found | {"unchanged_documents_per_s": 4000, "overhead_share": 0.05}
    assert job_misses(good) == []
    assert (
        len(
            job_misses(
                good | {"share_of_bare_engine": 0.5, "times_beam_mltransform": 2, "overhead_share": 0.3}
            )
        )
        == 3
    )
    assert job_misses(good | comparison(95.0, rates, [60.0], {"not measured": "no torch"})) == []


def test_the_bare_engine_counts_for_the_time_of_the_job_beside_it() -> None:
    fast, slow = EngineRate(100.0, 90.0), EngineRate(50.0, 45.0)
    assert mean_rate([fast, slow, slow], [10.0, 30.0]) == EngineRate(56.25, 50.625)


def test_quality_is_drawn_for_precisions_with_a_rate() -> None:
    rows = [{"contender": "headrace exact", "corpus": "mixed", "texts_per_s": 5.0}]
    figures = {"stsb_spearman": 1.0, "scifact_exhaustive_ndcg": 2.0, "jira_exhaustive_ndcg": 3.0}
    points = quality_points({"rows": rows}, {"exact": {"figures": figures}, "fast": {"figures": figures}})
    assert points == [("exact", 5.0, figures)]


def test_an_interrupted_command_leaves_nothing_running(tmp_path: Path) -> None:
    code = (  # begun in the background of a shell, it would ignore the signal
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from runners.bench import run_benchmarks; sys.exit(run_benchmarks(sys.argv[1:]))"
    )
    arguments = ["--only", "growth-exact", "--results", str(tmp_path)]
    command = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert command.stderr is not None
    assert "growth-exact" in command.stderr.readline()
    started = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signal.SIGINT)
    assert "interrupted; start again to go on" in command.communicate(timeout=60)[1]
    assert command.returncode == 130
    psutil.wait_procs(started, timeout=20)
    assert [process.pid for process in started if process.is_running()] == []
