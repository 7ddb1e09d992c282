"""Entailment by a cross-encoder: any sequence classifier in a local folder.

The passage is the premise, the claim is the hypothesis, and the score is the softmax probability of
the label called entailment; a model with a single output is scored by its sigmoid. Weights are read
from safetensors only, in float32, and code from the folder is never run.

Source of the setting: AIS by entailment, Rashkin et al. 2023 (2112.12870), Honovich et al. 2022
(2204.04991). The paper's own judge is a T5 that generates a label; it is none of these models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

import numpy as np

from bench.core.errors import UserError
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key
from metrics.judges.base import THRESHOLD, Claim, Judge, Pair, identity_of
from metrics.judges.labels import entailment_index

# torch and transformers are imported where they are needed: a hit in the cache needs neither.

_FILES = (
    "*.safetensors", "config.json", "tokenizer*", "vocab.*", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "spiece.model", "sentencepiece*.model",
)  # fmt: skip


@dataclass
class NliConfig:
    """Settings; reasons in ``conf/metric/nli.yaml``."""

    model: Optional[str] = None  # noqa: UP045 - omegaconf reads the annotation at run time
    label: Optional[str] = None  # noqa: UP045
    batch_size: int = 32
    max_length: int = 512
    threshold: float = THRESHOLD


class Nli(Judge):
    """Scores pairs with a local sequence classifier, in batches of similar length.

    Raises:
        UserError: a setting out of range, no such folder, or a folder without safetensors.
    """

    Config = NliConfig
    name = "nli"

    def __init__(self, config: NliConfig, device: str = "cpu") -> None:
        super().__init__(config, device)
        for key in ("batch_size", "max_length"):
            if getattr(config, key) < 1:
                raise UserError(
                    f"expected at least 1, found {getattr(config, key)}",
                    where=f"metric.judge.{key}",
                )
        fix = "set metric.judge.model=DIR to a sequence classifier for entailment"
        if config.model is None:
            raise UserError("no model is given", where="metric.judge.model", fix=fix)
        self._folder = Path(config.model).expanduser()
        if not self._folder.is_dir():
            raise UserError("no such directory", where=config.model, fix=fix)
        if not any(self._folder.glob("*.safetensors")):
            raise UserError("holds no *.safetensors", where=config.model, fix=fix)

    def check(self, claims: Sequence[Claim]) -> None:  # noqa: ARG002
        """Refuse a folder whose entailment label cannot be told."""
        self._label  # noqa: B018 - read for its errors

    def identity(self) -> str:
        """See ``Judge.identity``: the folder's place and the batch size are no part of it."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        files = sorted({file for pattern in _FILES for file in self._folder.glob(pattern)})
        sha256 = content_key([[file.name, file_sha256(file)] for file in files], length=64)
        return identity_of(self, sha256, without=("model", "batch_size"))

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """See ``Judge.score``; a score is NaN where the model's outputs are not finite."""
        scores = np.full(len(pairs), np.nan)
        if not pairs:
            return scores
        encoded = self._encode(pairs)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        order = sorted(range(len(pairs)), key=lambda i: (-lengths[i], i))
        size = 1 if self._tokenizer.pad_token_id is None else self.config.batch_size
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            logits = self._logits(
                {key: [value[i] for i in chosen] for key, value in encoded.items()}
            )
            scores[chosen] = probability(logits, self._label)
        return scores

    def _encode(self, pairs: Sequence[Pair]) -> dict[str, list[list[int]]]:
        """Token ids and masks of each pair; what is too long loses the end of its longer text."""
        texts = [pair.passage for pair in pairs], [pair.claim.text for pair in pairs]
        options: dict[str, Any] = {"truncation": "longest_first", "max_length": self._max_length}
        encoded = dict(self._tokenizer(*texts, **options))
        whole = self._tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
        self.counts["pairs_cut_at_max_length"] += sum(
            len(one) < len(all_of) for one, all_of in zip(encoded["input_ids"], whole, strict=True)
        )
        return encoded

    def _logits(self, batch: dict[str, list[list[int]]]) -> np.ndarray:
        import torch

        if len(batch["input_ids"]) > 1:
            tensors = self._tokenizer.pad(batch, return_tensors="pt")
        else:
            tensors = {key: torch.tensor(value) for key, value in batch.items()}
        inputs = {key: value.to(self.device) for key, value in tensors.items()}
        with torch.inference_mode():
            return self._module(**inputs).logits.double().cpu().numpy()

    @cached_property
    def _model_config(self) -> Any:
        return self._loaded("AutoConfig")

    @cached_property
    def _label(self) -> int:
        id2label = self._model_config.id2label
        return entailment_index(id2label, self.config.label, str(self._folder))

    @cached_property
    def _tokenizer(self) -> Any:
        return self._loaded("AutoTokenizer")

    @cached_property
    def _max_length(self) -> int:
        positions = getattr(self._model_config, "max_position_embeddings", None)
        if positions and "roberta" in self._model_config.model_type:
            # RoBERTa counts positions from behind the one of its padding token.
            positions -= self._model_config.pad_token_id + 1
        limits = (self.config.max_length, self._tokenizer.model_max_length, positions)
        return min(int(limit) for limit in limits if limit and limit > 0)

    @cached_property
    def _module(self) -> Any:
        import torch

        module, report = self._loaded(
            "AutoModelForSequenceClassification",
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
        if missing := sorted(report["missing_keys"]):  # transformers would draw them at random
            raise UserError(
                f"is no trained classifier: its weights lack {missing[0]}",
                where=str(self._folder),
                fix="set metric.judge.model to a model that was trained on entailment",
            )
        return module.eval().requires_grad_(False).to(self.device)

    def _loaded(self, kind: str, **options: Any) -> Any:
        """What a class of transformers makes of the folder; its code is never run."""
        import transformers
        from safetensors import SafetensorError

        from bench.models.sizes import check_files

        check_files(self._folder)
        try:
            return getattr(transformers, kind).from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False, **options
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()
            raise UserError(
                f"cannot be loaded as a sequence classifier ({(reason or [repr(error)])[0][:200]})",
                where=str(self._folder),
                fix="it needs config.json, a tokenizer and *.safetensors; remote code is never run",
            ) from error


def probability(logits: np.ndarray, label: int) -> np.ndarray:
    """The probability of one label, without overflow or underflow on the way.

    Args:
        logits: float64 ``[n, labels]``; with a single label, its sigmoid is the probability.

    Returns:
        float64 ``[n]`` in ``[0, 1]``; NaN where a logit is NaN or infinite.
    """
    logits = np.asarray(logits, dtype=np.float64)
    finite = np.isfinite(logits).all(axis=1)
    safe = np.where(finite[:, None], logits, 0.0)
    if safe.shape[1] == 1:
        safe = np.concatenate([safe, np.zeros_like(safe)], axis=1)
    exponents = np.exp(safe - safe.max(axis=1, keepdims=True))
    return np.where(finite, exponents[:, label] / exponents.sum(axis=1), np.nan)
