"""EK-FAC and DataInf against loops of autograd and explicit Kronecker products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel, Tokens
from bench.tasks.base import Task
from methods.base import Context
from methods.gradient import collectors
from methods.gradient.datainf import DataInf
from methods.gradient.ekfac import Ekfac
from methods.gradient.influence import Influence
from methods.gradient.search import MemoryPlan
from methods.gradient.settings import EkfacConfig, InfluenceConfig, Labels
from tests.fixtures.gradient_methods import INFLUENCE_DEFAULTS, QUERIES, many_texts, ranked
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, load, make_model
from tests.oracles.slow_mixture import in_plain_layers

FAMILIES = {"gpt_neox": {}, "gpt2": {}, "llama": {"num_key_value_heads": 2}}
PASSAGES = [*TEXTS, "", *many_texts(12)]  # the empty one has no loss
WITHOUT_LOSS = len(TEXTS)


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request, tmp_path_factory) -> LanguageModel:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return load(make_model(folder, request.param, layers=1, hidden=8, **FAMILIES[request.param]))


@pytest.fixture(scope="module")
def neox(tmp_path_factory) -> LanguageModel:
    return load(make_model(tmp_path_factory.mktemp("neox") / "model", layers=1, hidden=8))


@pytest.fixture
def task(tmp_path) -> Task:
    return make_task(tmp_path / "task", PASSAGES, QUERIES)


def ekfac(task: Task, model: LanguageModel, folder: Path, labels=Labels.sampled, **settings):
    config = EkfacConfig(**{**INFLUENCE_DEFAULTS, **settings}, labels=labels)
    return Ekfac(config, Context(task, folder / "cache", load_model=lambda: model))


def datainf(task: Task, model: LanguageModel, folder: Path, **settings) -> DataInf:
    config = InfluenceConfig(**{**INFLUENCE_DEFAULTS, **settings})
    return DataInf(config, Context(task, folder / "cache", load_model=lambda: model))


def scores_by_row(method: Influence) -> np.ndarray:
    """Scores ``[queries, passages]``, whatever the order of the lists."""
    found = ranked(method)
    scores = np.full((len(found), len(method.context.task.passages)), np.nan)
    for line, ranking in zip(scores, found, strict=True):
        line[ranking.rows] = ranking.scores
    return scores


# ------------------------------------------------------------------ slow, obvious versions


@dataclass
class Traced:
    """A text's gradients ``[out, in]`` by matrix, and x and δ of each token that predicts."""

    gradients: dict[str, Tensor]
    inputs: dict[str, Tensor]
    deltas: dict[str, Tensor]


def layers_of(module) -> Iterator[tuple[str, torch.nn.Module]]:
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Linear | Conv1D) and name not in ("embed_out", "lm_head"):
            yield name, part


def logits_of(module, ids: list[int]) -> Tensor:
    return module(input_ids=torch.tensor([ids])).logits[0]


def traced(model: LanguageModel, tokens: Tokens, targets: list[int]) -> Traced:
    """What autograd gives through the weights; x and δ are caught by torch's own hooks."""
    module = model.module.double().requires_grad_(True)
    module.zero_grad()
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = []
    for name, part in layers_of(module):

        def hook(_, inputs, output, name=name):
            output.retain_grad()
            seen[name] = inputs[0].detach(), output

        handles.append(part.register_forward_hook(hook))
    log_p = torch.log_softmax(logits_of(module, tokens.ids), -1)
    loss = 0.0
    for t, target in enumerate(targets, start=tokens.loss_from):
        loss = loss - log_p[t - 1, target]
    loss.backward()
    for handle in handles:
        handle.remove()
    n = len(targets)
    first = tokens.loss_from - 1
    found = Traced({}, {}, {})
    for name, part in layers_of(module):
        gradient = part.weight.grad
        found.gradients[name] = gradient.T.clone() if isinstance(part, Conv1D) else gradient.clone()
        width = seen[name][0].shape[-1]
        found.inputs[name] = seen[name][0].reshape(-1, width)[first : first + n]
        width = seen[name][1].shape[-1]
        found.deltas[name] = seen[name][1].grad.reshape(-1, width)[first : first + n]
    module.requires_grad_(False)
    return found


def own_targets(tokens: Tokens) -> list[int]:
    return tokens.ids[tokens.loss_from :]


def drawn_targets(model: LanguageModel, tokens: Tokens, row: int, seed: int) -> list[int]:
    """The first token at which the cumulative probability exceeds a uniform number."""
    generator = np.random.default_rng([seed, row])
    p = torch.softmax(logits_of(model.module.double(), tokens.ids), -1)
    found = []
    for t in range(tokens.loss_from, len(tokens.ids)):
        level, total = generator.random(), 0.0
        for token, probability in enumerate(p[t - 1].tolist()):
            total += probability
            if total > level:
                found.append(token)
                break
    return found


