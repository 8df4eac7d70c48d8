"""ai.onnx.ml: ensembles of decision trees, walked from root to leaf for every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphfuse.graph.dtypes import BOOL, F32, F64, I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.loops import Builder, at, either, inside
from graphfuse.ops.ml_features import DOMAIN, TEXT, row_of
from graphfuse.ops.ml_linear import TRANSFORMS, labels_of, strongest, transformed
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, sample
from graphfuse.ops.tensor import Tensor, concat, map_, reshape

_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
_MEMBER = _MODES.index("BRANCH_MEMBER")
_COMPARISONS = ("le", "lt", "ge", "gt", "eq", "ne")
_FOLDS = ("AVERAGE", "SUM", "MIN", "MAX")


@dataclass
class Forest:
    """Trees as tables. A child k >= 0 is a node, a child -1 - k is leaf k; leaf k casts votes[k] to votes[k + 1]."""

    roots: list[int]
    features: np.ndarray
    splits: np.ndarray
    modes: np.ndarray
    on_true: np.ndarray
    on_false: np.ndarray
    nan_is_true: np.ndarray
    votes: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    members: np.ndarray  # the values of the node's set lie from member_starts[k] on, up to member_starts[k + 1]
    member_starts: np.ndarray

    def check(self, features: Any, targets: int) -> None:
        """Refuse tables that point outside themselves, and trees that are none."""
        nodes, leaves = len(self.features), len(self.votes) - 1
        tables = (self.splits, self.modes, self.on_true, self.on_false, self.nan_is_true)
        if any(len(t) != nodes for t in tables) or len(self.targets) != len(self.weights):
            raise NotSupported("the trees' attributes differ in length")
        for children in (self.on_true, self.on_false, np.asarray(self.roots, np.int64)):
            if children.size and (children.min() < -leaves or children.max() >= nodes):
                raise NotSupported("a tree's node points to a node that does not exist")
        if nodes and (self.features.min() < 0 or (isinstance(features, int) and self.features.max() >= features)):
            raise NotSupported("a tree asks for a feature that does not exist")
        if self.targets.size and (self.targets.min() < 0 or self.targets.max() >= targets):
            raise NotSupported("a leaf votes for a target that does not exist")
        self.depth()

    def depth(self) -> int:
        """The most nodes on a way from a root to a leaf."""
        depth, level, most = 0, {r for r in self.roots if r >= 0}, len(self.features)
        while level:
            depth += 1
            if depth > most:
                raise NotSupported("a tree's nodes form a circle")
            level = {int(c) for k in level for c in (self.on_true[k], self.on_false[k]) if c >= 0}
        return depth


def scores_of(x: Tensor, forest: Forest, targets: int, fold: str, base: Sequence[float]) -> Tensor:
    """The votes of all trees' leaves, folded for each target: [N, features] -> [N, targets]."""
    if fold not in _FOLDS:
        raise NotSupported(f"aggregate_function = {fold!r} is unknown")
    if x.rank != 2:
        raise NotSupported(f"an input of rank {x.rank}")
    if x.dtype not in (F32, F64):
        x = map_(lambda v: E.cast(v, F32), x)
    forest.check(x.shape[1], targets)
    if len(base) not in (0, 1, targets):
        raise NotSupported(f"{len(base)} base values for {targets} targets")
    dtype = x.dtype
    table = {
        "features": row_of(forest.features, I64, "features"),
        "splits": row_of(forest.splits, dtype, "splits"),
        "modes": row_of(forest.modes, I64, "modes"),
        "on_true": row_of(forest.on_true, I64, "on_true"),
        "on_false": row_of(forest.on_false, I64, "on_false"),
        "nan_is_true": row_of(forest.nan_is_true, I64, "nan_is_true"),
        "members": row_of(forest.members if forest.members.size else [0.0], dtype, "members"),
        "member_starts": row_of(forest.member_starts, I64, "member_starts"),
    }
    roots, votes = row_of(forest.roots, I64, "roots"), row_of(forest.votes, I64, "votes")
    voted, weights = row_of(forest.targets, I64, "voted"), row_of(forest.weights, dtype, "weights")
    limit = float(np.finfo(dtype.numpy()).max)
    start = {"MIN": limit, "MAX": -limit}.get(fold, 0.0)
    b = Builder("trees")
    y = b.result((x.shape[0], targets), dtype)
    with b.phase(x.shape[0]) as (n,):
        with b.loop(0, targets) as t:
            b.store(y, (n, t), start)
        with b.loop(0, len(forest.roots)) as tree:
            node = b.variable(at(roots, tree))
            with b.repeat(node >= 0, max(1, forest.depth())):
                value = b.let(at(x, n, inside(at(table["features"], node), x.shape[1])))
                goes = _condition(b, forest, table, node, value)
                if forest.nan_is_true.any():
                    tracks = E.compare("ne", at(table["nan_is_true"], node), 0)
                    goes = either(goes, E.logical("and", E.logical("isnan", value), tracks))
                b.assign(node, E.where(goes, at(table["on_true"], node), at(table["on_false"], node)))
            leaf = b.let(-1 - node)
            with b.loop(at(votes, leaf), at(votes, leaf + 1)) as vote:
                target, weight = b.let(at(voted, vote)), at(weights, vote)
                b.store(y, (n, target), _folded(at(y, n, target), weight, fold))
    result = b.tensors()[0]
    if fold == "AVERAGE":
        result = map_(lambda v: v / max(1, len(forest.roots)), result)
    return map_(lambda v, o: v + o, result, row_of(base, dtype, "base")) if len(base) else result


