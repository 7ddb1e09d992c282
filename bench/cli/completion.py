"""``tdabench completion``: the tab completion of a shell, and the words that it offers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import resources

from omegaconf import DictConfig, OmegaConf

from bench.cli.commands import COMMANDS, parser_of
from bench.core.errors import UserError, did_you_mean
from bench.core.registry import DESCRIPTION
from bench.run.config_errors import GROUPS, chosen_config
from methods import METHODS

_WORDS = "words"  # what the scripts call: `tdabench completion words WORD… UNFINISHED`
_SETTINGS = ("run", "plan", "train", "predict", "import")  # commands that take KEY=VALUE
_OPTIONS = {"run": ("-m", "--multirun", "--dry-run", "--help")}
_ARGUMENTS = {
    "list": ("methods", "metrics", "judges", "tasks", "models", "engines", "experiments"),
    "annotate": ("export", "import"),
    "export": ("trec", "card"),
    "fetch": ("trex", "c4", "results"),
}

# Each calls `words` with all words up to the cursor, the unfinished one last, and offers files
# where there is no word to offer. A word that ends in = or . goes on, with no space behind it.
_SCRIPTS = {
    "bash": r"""_tdabench() {
    local line="${COMP_LINE:0:COMP_POINT}" cur="" word
    local -a words
    read -ra words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    cur="${words[-1]}"
    COMPREPLY=()
    while IFS= read -r word; do
        # bash takes what follows = or : for a word of its own
        [[ "$cur" == *[=:]* ]] && word="${word#"${cur%"${cur##*[=:]}"}"}"
        [[ "$word" == *[=.] ]] && compopt -o nospace
        COMPREPLY+=("$word")
    done < <("${words[0]}" completion words "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _tdabench tdabench
""",
    "zsh": r"""_tdabench() {
    local -a offered
    offered=(${(f)"$(${words[1]} completion words "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    (( $#offered )) || { compset -P '*='; _files; return }
    compadd -S '' -- ${(M)offered:#*[=.]}
    compadd -- ${offered:#*[=.]}
}
compdef _tdabench tdabench
""",
    "fish": r"""function _tdabench
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l offered ($before[1] completion words $before[2..] "$current" 2>/dev/null)
    set -l key
    if not set -q offered[1]
        set key (string match -r '^.*=' -- "$current")
        set offered (__fish_complete_path (string replace -r '^.*=' '' -- "$current"))
    end
    for word in $offered
        printf '%s%s\n' "$key" $word
    end
end
complete -c tdabench -f -a '(_tdabench)'
""",
}
_HOW = {
    "bash": 'add to ~/.bashrc: eval "$(tdabench completion bash)"',
    "zsh": 'add to ~/.zshrc, behind compinit: eval "$(tdabench completion zsh)"',
    "fish": "once: tdabench completion fish > ~/.config/fish/completions/tdabench.fish",
}


def main(words: Sequence[str]) -> int:
    """Print the script of a shell, or the words that fit; returns 0.

    Raises:
        UserError: an unknown shell.
    """
    if words and words[0] == _WORDS:
        for offered in offers(words[1:]):
            print(offered)
        return 0
    parser = parser_of("completion")
    parser.epilog = "; ".join(_HOW.values())
    parser.add_argument("shell", metavar="|".join(_SCRIPTS), help="the shell to complete in")
    shell = parser.parse_args(words).shell
    if shell not in _SCRIPTS:
        raise UserError(f"unknown shell {shell!r}", fix=did_you_mean(shell, _SCRIPTS))
    print(f"# {_HOW[shell]}\n{_SCRIPTS[shell]}", end="")
    return 0


def offers(words: Sequence[str]) -> list[str]:
    """The words that the last of some words may become; none where only files can follow.

    Args:
        words: those behind ``tdabench``, the unfinished one last, which may be empty.
    """
    *before, unfinished = words or [""]
    if not before:
        return _beginning(unfinished, COMMANDS)
    command = before[0]
    if unfinished.startswith("-"):
        return _beginning(unfinished, _OPTIONS.get(command, ("--help",)))
    if command == "completion":
        return _beginning(unfinished, _SCRIPTS) if len(before) == 1 else []
    if command in _SETTINGS:
        return _settings(before[1:], unfinished)
    return _beginning(unfinished, _ARGUMENTS.get(command, ())) if len(before) == 1 else []


def _beginning(start: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(start)]


def _settings(before: Sequence[str], unfinished: str) -> list[str]:
    """Names of a group's choices behind ``group=``, otherwise keys of the chosen parts."""
    key, equals, value = unfinished.partition("=")
    if equals:
        if key not in GROUPS:
            return []
        listed, comma, _ = value.rpartition(",")  # a sweep goes through names in turn
        return _beginning(unfinished, (f"{key}={listed}{comma}{name}" for name in _names(key)))
    keys = sorted({*(f"{group}=" for group in GROUPS), *_keys(chosen_config(before))})
    offered = _beginning(unfinished, keys)
    # One level at a time: `method.` stands for all of its keys until it is written.
    levels = {_level(key, len(unfinished)) for key in offered}
    return sorted(levels) if len(levels) > 1 else offered


def _level(key: str, start: int) -> str:
    """A key as far as the next level behind its first ``start`` characters."""
    end = key.find(".", start)
    return key if end < 0 else key[: end + 1]


def _names(group: str) -> list[str]:
    if group == "method":
        return list(METHODS)  # those of other distributions are among them
    files = (resources.files("conf") / group).iterdir()
    names = (file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))
    return sorted(name for name in names if not name.startswith("_"))


def _keys(config: DictConfig | None, prefix: str = "") -> Iterator[str]:
    """Every setting as ``KEY=``, in dotted form; what describes a method or a task is none."""
    hidden = {"name", *DESCRIPTION} if prefix else set()
    for key in map(str, config or ()):
        if key in hidden:
            continue
        value = None
        if config is not None and not (
            OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key)
        ):
            value = config[key]
        if isinstance(value, DictConfig) and value:
            yield from _keys(value, f"{prefix}{key}.")
        elif prefix or key not in GROUPS:
            yield f"{prefix}{key}="
