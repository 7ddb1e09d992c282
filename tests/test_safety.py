"""What no source file may do, read from the source: run what a data file says, or be long."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.fixtures.sources import FILES, PACKAGES, ROOT, dotted, imported, package_of, parsed

PICKLES = frozenset({"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"})
# Calls of transformers and sentence-transformers that run a folder's code if they are not told not
# to: without the argument they ask on standard input.
LOADERS = frozenset({
    "from_pretrained", "from_config", "pipeline", "load_custom_generate", "generate",
    "SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder",
})  # fmt: skip
MAX_LINES = 400


def faults(tree: ast.AST) -> Iterator[str]:
    """Calls that would execute what a data file or a model folder says."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        loads = name.rpartition(".")[2] in LOADERS or by_name(node.func)
        if options.get("trust_remote_code", None if loads else False) is not False:
            yield f"line {node.lineno}: no trust_remote_code=False"
        if name == "torch.load" and options.get("weights_only") is not True:
            yield f"line {node.lineno}: torch.load without weights_only=True"
        if name in ("np.load", "numpy.load") and options.get("allow_pickle") is not False:
            yield f"line {node.lineno}: np.load without allow_pickle=False"
        if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load"):
            yield f"line {node.lineno}: {name}"


def by_name(node: ast.AST) -> bool:
    """Whether a class of sentence-transformers is looked up by its name: any of them may load."""
    return (
        isinstance(node, ast.Call)
        and dotted(node.func) == "getattr"
        and dotted(node.args[0]).endswith("sentence_transformers")
    )


def test_the_rules_see_what_they_forbid() -> None:
    wrong = (
        "torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)",
        "np.load(p, allow_pickle=True)", "f(trust_remote_code=True)", "f(trust_remote_code=x)",
        "eval(p)", "AutoModelForCausalLM.from_pretrained(p)", "AutoConfig.from_pretrained(p, **o)",
        "AutoTokenizer.from_pretrained(p, trust_remote_code=None)", "SparseEncoder(p)",
        "AutoModelForCausalLM.from_config(c)", "transformers.pipeline(p)", "m.generate(x)",
        "sentence_transformers.CrossEncoder(p)", "SentenceTransformer(p, device='cpu')",
        "getattr(sentence_transformers, kind)(p)",
    )  # fmt: skip
    assert [len(list(faults(ast.parse(line)))) for line in wrong] == [1] * len(wrong)
    right = "np.load(p, allow_pickle=False); f(trust_remote_code=False); json.load(p); "
    right += "AutoConfig.from_pretrained(p, trust_remote_code=False)"
    assert list(faults(ast.parse(right))) == []
    assert imported(ast.parse("from ..x import y"), "a.b") == {"a.x", "a.x.y"}
    tops = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert tops == {*PACKAGES, "tdabench.py"}


def test_nothing_in_a_file_is_executed() -> None:
    for path in FILES:
        tree = parsed(path)
        roots = {module.split(".")[0] for module in imported(tree, package_of(path))}
        assert roots & PICKLES == set(), path
        assert list(faults(tree)) == [], path
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        assert [fault for fault in faults(parsed(path)) if "trust_remote_code" in fault] == [], path


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}