def _condition(b: Builder, forest: Forest, table: dict[str, Tensor], node: Expr, value: Expr) -> Expr:
    """Whether the node's test holds; only tests that occur are asked about."""
    used = sorted({int(m) for m in forest.modes})
    split, mode = at(table["splits"], node), at(table["modes"], node)
    tests = [(m, E.compare(_COMPARISONS[m], value, split)) for m in used if m != _MEMBER]
    if _MEMBER in used:
        found = b.variable(Const(False, BOOL))
        with b.loop(at(table["member_starts"], node), at(table["member_starts"], node + 1)) as k:
            member = at(table["members"], inside(k, max(1, len(forest.members))))
            b.assign(found, either(found, E.equal(member, value)))
        tests.append((_MEMBER, found))
    result = tests[-1][1]
    for m, test in tests[:-1]:
        result = E.Call("select", (E.equal(mode, m), test, result), BOOL)
    return result


def _folded(old: Expr, weight: Expr, fold: str) -> Expr:
    if fold == "MIN":
        return E.minimum(old, weight)
    return E.maximum(old, weight) if fold == "MAX" else old + weight


# ---------------------------------------------------------------- TreeEnsemble


def _tensor(node: OpNode, name: str) -> np.ndarray:
    value = node.attr(name)
    return np.zeros(0) if value is None else value.numpy().reshape(-1)


def _numbers(node: OpNode, name: str) -> np.ndarray:
    return np.asarray(node.attr(name, ()), np.int64)


def _ensemble_samples() -> list[Sample]:
    common: dict[str, Any] = {
        "n_targets": 2,
        "tree_roots": [0, 2],
        "nodes_featureids": [0, 2, 1],
        "nodes_truenodeids": [1, 0, 3],
        "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [2, 1, 4],
        "nodes_falseleafs": [1, 1, 1],
        "leaf_targetids": [0, 1, 0, 1, 1],
        "fixed": [1],
    }
    return [
        sample(
            floats(7, 3, dtype=dtype),
            nodes_splits=_as_tensor([0.5, -0.25, 1.0], dtype),
            nodes_modes=_as_tensor(modes, np.uint8),
            leaf_weights=_as_tensor([1.5, -2.0, 3.0, 0.5, -0.75], dtype),
            aggregate_function=fold,
            reference=reference,
            **common,
        )
        for dtype in (np.float32, np.float64)
        for modes, fold, reference in (
            ([0, 0, 0], 1, "onnxruntime"),
            ([1, 3, 2], 0, "onnx"),
            ([0, 1, 5], 2, "onnx"),
        )
    ]