def passages_of(model: LanguageModel) -> list[tuple[int, Tokens]]:
    tokens = [model.passage_tokens(text) for text in PASSAGES]
    return [(row, one) for row, one in enumerate(tokens) if one.n_loss]


def scored_gradients(model: LanguageModel) -> tuple[list[Traced], dict[int, Traced]]:
    """Gradients of the queries' targets, and of the passages that have a loss, by row."""
    queries = [model.query_tokens(q) for q in QUERIES]
    return [traced(model, t, own_targets(t)) for t in queries], {
        row: traced(model, t, own_targets(t)) for row, t in passages_of(model)
    }


def slow_ekfac(model: LanguageModel, labels: Labels, damping: float, seed: int) -> np.ndarray:
    """Scores where each H is one matrix [out · in, out · in], a Kronecker product, and solved."""
    queries, passages = scored_gradients(model)
    fitted = []
    for row, tokens in passages_of(model):
        sampled = labels is Labels.sampled
        targets = drawn_targets(model, tokens, row, seed) if sampled else own_targets(tokens)
        fitted.append(traced(model, tokens, targets))
    scores = np.zeros((len(QUERIES), len(PASSAGES)))
    for name, _ in layers_of(model.module):
        a = sum(np.outer(x, x) for one in fitted for x in one.inputs[name].numpy())
        s = sum(np.outer(d, d) for one in fitted for d in one.deltas[name].numpy())
        basis = np.kron(np.linalg.eigh(s)[1], np.linalg.eigh(a)[1])  # of G flattened by row
        rotated = [basis.T @ one.gradients[name].numpy().ravel() for one in fitted]
        eigenvalues = sum(r**2 for r in rotated) / len(PASSAGES)
        hessian = basis @ np.diag(eigenvalues + damping * eigenvalues.mean()) @ basis.T
        for line, query in zip(scores, queries, strict=True):
            solved = np.linalg.solve(hessian, query.gradients[name].numpy().ravel())
            for row, passage in passages.items():
                line[row] += passage.gradients[name].numpy().ravel() @ solved
    return scores


def slow_datainf(model: LanguageModel, damping: float) -> np.ndarray:
    """Scores by the mean of explicit inverses of g gᵀ + λ I, each ``[out · in, out · in]``."""
    queries, passages = scored_gradients(model)
    scores, n = np.zeros((len(QUERIES), len(PASSAGES))), len(PASSAGES)
    for name, _ in layers_of(model.module):
        flat = {row: one.gradients[name].numpy().ravel() for row, one in passages.items()}
        d = len(next(iter(flat.values())))
        everyone = [flat.get(row, np.zeros(d)) for row in range(n)]
        level = damping * sum(float(g @ g) for g in everyone) / (n * d)
        inverse = sum(np.linalg.inv(np.outer(g, g) + level * np.eye(d)) for g in everyone) / n
        for line, query in zip(scores, queries, strict=True):
            solved = inverse @ query.gradients[name].numpy().ravel()
            for row in flat:
                line[row] += flat[row] @ solved
    return scores


def agree(method: Influence, expected: np.ndarray) -> None:
    for ranking, line in zip(ranked(method), expected, strict=True):
        np.testing.assert_allclose(
            ranking.scores, line[ranking.rows], rtol=1e-4, atol=1e-6 * np.abs(line).max()
        )
        assert ranking.rows.tolist() == np.argsort(-line, kind="stable").tolist()
        assert line[WITHOUT_LOSS] == 0
        assert ranking.scores[ranking.rows == WITHOUT_LOSS] == 0


@pytest.mark.parametrize("labels", list(Labels))
def test_ekfac_is_an_explicit_kronecker_product(tmp_path, model, task, labels):
    agree(ekfac(task, model, tmp_path, labels), slow_ekfac(model, labels, 0.1, seed=0))


def test_datainf_is_a_mean_of_explicit_inverses(tmp_path, model, task):
    agree(datainf(task, model, tmp_path), slow_datainf(model, 0.1))


@pytest.mark.parametrize("damping", [1e-3, 10.0])
def test_other_dampings(tmp_path, neox, task, damping):
    expected = slow_ekfac(neox, Labels.empirical, damping, seed=0)
    agree(ekfac(task, neox, tmp_path, Labels.empirical, damping=damping), expected)
    agree(datainf(task, neox, tmp_path, damping=damping), slow_datainf(neox, damping))


