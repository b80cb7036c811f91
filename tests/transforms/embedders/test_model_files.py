"""What a folder says of its model decides the space; what it lacks or contradicts is one line."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from schemas.config import Model
from schemas.errors import BadConfig, ModelNotFound
from tests.transforms.embedders.tiny_models import (
    FAMILIES,
    Family,
    settings,
    write_encoder,
    write_json,
    write_model,
)
from transforms.embedders import model_files
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.model_files import read_spec, wanted_files, weights_digest
from transforms.embedders.models import space_of

NAME = "tiny/model"


def test_a_folder_of_sentence_transformers_says_it_all(tmp_path: Path) -> None:
    folder = write_model(tmp_path, pooling="cls", prompts={"query": "query: ", "document": "passage: "})
    space = space_of(Model(name=NAME, folder=folder))
    assert space.model == NAME
    assert space.weights_sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (space.pooling, space.normalize, space.dimensions, space.max_tokens) == ("cls", True, 24, 32)
    assert (space.query_prefix, space.document_prefix) == ("query: ", "passage: ")


def test_a_bare_folder_is_pooled_by_the_mean_up_to_its_last_position(tmp_path: Path) -> None:
    space = space_of(Model(name=NAME, folder=write_encoder(tmp_path)))
    assert (space.pooling, space.normalize, space.dimensions, space.max_tokens) == ("mean", False, 24, 40)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_no_token_takes_are_no_positions(tmp_path: Path, family: Family) -> None:
    spec = read_spec(NAME, write_model(tmp_path, family, max_seq_length=100))
    assert (spec.positions, spec.max_tokens) == (40, 40)


def test_the_limit_may_stand_with_the_tokenizer_as_newer_files_have_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    write_json(folder / "sentence_bert_config.json", {"transformer_task": "feature-extraction"})
    write_json(folder / "tokenizer_config.json", {"model_max_length": 24})
    assert read_spec(NAME, folder).max_tokens == 24
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert read_spec(NAME, folder).max_tokens == 40


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode": "cls", "embedding_dimension": 24}, "cls"),
        ({"pooling_mode": ["cls", "max"]}, "cls+max"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": False}, "mean+without_prompt"),
        ({}, "mean"),
    ],
)
def test_poolings_keep_the_names_that_their_library_gives_them(
    tmp_path: Path, settings: dict[str, object], pooling: str
) -> None:
    folder = write_model(tmp_path)
    write_json(folder / "1_Pooling" / "config.json", settings)
    assert read_spec(NAME, folder).pooling == pooling


@pytest.mark.parametrize(
    ("prompts", "default", "prefixes"),
    [
        ({}, None, ("", "")),
        ({"query": "q ", "passage": "p "}, None, ("q ", "p ")),
        ({"query": "q "}, "query", ("q ", "q ")),
        ({"query": "q ", "document": ""}, "query", ("q ", "")),
        ({"retrieval": "r "}, "retrieval", ("r ", "r ")),
        ({"retrieval": "r "}, None, ("", "")),
    ],
)
def test_prompts_become_prefixes(
    tmp_path: Path, prompts: dict[str, str], default: str | None, prefixes: tuple[str, str]
) -> None:
    spec = read_spec(NAME, write_model(tmp_path, prompts=prompts, default_prompt_name=default))
    assert (spec.query_prefix, spec.document_prefix) == prefixes


def test_the_configuration_has_the_last_word_on_prefixes(tmp_path: Path) -> None:
    folder = write_model(tmp_path, prompts={"query": "q ", "document": "d "})
    space = space_of(Model(name=NAME, folder=folder, query_prefix="query: ", document_prefix=""))
    assert (space.query_prefix, space.document_prefix) == ("query: ", "")


def test_an_older_layout_keeps_the_encoder_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write_encoder(tmp_path / "0_Transformer")
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    kinds = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    write_json(
        tmp_path / "modules.json", [{"path": path, "type": f"x.{kind}"} for path, kind in kinds.items()]
    )
    model = Model(name=NAME, folder=tmp_path, engine="onnx", threads=1)
    vectors = load_engine(model).run(load_tokenizer(model).encode(["pump stalls"]))
    assert (vectors.shape, space_of(model).pooling) == ((1, 24), "cls")


def test_other_weights_are_another_space_and_the_digest_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path)
    model = Model(name=NAME, folder=folder)
    before = space_of(model)
    monkeypatch.setattr(model_files, "digest_of", lambda path: pytest.fail("computed again"))
    assert space_of(model) == before
    monkeypatch.undo()
    weights = folder / "model.safetensors"
    changed = load_file(weights)
    changed["embeddings.word_embeddings.weight"] *= 2
    save_file(changed, weights)
    os.utime(weights, ns=(1, 1))  # a file written within the same tick of the clock must differ somehow
    assert space_of(model).weights_sha256 != before.weights_sha256


def test_the_digest_of_several_files_depends_on_each(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    digests = {weights_digest(files) for files in ([one], [two], [one, two], [two, one])}
    assert len(digests) == 4


@pytest.mark.parametrize(
    "missing", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"]
)
def test_an_incomplete_folder_lists_what_it_lacks(tmp_path: Path, missing: str) -> None:
    folder = write_model(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(ModelNotFound, match=f"lacks {missing}.*as sentence-transformers saves it"):
        space_of(Model(name=NAME, folder=folder))


def test_a_folder_that_is_none_lacks_everything(tmp_path: Path) -> None:
    with pytest.raises(
        ModelNotFound, match=r"lacks config\.json, tokenizer\.json, model\.safetensors or onnx"
    ):
        space_of(Model(name=NAME, folder=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", b"{", r"modules\.json: cannot be read"),
        ("modules.json", b"[]", r"modules\.json: found nothing, expected a Transformer first"),
        ("modules.json", b"[1]", r"modules\.json: expected a list of modules"),
        ("modules.json", b'[{"type": "x.WordEmbeddings", "path": ""}]', "found WordEmbeddings, expected"),
        ("modules.json", b'[{"type": "x.Transformer", "path": "../up"}]', r"found \.\./up, expected"),
        ("config.json", b"[]", r"config\.json: expected a JSON object"),
        ("config.json", b"{}", "hidden_size is None, expected a whole number"),
        ("config.json", b'{"hidden_size": "wide"}', "hidden_size is 'wide', expected a whole number"),
        ("1_Pooling/config.json", b'{"word_embedding_dimension": 25}', "25 dimensions, config.json gives 24"),
        ("config_sentence_transformers.json", b'{"prompts": ["query: "]}', "prompts: expected a table"),
        (
            "config_sentence_transformers.json",
            b'{"prompts": {"query": 7}}',
            "prompts: expected texts, found int",
        ),
    ],
)
def test_a_file_that_makes_no_sense_is_named(tmp_path: Path, file: str, content: bytes, said: str) -> None:
    folder = write_model(tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(BadConfig, match=said) as caught:
        space_of(Model(name=NAME, folder=folder))
    assert "\n" not in str(caught.value)


def test_modules_and_poolings_for_torch_alone_are_refused_elsewhere_before_anything_is_loaded(
    tmp_path: Path,
) -> None:
    dense = write_model(tmp_path / "dense", dense=12)
    with pytest.raises(BadConfig, match=r'has modules Dense.*model.engine = "torch"'):
        space_of(Model(name=NAME, folder=dense))
    weighted = write_model(tmp_path / "weighted", pooling="max")
    with pytest.raises(BadConfig, match=r'has pooling max.*model.engine = "torch"'):
        space_of(Model(name=NAME, folder=weighted))
    space = space_of(Model(name=NAME, folder=dense, engine="torch"))
    assert space.dimensions == 12
    alone = hashlib.sha256((dense / "model.safetensors").read_bytes()).hexdigest()
    assert space.weights_sha256 != alone, "a projection's weights decide the vectors as well"


def test_an_unknown_architecture_is_refused_where_torch_would_be_needed(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, model_type="modernbert")
    with pytest.raises(BadConfig, match="found model_type 'modernbert'"):
        space_of(Model(name=NAME, folder=folder))
    assert space_of(Model(name=NAME, folder=folder, engine="torch")).dimensions == 24


def test_pickled_weights_are_for_torch_alone(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"lacks model\.safetensors or onnx/model\.onnx"):
        space_of(Model(name=NAME, folder=folder))
    assert space_of(Model(name=NAME, folder=folder, engine="torch")).dimensions == 24


def test_weights_of_another_shape_are_refused_when_loaded(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    write_json(folder / "config.json", settings(intermediate_size=48))
    with pytest.raises(
        BadConfig, match=r"intermediate\.dense\.weight is float32 of shape \(40, 24\), expected floats"
    ):
        load_engine(Model(name=NAME, folder=folder, engine="onnx"))
    short = load_file(folder / "model.safetensors") | {
        "embeddings.token_type_embeddings.weight": np.zeros((2, 23), np.float32)
    }
    save_file(short, folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    with pytest.raises(BadConfig, match=r"token_type_embeddings\.weight.*\(2, 23\)"):
        load_engine(Model(name=NAME, folder=folder, engine="onnx"))


def test_a_limit_beyond_the_positions_names_both(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "roberta")
    with pytest.raises(BadConfig, match=r"model\.max_tokens: 41 asked, tiny/model has 40 positions"):
        space_of(Model(name=NAME, folder=folder, max_tokens=41))
    assert space_of(Model(name=NAME, folder=folder, max_tokens=40)).max_tokens == 40


def test_only_what_makes_a_model_is_wanted_of_a_repository() -> None:
    small = ["1_Pooling/config.json", "config.json", "modules.json", "tokenizer.json"]
    others = ["README.md", "onnx/model_O4.onnx", "openvino/openvino_model.bin", "tf_model.h5", "vocab.txt"]
    weights = ["model.safetensors", "onnx/model.onnx", "onnx/model.onnx_data", "pytorch_model.bin"]
    assert wanted_files([*small, *others, *weights]) == [*small, "model.safetensors"]
    assert wanted_files([*small, *others, *weights[1:]]) == [*small, *weights[1:3]]
    assert wanted_files([*small, *others, *weights[1:]], "torch") == [*small, "pytorch_model.bin"]
    assert wanted_files(["../config.json", "a/b/config.json", *small, *others]) == small
    dense = ["2_Dense/config.json", "2_Dense/model.safetensors", "3_Normalize/config.json"]
    listed = [*small, *dense, "model.safetensors"]
    assert set(wanted_files(listed)) == set(listed)
