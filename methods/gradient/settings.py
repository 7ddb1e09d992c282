"""The switches of gradient methods, one field each; defaults and reasons are in ``conf/method``.

A field marked ``speed`` changes time and memory alone. All others are part of the key of whatever
depends on their class: ``FeatureSettings`` is the key of an index. So a new switch is a field here,
a line in the YAML, and the code that acts on it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Optional, Union

from bench.core.errors import UserError
from bench.core.fields import part_of_key, speed

AUTO = "auto"  # in place of a number for λ or damping: the value that a rule gives
# Bounds of the automatic damping: what keeps R invertible where texts repeat, and beyond which R
# comes near to a multiple of the identity.
LEAST_DAMPING, MOST_DAMPING = 1e-4, 1.0


class Output(Enum):
    """Function of a text's tokens whose gradient is taken, summed over the tokens with loss.

    Each is given as something to decrease, so that scores of different outputs have one sign.
    ``p`` is the probability of the right token and ``z`` its logit.

    | output | per token | gradient at the logits | source |
    | --- | --- | --- | --- |
    | loss | -log p | softmax - one-hot | 2410.17413, section 3 |
    | logit | -z | - one-hot | |
    | margin | -log(p / (1 - p)) | softmax over the other tokens - one-hot | TRAK, 2303.14186 |
    """

    loss = "loss"
    logit = "logit"
    margin = "margin"


class Adapters(Enum):
    """Which matrices of a LoRA-adapted layer carry the gradient.

    ``base``: the frozen weight, through the adapter: the gradient that the merged weight would
    have, so features are comparable with those of a model that is fine-tuned in full. ``lora``: the
    adapter's own matrices, which its training moved and its optimizer has moments for.
    """

    base = "base"
    lora = "lora"


class Unsupported(Enum):
    """What becomes of a matrix whose per-example gradient this engine cannot take."""

    refuse = "refuse"
    skip = "skip"


class BlockLayout(Enum):
    """Which matrices add up in one block of the features, with one R for each block.

    ``groups``: consecutive layers × {attention, MLP}, TrackStar's. ``matrices``: each alone,
    LoGra's. ``single``: all together, as if all parameters were one vector, TRAK's.
    """

    groups = "groups"
    matrices = "matrices"
    single = "single"


class CheckpointWeights(Enum):
    """How much each checkpoint counts: all alike (TRAK), or by learning rate (TracIn)."""

    equal = "equal"
    learning_rate = "learning_rate"


class Hessian(Enum):
    """Which texts the autocorrelation R is estimated from."""

    none = "none"
    train = "train"
    mixed = "mixed"


class HessianForm(Enum):
    """What is kept of R."""

    full = "full"
    low_rank = "low_rank"
    diagonal = "diagonal"


class Storage(Enum):
    """Formats of the index; ``none`` stores nothing and encodes while it searches."""

    fp32 = "fp32"
    bf16 = "bf16"
    int8 = "int8"
    sign = "sign"
    none = "none"

    @property
    def gives_hessian(self) -> bool:
        """Whether R can be estimated from the index; else passages are encoded again for it."""
        return self not in (Storage.sign, Storage.none)

    @property
    def rounds(self) -> bool:
        """Whether features of the index differ from those that were encoded in float32."""
        return self not in (Storage.fp32, Storage.none)


@dataclass(frozen=True)
class EncodingSettings:
    """Which matrices carry the gradient, and how many texts are in a forward pass."""

    layers: Optional[list[int]] = part_of_key()  # noqa: UP045 - omegaconf reads the annotation at run time
    adapters: Adapters = part_of_key()
    unsupported: Unsupported = part_of_key()
    batch_size: int = speed(at_least=1)
    batch_tokens: Optional[int] = speed(at_least=1)  # noqa: UP045


@dataclass(frozen=True)
class FeatureSettings(EncodingSettings):
    """The switches of the encoder: what a stored feature depends on beside model and text."""

    optimizer_correction: bool = part_of_key()
    output: Output = part_of_key()
    passage_weight: bool = part_of_key()
    checkpoints: int = part_of_key(at_least=1)
    projection_dim: Optional[int] = part_of_key(at_least=1)  # noqa: UP045
    layer_blocks: int = part_of_key(at_least=1)
    block_layout: BlockLayout = part_of_key()
    seed: int = part_of_key()


@dataclass(frozen=True)
class HessianSettings:
    """What R^(-1/2) depends on beside the features.

    Attributes:
        mixing: λ, the share of the queries' R, or ``"auto"``.
        damping: what is added to the eigenvalues of a block, as a share of their mean, or
            ``"auto"``.
        hessian_components: eigenvectors a block of the low-rank form.
        hessian_sample: passages that the passages' R is estimated from, by seed; None takes all.
    """

    hessian: Hessian = part_of_key()
    mixing: Union[float, str] = part_of_key(at_least=0, at_most=1, words=(AUTO,))  # noqa: UP007
    damping: Union[float, str] = part_of_key(at_least=0, words=(AUTO,))  # noqa: UP007
    hessian_form: HessianForm = part_of_key()
    hessian_components: int = part_of_key(at_least=1)
    hessian_sample: Optional[int] = part_of_key(at_least=1)  # noqa: UP045
    seed: int = part_of_key()

    @property
    def has_matrices(self) -> bool:
        """Whether R is kept as a matrix for each block, which bounds the size of a block."""
        return self.hessian is not Hessian.none and self.hessian_form is HessianForm.full

    @property
    def compares_spectra(self) -> bool:
        """Whether λ is found from the spectra of both sides."""
        return self.hessian is Hessian.mixed and self.mixing == AUTO

    def dampings(self, blocks: Sequence[int], n_passages: int) -> list[float]:
        """Damping of each block, where the passages' R is from ``n_passages``."""
        if isinstance(self.damping, str):
            return [automatic_damping(size, n_passages) for size in blocks]
        return [self.damping] * len(blocks)

    def check(self) -> None:
        """Refuse, with a UserError, an automatic λ where there is no spectrum to take it from."""
        if self.compares_spectra and self.hessian_form is not HessianForm.full:
            raise UserError(
                "mixing=auto compares whole spectra, which only hessian_form=full has",
                where="method.mixing",
                fix="set method.mixing to a number, or method.hessian_form=full",
            )