@pytest.mark.slow
def test_each_expert_is_a_matrix_of_its_own(tmp_path, task):
    """Its factors and its λ are from the tokens that it is sent."""
    options = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    model = load(make_model(tmp_path / "model", "mixtral", layers=1, hidden=8, **options))
    twin = in_plain_layers(model)
    agree(ekfac(task, model, tmp_path), slow_ekfac(twin, Labels.sampled, 0.1, seed=0))
    agree(datainf(task, model, tmp_path), slow_datainf(twin, 0.1))


# ------------------------------------------------------------------ what changes nothing, or much


@pytest.mark.parametrize("make", [ekfac, datainf])
def test_batches_and_groups_change_nothing(tmp_path, neox, task, make, monkeypatch):
    expected = ranked(make(task, neox, tmp_path / "a"))
    monkeypatch.setattr("methods.gradient.ekfac_passes.TEXTS_AT_ONCE", 5)
    monkeypatch.setitem(collectors._FORMED_ELEMENTS, "cpu", 1)
    for number, settings in enumerate(({"batch_size": 1}, {"batch_tokens": 30}, {"groups": True})):
        if settings.pop("groups", False):
            plan = make(task, neox, tmp_path / "c")
            plan.index()
            # memory_mib counts in MiB, and the toy's queries all fit into one.
            one = type(plan._plan(1))(queries=1, rows=3, candidates=2)
            monkeypatch.setattr(Influence, "_plan", lambda *_, one=one: one)
        found = ranked(make(task, neox, tmp_path / str(number), **settings))
        for a, b in zip(found, expected, strict=True):
            assert a.rows.tolist() == b.rows.tolist()
            np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5)


def test_passages_are_counted_once_however_many_groups(tmp_path, neox, task, monkeypatch):
    method = ekfac(task, neox, tmp_path)
    method.index()
    one = type(method._plan(1))(queries=1, rows=3, candidates=2)
    monkeypatch.setattr(Influence, "_plan", lambda *_: one)
    list(method.search(QUERIES, 5))
    assert method.context.counts["passages_without_loss"] == 1


def test_the_seed_draws_labels_and_samples(tmp_path, neox, task):
    first = scores_by_row(ekfac(task, neox, tmp_path / "a"))
    same = scores_by_row(ekfac(task, neox, tmp_path / "b"))
    other = scores_by_row(ekfac(task, neox, tmp_path / "a", seed=1))
    assert np.array_equal(first, same)
    assert not np.allclose(first, other, rtol=1e-3)
    for make in (ekfac, datainf):
        some = [
            scores_by_row(make(task, neox, tmp_path / name, sample=6, seed=seed))
            for name, seed in (("c", 0), ("d", 0), ("c", 1))
        ]
        assert np.array_equal(some[0], some[1])
        assert not np.allclose(some[0], some[2], rtol=1e-3)
        whole = scores_by_row(make(task, neox, tmp_path / "e", sample=10**6))
        np.testing.assert_array_equal(whole, scores_by_row(make(task, neox, tmp_path / "f")))


def test_empirical_factors_of_all_passages_do_not_depend_on_the_seed(tmp_path, neox, task):
    for seed in (0, 1):
        ekfac(task, neox, tmp_path, Labels.empirical, seed=seed).index()
    assert len(list((tmp_path / "cache/index/ekfac").iterdir())) == 1


@pytest.mark.parametrize("make", [ekfac, datainf])
def test_chosen_passages_have_the_scores_of_the_search(tmp_path, neox, task, make):
    method = make(task, neox, tmp_path)
    expected = scores_by_row(method)
    rows = np.array([[3, 0, 5]] * len(QUERIES))
    for found, line in zip(method.rescore(QUERIES, rows), expected, strict=True):
        np.testing.assert_allclose(found, line[[3, 0, 5]], rtol=1e-5)


@pytest.mark.parametrize("make", [ekfac, datainf])
def test_opponents_are_the_lowest(tmp_path, neox, task, make):
    for ranking in ranked(make(task, neox, tmp_path, opponents=4)):
        assert ranking.opponent_rows.tolist() == ranking.rows[::-1][:4].tolist()
        assert ranking.opponent_scores.tolist() == ranking.scores[::-1][:4].tolist()


# ------------------------------------------------------------------ the cache, and refusals


def test_factors_are_fitted_once(tmp_path, neox, task, monkeypatch):
    first = scores_by_row(ekfac(task, neox, tmp_path))
    monkeypatch.setattr(Ekfac, "_fit", lambda *_: pytest.fail("fitted again"))
    method = ekfac(task, neox, tmp_path)
    assert np.array_equal(scores_by_row(method), first)
    ekfac(task, neox, tmp_path, damping=0.5, batch_size=7, opponents=3).index()
    size = method.index()
    assert size.bytes > 0
    assert size.shards == 1
    for settings in ({"labels": Labels.empirical}, {"sample": 5}, {"seed": 3}, {"layers": [0]}):
        with pytest.raises(pytest.fail.Exception, match="fitted again"):
            ekfac(task, neox, tmp_path, **settings).index()