def _as_tensor(values: Sequence[float], dtype: Any) -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values, dtype))


@op("TreeEnsemble", domain=DOMAIN, samples=_ensemble_samples)
def tree_ensemble(node: OpNode) -> Tensor:
    modes, splits = _tensor(node, "nodes_modes").astype(np.int64), _tensor(node, "nodes_splits")
    if modes.size and (modes.min() < 0 or modes.max() > _MEMBER):
        raise NotSupported("nodes_modes holds a mode that does not exist")
    count, leaves = len(modes), _tensor(node, "leaf_weights")
    yes, no = _numbers(node, "nodes_truenodeids"), _numbers(node, "nodes_falsenodeids")
    yes_leaf, no_leaf = _numbers(node, "nodes_trueleafs"), _numbers(node, "nodes_falseleafs")
    if not len(yes) == len(no) == len(yes_leaf) == len(no_leaf) == count:
        raise NotSupported("the trees' attributes differ in length")
    roots = [int(r) for r in node.attr("tree_roots", ())]
    if any(not 0 <= r < count for r in roots):
        raise NotSupported("a tree's root does not exist")
    # A tree of a single leaf is spelled as a node both of whose branches are that leaf.
    roots = [-1 - int(yes[r]) if yes_leaf[r] and no_leaf[r] and yes[r] == no[r] else r for r in roots]
    missing = _numbers(node, "nodes_missing_value_tracks_true")
    members, starts = _members(_tensor(node, "membership_values"), modes)
    forest = Forest(
        roots,
        _numbers(node, "nodes_featureids"),
        splits,
        modes,
        np.where(yes_leaf, -1 - yes, yes),
        np.where(no_leaf, -1 - no, no),
        missing if len(missing) else np.zeros(count, np.int64),
        np.arange(len(leaves) + 1),
        _numbers(node, "leaf_targetids"),
        leaves,
        members,
        starts,
    )
    if len(forest.targets) != len(leaves):
        raise NotSupported("the trees' attributes differ in length")
    fold, transform = node.attr("aggregate_function", 1), node.attr("post_transform", 0)
    if fold not in range(len(_FOLDS)) or transform not in range(len(TRANSFORMS)):
        raise NotSupported(f"aggregate_function = {fold}, post_transform = {transform}")
    y = scores_of(node.input(0), forest, int(node.attr("n_targets", 1)), _FOLDS[fold], ())
    return transformed(y, TRANSFORMS[transform])


