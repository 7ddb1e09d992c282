"""Pages that follow from the package: every setting with its default and reason, methods, metrics.

The reason of a default is the comment beside it in ``conf/``, or the comment above it, which holds
for all settings that follow without a blank line and have none of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from bench.core import escape
from bench.core.registry import DESCRIPTION
from bench.report.publishing.prose import slug, table
from methods import METHODS
from metrics.measures import MEASURES, MetricKind

# Groups in the order of the page, with what one of their files is.
GROUPS = {
    "task": "Tasks", "model": "Models", "method": "Methods", "metric": "Metrics",
    "engine": "Engines", "logger": "Loggers", "experiment": "Experiments",
}  # fmt: skip
_KEY = re.compile(r"( *)([A-Za-z_][\w./@-]*):(?: +(.*))?")
_NO_SETTINGS = ("defaults", "name", "hydra")
_COMMANDS = "Every one can be set on the command line as `GROUP.NAME=VALUE`, e.g. `method.k1=2`."


@dataclass(frozen=True)
class Setting:
    """One setting of a configuration file.

    Attributes:
        name: its key, with those above it, joined by dots.
        default: its value as the file has it.
    """

    name: str
    default: str
    reason: str


def settings_in(text: str) -> tuple[str, list[Setting]]:
    """What the first comment of a YAML says of the file, and its settings in their order."""
    about: list[str] = []
    settings: list[Setting] = []
    comment: list[str] = []
    shared, is_first = "", True
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            shared = ""
            if not stripped.startswith("# @"):
                comment.append(stripped.removeprefix("#").strip())
        elif not stripped:
            if is_first and not settings:
                about, comment = about or comment, []
            comment, shared = [], ""
        elif match := _KEY.fullmatch(line):
            if is_first:
                about, comment, is_first = about or comment, [], False
            indent, key, rest = len(match[1]), match[2], match[3] or ""
            above = [(one, name) for one, name in above if one < indent]
            value, beside = _split(rest)
            reason = _reason(" ".join(comment), beside) or shared
            if comment:
                shared = " ".join(comment)
            comment = []
            name = ".".join([*(one for _, one in above), key])
            if value:
                settings.append(Setting(name, value, reason))
            else:
                above.append((indent, key))
    return " ".join(about), settings


def _reason(above: str, beside: str) -> str:
    """The comments above and beside a setting as one text of whole sentences."""
    if above and beside:
        return f"{above}{'' if above.endswith('.') else '.'} {beside[:1].upper()}{beside[1:]}"
    return above or beside


def _split(rest: str) -> tuple[str, str]:
    """A value and the comment behind it."""
    quote = ""
    for place, character in enumerate(rest):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character == "#" and (place == 0 or rest[place - 1] == " "):
            return rest[:place].strip(), rest[place + 1 :].strip()
    return rest.strip(), ""


# ------------------------------------------------------------------ pages, as Markdown


def settings_page() -> str:
    """Every setting of every file of ``conf/``, as Markdown."""
    folder = resources.files("conf")
    about, settings = settings_in(folder.joinpath("config.yaml").read_text(encoding="utf-8"))
    lines = [
        "# Settings",
        "",
        "The defaults of `conf/`, each with the reason that stands beside it there. "
        f"{_COMMANDS} `???` has no default. `${{…}}` is taken from another setting.",
        "",
        "## A run",
        "",
        about,
        "",
        *_settings_table([one for one in settings if _is_setting(one, ())]),
    ]
    for group, title in GROUPS.items():
        lines += ["", f"## {title}", ""]
        files = sorted(folder.joinpath(group).iterdir(), key=lambda file: file.name)
        for file in files:
            if file.name.endswith(".yaml"):
                text = file.read_text(encoding="utf-8")
                lines += _file(group, file.name.removesuffix(".yaml"), text)
    return "\n".join(lines)


def _file(group: str, name: str, text: str) -> Iterator[str]:
    """The section of one file; experiments, which are settings of other files, as they stand."""
    about, settings = settings_in(text)
    summary = next((one.default for one in settings if one.name == "summary"), "").strip("\"'")
    summary = f"{summary[:1].upper()}{summary[1:]}." if summary else ""
    intro = " ".join(part for part in (summary, about) if part)
    yield from (f"### {heading_of(group, name)}", "", _text(intro), "")
    if group == "experiment":
        yield from ("```yaml", text.rstrip("\n"), "```", "")
        return
    described = DESCRIPTION if group in ("task", "method", "engine") else ()
    kept = [one for one in settings if _is_setting(one, described)]
    yield from (_settings_table(kept) if kept else ["No settings of its own."])
    yield ""


def heading_of(group: str, name: str) -> str:
    """The heading of a file of ``conf/`` on the page of settings."""
    return f"`{group}={name}`" if not name.startswith("_") else f"Shared: `{group}/{name}.yaml`"


def _is_setting(setting: Setting, described: Sequence[str]) -> bool:
    first = setting.name.partition(".")[0]
    return first not in _NO_SETTINGS and first not in described


def _settings_table(settings: Sequence[Setting]) -> list[str]:
    rows = [(f"`{one.name}`", f"`{one.default}`", _text(one.reason)) for one in settings]
    return table(("setting", "default", "reason"), rows)


def methods_section() -> str:
    """All methods by family, from their files in ``conf/method``, as Markdown."""
    rows = []
    for name in METHODS:
        entry = METHODS.entry(name)
        anchor = slug(heading_of("method", name))
        cells = (entry.family, entry.summary, ", ".join(entry.needs), entry.cost, entry.source)
        rows.append((f"[`{name}`](settings.html#{anchor})", *map(_text, cells)))
    rows.sort(key=lambda row: (row[1], row[0]))
    heads = ("method", "family", "what it does", "needs", "cost", "source")
    return "\n".join(["## All methods", "", *table(heads, rows)])


def metrics_page() -> str:
    """All metrics, from their records, as Markdown."""
    lines = [
        "# Metrics",
        "",
        "What is measured of a ranking. `metric.attribution=[mrr,ndcg@10]` picks those of "
        "attribution; `@k` takes any cut-off. How each is computed: [methods](methods.html).",
    ]
    for kind in MetricKind:
        records = [one for one in MEASURES if one.kind is kind and one.is_averaged]
        if records:
            lines += ["", f"## {kind.value.capitalize()}", ""]
            rows = [
                (
                    f"`{one.name}`",
                    _text(one.head),
                    _text(one.meaning),
                    _better(one.higher_is_better),
                )
                for one in records
            ]
            lines += table(("metric", "on the board", "what it says", "better"), rows)
    return "\n".join(lines)


def _better(higher: bool | None) -> str:
    return "" if higher is None else ("higher" if higher else "lower")


def _text(text: str) -> str:
    """Words of a comment, in which what stands in backquotes is code."""
    parts = escape.clean(text).split("`")
    if len(parts) % 2 == 0:
        return escape.markdown(text)
    return "`".join(
        part.replace("|", "\\|") if place % 2 else escape.markdown(part)
        for place, part in enumerate(parts)
    )
