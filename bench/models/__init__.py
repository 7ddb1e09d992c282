"""Models under study: published, trained on the task's corpus, or in a directory."""

from bench.core.registry import Entry, Registry
from bench.models.base import ModelSource

SOURCES: Registry[ModelSource] = Registry("model source", "bench.models.base:ModelSource")

SOURCES.add(
    "scratch",
    Entry(
        target="bench.models.scratch:Scratch",
        settings="bench.models.settings:ScratchConfig",
        summary="trained here, from random weights, on the task's passages; cached by content",
    ),
)
SOURCES.add(
    "directory",
    Entry(
        target="bench.models.directory:Directory",
        settings="bench.models.settings:DirectoryConfig",
        summary="a causal language model saved by transformers in a local directory",
    ),
)
SOURCES.add(
    "published",
    Entry(
        target="bench.models.published:Published",
        settings="bench.models.settings:PublishedConfig",
        summary="weights that come with the package, the same everywhere, for one corpus",
    ),
)
SOURCES.add(
    "finetuned",
    Entry(
        target="bench.models.finetuned:Finetuned",
        settings="bench.models.tuning_settings:FinetunedConfig",
        summary="a local model trained on here, over the task's passages; cached by content",
    ),
)
SOURCES.add(
    "sized",
    Entry(
        target="bench.models.sized:Sized",
        settings="bench.models.tuning_settings:SizedConfig",
        summary="of a size that is set, trained by `tdabench train` from random weights",
    ),
)