def _members(values: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sets of the nodes that test membership, which the file ends with NaN, and where each node's begins."""
    ends = np.flatnonzero(np.isnan(values))
    asking = np.flatnonzero(modes == _MEMBER)
    if len(ends) != len(asking):
        raise NotSupported(f"{len(ends)} sets for {len(asking)} nodes that test membership")
    sizes = np.zeros(len(modes), np.int64)
    sizes[asking] = np.diff(ends, prepend=-1) - 1
    return values[~np.isnan(values)], np.concatenate([[0], np.cumsum(sizes)])


# ---------------------------------------------------------------- the forms up to version 3


def _older(node: OpNode, votes: str) -> Forest:
    """The trees of TreeEnsembleRegressor ("target") and TreeEnsembleClassifier ("class")."""
    trees, ids = _numbers(node, "nodes_treeids"), _numbers(node, "nodes_nodeids")
    names = [str(m) for m in node.attr("nodes_modes", ())]
    if len(trees) != len(ids) or len(names) != len(ids) or any(m not in (*_MODES[:-1], "LEAF") for m in names):
        raise NotSupported("nodes_modes does not fit the trees")
    place = {(int(t), int(k)): n for n, (t, k) in enumerate(zip(trees, ids, strict=True))}
    leaf_number = {n: k for k, n in enumerate(n for n, m in enumerate(names) if m == "LEAF")}

    def child(name: str) -> np.ndarray:
        found = []
        for t, k, mode in zip(trees, _numbers(node, name), names, strict=True):
            n = 0 if mode == "LEAF" else place.get((int(t), int(k)), -1)
            if n < 0:
                raise NotSupported("a tree's node points to a node that does not exist")
            found.append(-1 - leaf_number[n] if n in leaf_number else n)
        return np.asarray(found, np.int64)

    voters = zip(_numbers(node, f"{votes}_treeids"), _numbers(node, f"{votes}_nodeids"), strict=True)
    leaves = [leaf_number.get(place.get((int(t), int(k)), -1), -1) for t, k in voters]
    if -1 in leaves:
        raise NotSupported("a vote is of a node that is no leaf")
    order = np.argsort(leaves, kind="stable")
    starts = np.searchsorted(np.asarray(leaves, np.int64)[order], np.arange(len(leaf_number) + 1))
    targets, weights = _numbers(node, f"{votes}_ids"), _floats(node, f"{votes}_weights")
    if not len(targets) == len(weights) == len(leaves):
        raise NotSupported("the votes' attributes differ in length")
    missing = _numbers(node, "nodes_missing_value_tracks_true")
    firsts: dict[int, int] = {}
    for n, t in enumerate(trees):
        firsts.setdefault(int(t), n)
    return Forest(
        [-1 - leaf_number[n] if n in leaf_number else n for n in firsts.values()],
        _numbers(node, "nodes_featureids"),
        _floats(node, "nodes_values"),
        np.asarray([0 if m == "LEAF" else _MODES.index(m) for m in names], np.int64),
        child("nodes_truenodeids"),
        child("nodes_falsenodeids"),
        missing if len(missing) else np.zeros(len(ids), np.int64),
        starts,
        targets[order],
        weights[order],
        np.zeros(0),
        np.zeros(len(ids) + 1, np.int64),
    )


def _floats(node: OpNode, name: str) -> np.ndarray:
    wide = _tensor(node, f"{name}_as_tensor")
    return wide if wide.size else np.asarray(node.attr(name, ()), np.float32)


def _older_attributes(votes: str, targets: Sequence[int]) -> dict[str, Any]:
    return {
        "nodes_treeids": [0, 0, 0, 0, 0, 1, 1, 1],
        "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
        "nodes_featureids": [0, 2, 0, 0, 0, 1, 0, 0],
        "nodes_values": [0.5, -0.25, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 2, 0, 0, 0, 1, 0, 0],
        "nodes_falsenodeids": [4, 3, 0, 0, 0, 2, 0, 0],
        f"{votes}_treeids": [0, 0, 0, 0, 1, 1],
        f"{votes}_nodeids": [2, 3, 3, 4, 1, 2],
        f"{votes}_ids": list(targets),
        f"{votes}_weights": [0.5, 0.25, 1.5, 0.75, 0.125, 1.0],
        "fixed": [1],
    }


@op(
    "TreeEnsembleRegressor",
    domain=DOMAIN,
    samples=lambda: [
        *(
            sample(
                floats(9, 3), n_targets=2, aggregate_function=fold, **_older_attributes("target", [0, 1, 0, 1, 0, 1])
            )
            for fold in ("SUM", "AVERAGE")
        ),
        sample(
            floats(9, 3),
            n_targets=2,
            post_transform="LOGISTIC",
            **_older_attributes("target", [0, 1] * 3),
        ),
        sample(floats(9, 3), n_targets=1, base_values=[0.5], reference="onnx", **_older_attributes("target", [0] * 6)),
        sample(floats(9, 2), n_targets=1, rejected="feature", reference="onnx", **_older_attributes("target", [0] * 6)),
        sample(floats(9, 3), n_targets=1, rejected="target", reference="onnx", **_older_attributes("target", [1] * 6)),
    ],
)
def tree_ensemble_regressor(node: OpNode) -> Tensor:
    fold, base = node.attr("aggregate_function", "SUM"), _floats(node, "base_values")
    targets = int(node.attr("n_targets", 1))
    y = scores_of(node.input(0), _older(node, "target"), targets, fold, [float(v) for v in base])
    kind = node.attr("post_transform", "NONE")
    # Of a single target onnxruntime transforms nothing but by PROBIT.
    return transformed(_as_float(y), kind if targets > 1 or kind == "PROBIT" else "NONE")


def _as_float(x: Tensor) -> Tensor:
    return x if x.dtype == F32 else map_(lambda v: E.cast(v, F32), x)


@op(
    "TreeEnsembleClassifier",
    domain=DOMAIN,
    samples=lambda: [
        *(
            sample(
                floats(9, 3),
                classlabels_int64s=[3, 5, -2],
                post_transform=kind,
                outputs=2,
                **_older_attributes("class", [0, 1, 2, 2, 0, 1]),
            )
            for kind in ("NONE", "SOFTMAX")
        ),
        *(
            sample(
                floats(9, 3),
                classlabels_int64s=[4, 9],
                outputs=2,
                post_transform=kind,
                **{**_older_attributes("class", [only] * 6), "class_weights": weights},
            )
            for only in (0, 1)
            for kind in ("NONE", "LOGISTIC")
            for weights in ([0.5, 0.25, 1.5, 0.75, 0.125, 1.0], [0.5, -0.25, -1.5, 0.75, -0.125, 1.0])
        ),
        sample(
            floats(9, 3),
            classlabels_int64s=[4, 9],
            outputs=2,
            reference="onnx",
            **_older_attributes("class", [0, 1] * 3),
        ),
        sample(
            floats(9, 3),
            classlabels_strings=["a", "b"],
            outputs=2,
            rejected="text",
            reference="onnx",
            **_older_attributes("class", [1] * 6),
        ),
    ],
)
def tree_ensemble_classifier(node: OpNode) -> list[Tensor]:
    """The label of the class with most votes, and the votes.

    Where all votes are for one of two classes they are a probability or, where some are negative, a logit; the scores
    are then as onnxruntime has them, which the standard leaves open.
    """
    labels = [int(k) for k in node.attr("classlabels_int64s", ())]
    if not labels:
        raise NotSupported(TEXT)
    forest, base = _older(node, "class"), [float(v) for v in _floats(node, "base_values")]
    kind = node.attr("post_transform", "NONE")
    voted = {int(t) for t in forest.targets}
    if len(labels) != 2 or len(voted) > 1:
        if len(labels) < 2:
            raise NotSupported("a single class")
        scores = _as_float(scores_of(node.input(0), forest, len(labels), "SUM", base))
        return [labels_of(strongest(scores), labels), transformed(scores, kind)]
    forest.targets = np.zeros_like(forest.targets)
    score = _as_float(scores_of(node.input(0), forest, 1, "SUM", base[-1:]))
    probable = bool((forest.weights >= 0).all())
    best = map_(lambda v: E.cast(v > (0.5 if probable else 0.0), I64), score)
    chosen = labels_of(reshape(best, best.shape[:1]), labels)
    if voted == {1}:
        return [chosen, transformed(concat([map_(lambda v: v * 0, score), score], 1), kind)]
    if kind == "PROBIT":
        raise NotSupported("post_transform = 'PROBIT' for two classes")
    if kind == "NONE" and probable:
        return [chosen, concat([map_(lambda v: 1.0 - v, score), score], 1)]
    pair = concat([map_(lambda v: -v, score), score], 1)
    return [chosen, transformed(pair, kind) if kind == "LOGISTIC" else pair]