@pytest.mark.parametrize("damage", ["flip", "cut", "no sidecar", "bad sidecar", "empty"])
def test_damaged_factors_are_refused(tmp_path, neox, task, damage):
    ekfac(task, neox, tmp_path).index()
    (folder,) = (tmp_path / "cache/index/ekfac").iterdir()
    factors, sidecar = folder / "factors.safetensors", folder / "manifest.json"
    stored = factors.read_bytes()
    if damage == "flip":
        factors.write_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))
    elif damage == "cut":
        factors.write_bytes(stored[: len(stored) // 2])
    elif damage == "no sidecar":
        sidecar.unlink()
    elif damage == "bad sidecar":
        sidecar.write_text("[]")
    else:
        factors.unlink()
    with pytest.raises(UserError, match="damaged EK-FAC factors"):
        ekfac(task, neox, tmp_path).index()


def test_a_killed_fit_leaves_nothing(tmp_path, neox, task, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("methods.gradient.ekfac.save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        ekfac(task, neox, tmp_path).index()
    assert list((tmp_path / "cache/index/ekfac").iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("damping", 0.0), ("damping", -0.1), ("damping", float("inf")), ("damping", float("nan")),
        ("sample", 0), ("memory_mib", 0), ("batch_size", 0), ("batch_tokens", 0),
        ("opponents", -1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [ekfac, datainf])
def test_wrong_settings_are_refused_before_work(tmp_path, task, make, field, value):
    method = make(task, None, tmp_path, **{field: value})
    with pytest.raises(UserError, match=rf"method\.{field}"):
        method.check_settings(method.config)


def test_a_model_that_does_not_run_in_its_dtype_is_one_line(tmp_path, task):
    """Drawing labels is a pass of the model as well."""
    folder = make_model(tmp_path / "model", "xglm", layers=1, hidden=8, ffn_dim=16)
    with pytest.raises(UserError, match="does not run in float64"):
        ekfac(task, load(folder), tmp_path).index()


# ------------------------------------------------------------------ shares of tokens


@pytest.mark.parametrize("make_method", [ekfac, datainf])
@pytest.mark.parametrize("memory_mib", [64, 1])
def test_scores_come_apart_into_the_outer_products_of_tokens(
    tmp_path, neox, task, make_method, memory_mib, monkeypatch
) -> None:
    """δ_tᵀ (H⁻¹ g_q) x_t, with H⁻¹ g_q taken from the scores' own queries."""
    method = make_method(task, neox, tmp_path, opponents=2, memory_mib=memory_mib)
    if memory_mib == 1:
        plan = MemoryPlan(1, 4, 4)  # a query a group
        monkeypatch.setattr(MemoryPlan, "of", lambda *_: plan)
    method.context.spans = True
    method.check()
    method.index()
    queries = task.queries
    rankings = list(method.search(queries, len(PASSAGES)))
    asked = method.precondition(method._encoded(queries, method._plan(len(queries))))
    shares = list(method.shares(queries, rankings, 5))
    assert not list(tmp_path.rglob("preconditioned-*"))
    for vector, ranking, one in zip(asked, rankings, shares, strict=True):
        matrices = [part.view(m.shape) for part, m in
                    zip(vector.double().split(method.encoder.block_sizes), method.encoder.matrices,
                        strict=True)]  # fmt: skip
        for rows, scores, listed in (
            (ranking.rows, ranking.scores, one.proponents),
            (ranking.opponent_rows, ranking.opponent_scores, one.opponents),
        ):
            assert len(listed) == min(5, len(rows))
            for row, score, of_tokens in zip(rows, scores, listed, strict=False):
                tokens = neox.passage_tokens(PASSAGES[row])
                if not own_targets(tokens):
                    assert not of_tokens.any()
                    continue
                found = traced(neox, tokens, own_targets(tokens))
                expected = np.zeros(len(tokens.ids))
                for name, matrix in zip(found.gradients, matrices, strict=True):
                    pairs = zip(found.deltas[name], found.inputs[name], strict=True)
                    expected[:-1] += [float(d @ matrix @ x) for d, x in pairs]
                bound = 1e-5 * np.abs(expected).max()
                np.testing.assert_allclose(of_tokens, expected, rtol=0, atol=bound)
                assert of_tokens.sum() == pytest.approx(score, rel=0, abs=10 * bound)


def test_shares_are_of_a_search(tmp_path, neox, task) -> None:
    method = datainf(task, neox, tmp_path)
    method.context.spans = True
    method.index()
    with pytest.raises(ValueError, match=r"call search\(\) before"):
        next(method.shares(QUERIES, [], 1))