def automatic_damping(size: int, n_passages: int) -> float:
    """Damping of a block, as a share of its mean eigenvalue: dimensions over passages, bounded.

    R_train is (1/n) Σ g gᵀ, and its mean eigenvalue is the mean squared length of g over the
    dimensions. Their product with dimensions / n is (1/n) times that squared length: R becomes what
    it would be if each direction had held one passage more, as long as they are on average. So the
    fewer passages there are for a block's dimensions, the less is believed of its spectrum.

    Args:
        size: dimensions of the block.
        n_passages: how many R_train is from.
    """
    return min(MOST_DAMPING, max(LEAST_DAMPING, size / n_passages))


@dataclass(frozen=True)
class GradientConfig(FeatureSettings, HessianSettings):
    """All settings of a gradient method: its features, its R, and how scores are made of them.

    Attributes:
        correct_queries: divide the queries' gradients by sqrt(V) too, if the passages' are.
        rerank: passages a query, at either end, whose gradients are encoded anew for the scores.
        opponents: length of the list of lowest scores.
        memory_mib: bound of what a search holds.
    """

    correct_queries: bool = part_of_key()
    checkpoint_weights: CheckpointWeights = part_of_key()
    unit_norm: bool = part_of_key()
    storage: Storage = part_of_key()
    rerank: Optional[int] = part_of_key(at_least=1)  # noqa: UP045
    opponents: int = part_of_key(at_least=0)
    memory_mib: int = speed(at_least=1)

    def check_spans(self) -> None:
        """Refuse to take scores apart that are not of the passages' own gradients.

        Raises:
            UserError: the index rounds features, and the scores are from it.
        """
        if self.storage.rounds and self.rerank is None:
            raise UserError(
                f"spans=true takes exact scores apart, and storage={self.storage.value} rounds",
                where="method.storage",
                fix="set method.storage=fp32 or none, or method.rerank to at least top_k",
            )


@dataclass(frozen=True)
class InfluenceConfig(EncodingSettings):
    """Settings of influence functions with exact gradients; see ``conf/method/_influence.yaml``."""

    damping: float = part_of_key(
        above=0,
        fix="without damping H has no inverse where passages are few; the sources take 0.1",
    )
    sample: Optional[int] = part_of_key(at_least=1)  # noqa: UP045
    opponents: int = part_of_key(at_least=0)
    memory_mib: int = speed(at_least=1)
    seed: int = part_of_key()

    def check_spans(self) -> None:
        """Refuse nothing: all scores are of the passages' own gradients, and come apart."""


class Labels(Enum):
    """The labels of the Hessian's gradients: drawn by the model, or the text's own tokens."""

    sampled = "sampled"
    empirical = "empirical"


@dataclass(frozen=True)
class EkfacConfig(InfluenceConfig):
    """Settings of ``conf/method/ekfac.yaml``."""

    labels: Labels = part_of_key()


def exact_gradients(shared: EncodingSettings) -> FeatureSettings:
    """The switches that give exact gradients of the loss, each matrix a block of its own."""
    return FeatureSettings(
        **{field.name: getattr(shared, field.name) for field in fields(EncodingSettings)},
        optimizer_correction=False,
        output=Output.loss,
        passage_weight=False,
        checkpoints=1,
        projection_dim=None,
        layer_blocks=1,  # has no say where each matrix is a block
        block_layout=BlockLayout.matrices,
        seed=0,  # likewise where nothing is projected
    )
