"""Retrieval by an encoder of sentence-transformers: the common part of dense and sparse.

An embedding depends in its last digits (about 1e-7) on the texts that it is batched with, since
padding changes the order of summation. Passages whose scores are closer than that, such as equal
texts far apart in the corpus, may swap between batch sizes; equal texts within a chunk never do.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Optional

from bench.core.errors import UserError
from bench.core.fields import part_of_key, speed
from bench.storage.documents import read_json
from bench.tasks.base import Query
from methods.base import IndexSize
from methods.embedding_method import EmbeddingMethod, Vectors
from methods.encoder_files import encoder_sha256, find_encoder
from methods.query_text import QueryPart, query_text

# Raised whenever a change of code moves an embedding, or the files of an index; part of every key.
EMBEDDINGS_VERSION = 3


@dataclass
class EncoderConfig:
    """Settings of ``conf/method/dense.yaml`` and ``conf/method/sparse.yaml``."""

    # omegaconf reads the annotations at run time
    model: Optional[str] = part_of_key()  # noqa: UP045
    batch_size: int = speed(at_least=1)
    query_prompt: Optional[str] = part_of_key()  # noqa: UP045
    passage_prompt: Optional[str] = part_of_key()  # noqa: UP045
    query: QueryPart = part_of_key()
    max_length: Optional[int] = part_of_key(at_least=1)  # noqa: UP045


class EncoderMethod(EmbeddingMethod[Vectors]):
    """Embeds texts with an encoder of sentence-transformers.

    Attributes:
        library_class: class of sentence-transformers that loads the encoder.
    """

    Config = EncoderConfig
    config: EncoderConfig
    library_class: ClassVar[str]
    version: ClassVar[int | tuple[int, ...]] = EMBEDDINGS_VERSION

    @classmethod
    def check_settings(cls, config: EncoderConfig) -> None:
        """Refuse sizes that cannot work, and a missing model."""
        super().check_settings(config)
        if config.model is None:
            raise UserError(
                f"method {cls.name} needs a model",
                where="method.model",
                fix="set method.model to a folder with one, or to a Hub id",
            )

    def check(self) -> None:
        """Refuse an encoder that is not there, or is of another kind."""
        self._check_folder(self._folder)

    def _check_folder(self, folder: Path) -> None:
        """Refuse an encoder of another kind, which the library might load all the same."""

    @cached_property
    def _folder(self) -> Path:
        assert self.config.model is not None  # check_settings has refused it
        return find_encoder(self.config.model)

    def identity(self) -> Any:
        """The version and a hash of the encoder's files, which its path does not tell."""
        return [super().identity(), self._weights]

    @cached_property
    def _weights(self) -> str:
        return encoder_sha256(self._folder)

    @cached_property
    def _encoder(self) -> Any:
        config, device = self.config, self.context.device
        return _load_encoder(self._folder, device, config.max_length, self.library_class)

    def vector_settings(self) -> dict[str, Any]:
        """All that a vector depends on beside its text, as JSON values."""
        return {
            "version": EMBEDDINGS_VERSION,
            "encoder": self._weights,
            "passage_prompt": self.config.passage_prompt,
            "max_length": self.config.max_length,
        }

    def index(self) -> IndexSize:
        """Embed the passages, or open what was embedded before."""
        self.context.facts["encoder_sha256"] = self._weights
        return super().index()

    def _embed_passages(self, texts: list[str]) -> tuple[Vectors, dict[str, int]]:
        prompt = self.config.passage_prompt
        cut = _n_truncated(self._encoder, texts, prompt)
        return self._embed(texts, prompt, "document"), {"passages_truncated": cut}

    def _embed_queries(self, queries: Sequence[Query]) -> Vectors:
        texts = [query_text(query, self.config.query) for query in queries]
        return self._embed(texts, self.config.query_prompt, "query")

    @abstractmethod
    def _embed(self, texts: list[str], prompt: str | None, role: str) -> Vectors:
        """Vectors of texts whose role is ``"query"`` or ``"document"``."""

    def _encode(
        self, texts: list[str], prompt: str | None, **options: Any
    ) -> tuple[Any, list[int]]:
        """The library's vectors of the distinct texts, and the place of each text among these."""
        number: dict[str, int] = {}
        places = [number.setdefault(text, len(number)) for text in texts]
        # The library sorts the texts by length before it batches them.
        encoded = self._encoder.encode(
            list(number),
            prompt=prompt,
            batch_size=self.config.batch_size,
            show_progress_bar=False,
            **options,
        )
        return encoded, places


def _load_encoder(folder: Path, device: str, max_length: int | None, kind: str) -> Any:
    """Load a sentence encoder in float32, without network and without code of the model's folder.

    Args:
        kind: class of the library, ``SentenceTransformer`` or ``SparseEncoder``.
        max_length: tokens after which a text is cut; None stands for the model's own limit.

    Raises:
        UserError: the files are no model that the library can load, one of absurd size, or
            one that names a kernel; or ``max_length`` is beyond the model's positions.
    """
    import sentence_transformers
    from transformers.utils import logging

    from bench.models.kernels import refuse_kernels
    from bench.models.sizes import check_files

    for path in folder.rglob("config.json"):  # a folder may hold a model a module
        check_files(path.parent)
    for path in folder.rglob("*_config.json"):  # the library's own, which hold arguments, too
        refuse_kernels(read_json(path), str(path))
    logging.disable_progress_bar()  # a line for each weight matrix says nothing to a user
    try:
        encoder = getattr(sentence_transformers, kind)(
            str(folder), device=device, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(
            f"sentence-transformers cannot load it ({error})",
            where=str(folder),
            fix="set method.model to another folder, package or Hub id",
        ) from error
    encoder.default_prompt_name = None  # prompts are those of our settings alone
    if max_length is not None:
        inner = getattr(encoder[0], "auto_model", None)
        limit = getattr(getattr(inner, "config", None), "max_position_embeddings", max_length)
        if max_length > limit:
            raise UserError(f"the model reads {limit} tokens at most", where="method.max_length")
        encoder.max_seq_length = max_length
    return encoder.float().eval()


def _n_truncated(encoder: Any, texts: list[str], prompt: str | None) -> int:
    """Number of texts that the encoder cuts; 0 where that cannot be told."""
    from transformers import PreTrainedTokenizerBase

    tokenizer, limit = encoder.tokenizer, encoder.max_seq_length
    if limit is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return 0
    ids = tokenizer([(prompt or "") + text for text in texts], truncation=False, verbose=False)
    return sum(len(one) > limit for one in ids["input_ids"])
