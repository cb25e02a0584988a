"""The Shapley values of boosted trees, looked up in tables that are made once for each model.

The values are those of LightGBM's `pred_contrib` (path-dependent TreeSHAP) up to rounding. A leaf adds to a row's contributions what
depends only on which features of its path the row satisfies, so a table has its value for every combination of them. The leaves
below a node share a table where `BITS` conditions suffice: the features on the path to the node and the splits below it.

For a leaf of value v, with o = 1 where the row satisfies the path's conditions on a feature (else 0) and z the share of training rows that
does, feature i adds v·(o_i − z_i)·∫₀¹ Π_{j≠i} (z_j·(1 − t) + o_j·t) dt. The integrand is a polynomial, so Gauss's quadrature is exact. Where
o_i = 0 the value is the same for every such i; where o_i = 1 it is −(1 − z_i)/z_i times what it would be with o_i = 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

BITS: Final = (10, 9, 8, 7, 6, 5)
"""The most conditions of a table that several leaves share, the largest that fits `MOST_BYTES`. A leaf with a longer path has its own table."""
MOST_BYTES: Final = 64_000_000
"""The most memory of the tables of a model; 400 trees of 24 leaves take 58 MB. A model that needs more has none."""
_CATEGORICAL, _DEFAULT_LEFT, _ZERO_IS_MISSING, _NAN_IS_MISSING = 1, 2, 4, 8
"""The bits of `decision_type` in LightGBM's text."""

_ZERO: Final = float(np.float32(1e-35))
"""LightGBM takes a value that is no farther from 0 as 0."""


class NotTabulated(ValueError):
    """A model that has splits of another kind, or whose tables would exceed `MOST_BYTES`."""


@dataclass(frozen=True, slots=True)
class _Condition:
    """A condition on one feature: low < value ≤ high, or NaN where `nan`; `share` of the training rows that reach it satisfy it."""

    low: float = -np.inf
    high: float = np.inf
    nan: bool = True
    share: float = 1.0

    def both(self, other: "_Condition") -> "_Condition":
        """The condition that both hold."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        return _Condition(low, high, self.nan and other.nan, self.share * other.share)


Path = Mapping[int, _Condition]
Condition = tuple[int, _Condition]
"""A feature and its condition."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """A tree of LightGBM's text: nodes from 0; a child below 0 is the leaf −1 − child."""

    feature: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    sides: tuple[tuple[_Condition, _Condition], ...]
    values: tuple[float, ...]

    @classmethod
    def of(cls, lines: Mapping[str, str]) -> "_Tree":
        """Parse the lines of one tree; raises `NotTabulated` for one that LightGBM evaluates in another way."""
        if lines["num_leaves"] == "1":
            return cls((), (), (), (), ())
        kinds, left, right = (_whole(lines[name]) for name in ("decision_type", "left_child", "right_child"))
        nodes, leaves = _whole(lines["internal_count"]), _whole(lines["leaf_count"])
        thresholds = tuple(map(float, lines["threshold"].split()))
        if lines.get("is_linear", "0") != "0" or any(kind & (_CATEGORICAL | _ZERO_IS_MISSING) for kind in kinds):
            raise NotTabulated("a tree is linear, or has a categorical split, or takes 0 as missing")
        if min(leaves) == 0:
            raise NotTabulated("a leaf has no training rows")
        sides = []
        for at, (kind, threshold) in enumerate(zip(kinds, thresholds, strict=True)):
            # where NaN is not missing, LightGBM takes it as 0
            nan_left = bool(kind & _DEFAULT_LEFT) if kind & _NAN_IS_MISSING else threshold >= 0.0
            below = [
                (nodes[child] if child >= 0 else leaves[-1 - child]) / nodes[at] for child in (left[at], right[at])
            ]
            sides.append(
                (
                    _Condition(high=threshold, nan=nan_left, share=below[0]),
                    _Condition(low=threshold, nan=not nan_left, share=below[1]),
                )
            )
        values = tuple(map(float, lines["leaf_value"].split()))
        return cls(_whole(lines["split_feature"]), left, right, tuple(sides), values)

    def step(self, path: Path, node: int, side: int) -> tuple[int, Path]:
        """The child on a side of a node, and the path to it."""
        feature, condition = self.feature[node], self.sides[node][side]
        child = (self.left, self.right)[side][node]
        return child, {**path, feature: path[feature].both(condition) if feature in path else condition}

    def below(self, node: int) -> list[int]:
        """The nodes of a subtree, its root first; none for a leaf."""
        if node < 0:
            return []
        return [node, *self.below(self.left[node]), *self.below(self.right[node])]

    def groups(self, bits: int) -> "Iterator[_Group]":
        """Groups of leaves that cover the tree once, each with at most `bits` conditions where it has more than one leaf."""
        open_: list[tuple[int, Path]] = [(0, {})] if self.feature else []
        while open_:
            node, path = open_.pop()
            below = self.below(node)
            if node < 0 or len(path) + len(below) <= bits:
                yield _Group.of(self, node, path, below)
            else:
                open_ += [self.step(path, node, side) for side in (1, 0)]


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A leaf of a group: its value, the shares of its path's features, and which bits of the group each feature needs, set or not."""

    value: float
    features: tuple[int, ...]
    shares: tuple[float, ...]
    wanted: tuple[tuple[int, int], ...]
    """For each feature the bits that decide it, and those of them that must be set."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Leaves that share a table; bit b of its index is whether a row satisfies `conditions[b]`, (feature, condition)."""

    conditions: tuple[Condition, ...]
    leaves: tuple[_Leaf, ...]

    @classmethod
    def of(cls, tree: _Tree, root: int, path: Path, below: Sequence[int]) -> "_Group":
        """The group of the leaves below a node, or of a leaf."""
        bit_of = {node: len(path) + at for at, node in enumerate(below)}
        known = {feature: (1 << bit, 1 << bit) for bit, feature in enumerate(path)}
        found: list[_Leaf] = []
        open_ = [(root, path, known)]
        while open_:
            node, of_node, bits = open_.pop()
            if node < 0:
                shares = tuple(condition.share for condition in of_node.values())
                found.append(_Leaf(tree.values[-1 - node], tuple(of_node), shares, tuple(bits[at] for at in of_node)))
                continue
            feature, bit = tree.feature[node], 1 << bit_of[node]
            used, wanted = bits.get(feature, (0, 0))
            for side in (0, 1):
                child, beyond = tree.step(of_node, node, side)
                open_.append((child, beyond, {**bits, feature: (used | bit, wanted | (0 if side else bit))}))
        splits = [(tree.feature[node], tree.sides[node][0]) for node in below]
        return cls((*path.items(), *splits), tuple(found))

    def is_single(self, bits: int) -> bool:
        """Whether it is a leaf with more than `bits` conditions."""
        return len(self.conditions) > bits

    @property
    def features(self) -> list[int]:
        """The features on its leaves' paths."""
        return list(dict.fromkeys(chain.from_iterable(leaf.features for leaf in self.leaves)))


@dataclass(frozen=True, slots=True)
class _Lookups:
    """Lookups of the tables of some groups: each adds to one feature a value at `begin` + `stride` · the group's index.

    `conditions` are the conditions of the groups' bits, (bits, groups). With `bit`, a lookup is of a single leaf: it finds the value without that bit,
    times `factor` where the bit is set. Lookups are in the order of the table; `order` sorts them by feature, for `features` and `starts`.
    """

    conditions: Indices
    stride: Indices
    group: Indices
    begin: Indices
    order: Indices
    features: Indices
    starts: Indices
    bit: Indices | None
    factor: Floats

    @classmethod
    def of(
        cls, groups: Sequence[_Group], begins: Sequence[int], numbers: Mapping[Condition, int], *, single: bool
    ) -> "_Lookups":
        """Lookups of groups whose tables begin at `begins`; a bit that a group does not have never holds."""
        longest = max((len(group.conditions) for group in groups), default=0)
        conditions = np.full((longest, len(groups)), len(numbers), dtype=np.intp)
        for at, group in enumerate(groups):
            conditions[: len(group.conditions), at] = [numbers[condition] for condition in group.conditions]
        widths = np.array([len(group.features) for group in groups], dtype=np.intp)
        feature = np.array([feature for group in groups for feature in group.features], dtype=np.intp)
        within = np.arange(feature.size) - np.repeat(np.cumsum(widths) - widths, widths)
        begin = np.repeat(np.array(begins, dtype=np.intp), widths)
        order = np.argsort(feature, kind="stable")
        features, starts = np.unique(feature[order], return_index=True)
        shares = np.array([share for group in groups for share in group.leaves[0].shares]) if single else np.ones(1)
        return cls(
            conditions,
            (np.ones_like(widths) if single else widths)[:, np.newaxis],
            np.repeat(np.arange(len(groups)), widths),
            (begin if single else begin + within)[:, np.newaxis],
            order,
            features,
            starts,
            (1 << within)[:, np.newaxis] if single else None,
            (-(1.0 - shares) / shares)[:, np.newaxis],
        )

    def add(self, holds: NDArray[np.bool_], table: Floats, sums: Floats) -> None:
        """Add to `sums`, (features, rows), for rows whose conditions hold or not, (conditions, rows)."""
        if not self.group.size:
            return
        index = np.zeros(
            (self.stride.size, holds.shape[1]), dtype=np.uint16 if len(self.conditions) <= 16 else np.uint32
        )
        for bit, conditions in enumerate(self.conditions):
            index |= holds[conditions].astype(index.dtype) << index.dtype.type(bit)
        own = (index * self.stride).take(self.group, axis=0)
        if self.bit is None:
            own += self.begin
            values = table.take(own)
        else:
            values = table.take((own & ~self.bit) + self.begin)
            values *= np.where(own & self.bit, self.factor, 1.0)
        sums[self.features] += np.add.reduceat(values.take(self.order, axis=0), self.starts, axis=0)


@dataclass(frozen=True, slots=True)
class ShapTables:
    """The tables of some boosted trees; `contributions` of a matrix are the mean of the models'. Immutable, safe for threads."""

    count: int
    table: Floats
    feature: Indices
    low: Floats
    high: Floats
    nan: NDArray[np.bool_]
    lookups: tuple[_Lookups, ...]

    @classmethod
    def of(cls, texts: Sequence[str], most_bits: Sequence[int] = BITS, most_bytes: int = MOST_BYTES) -> "ShapTables":
        """Make the tables of LightGBM's texts of some models; raises `NotTabulated` where they cannot be made."""
        trees = [tree for text in texts for tree in _trees(text)]
        size = 0
        for bits in most_bits:
            groups = [group for tree in trees for group in tree.groups(bits)]
            sizes = [_size(group, bits) for group in groups]
            size = 8 * sum(sizes)
            if size <= most_bytes:
                return cls._of(groups, sizes, bits, texts)
        raise NotTabulated(f"the tables would take {size:,} bytes, the bound is {most_bytes:,}")

    @classmethod
    def _of(cls, groups: Sequence[_Group], sizes: Sequence[int], bits: int, texts: Sequence[str]) -> "ShapTables":
        begins = np.cumsum([0, *sizes]).tolist()
        numbers: dict[Condition, int] = {}
        for condition in chain.from_iterable(group.conditions for group in groups):
            numbers.setdefault(condition, len(numbers))
        lookups = []
        for single in (False, True):
            chosen = [
                (group, begin) for group, begin in zip(groups, begins, strict=False) if group.is_single(bits) == single
            ]
            of = [group for group, _ in chosen]
            lookups.append(_Lookups.of(of, [begin for _, begin in chosen], numbers, single=single))
        every = [condition for _, condition in numbers]
        return cls(
            count=max(int(text.partition("\nmax_feature_idx=")[2].partition("\n")[0]) for text in texts) + 1,
            table=_filled(groups, begins, bits) / len(texts),
            feature=np.array([feature for feature, _ in numbers], dtype=np.intp),
            # "not at most NaN" is true of −∞ as well
            low=np.array([np.nan if condition.low == -np.inf else condition.low for condition in every])[:, np.newaxis],
            high=np.array([condition.high for condition in every])[:, np.newaxis],
            nan=np.array([condition.nan for condition in every], dtype=np.bool_)[:, np.newaxis],
            lookups=tuple(lookups),
        )

    def contributions(self, matrix: Floats) -> Floats:
        """The contribution of each feature to each row's score, (rows, features)."""
        known = np.ascontiguousarray(matrix.T)
        values = np.where(np.abs(known) <= _ZERO, 0.0, known).take(self.feature, axis=0)
        holds = np.zeros((self.feature.size + 1, matrix.shape[0]), dtype=np.bool_)
        holds[:-1] = ~(values <= self.low)
        holds[:-1] &= values <= self.high
        holds[:-1] |= self.nan & np.isnan(known).take(self.feature, axis=0)
        sums = np.zeros((self.count, matrix.shape[0]))
        for lookups in self.lookups:
            lookups.add(holds, self.table, sums)
        return np.ascontiguousarray(sums.T)


def _filled(groups: Sequence[_Group], begins: Sequence[int], bits: int) -> Floats:
    """The tables of all groups: of several leaves (combinations, features), of a single leaf as `_leaf_tables`."""
    by_leaf = _leaf_tables([leaf for group in groups for leaf in group.leaves])
    table = np.zeros(begins[-1])
    for group, begin, end in zip(groups, begins, begins[1:], strict=False):
        if group.is_single(bits):
            table[begin:end] = by_leaf[id(group.leaves[0])]
            continue
        columns = {feature: at for at, feature in enumerate(group.features)}
        block = table[begin:end].reshape(-1, len(columns))
        index = np.arange(len(block))
        for leaf in group.leaves:
            used, wanted = np.array(leaf.wanted).T[:, :, np.newaxis]
            holds = (index & used) == wanted
            bit = (1 << np.arange(len(leaf.features)))[:, np.newaxis]
            shares = np.array(leaf.shares)[:, np.newaxis]
            of_leaf = by_leaf[id(leaf)][(holds * bit).sum(axis=0) & ~bit] * np.where(
                holds, -(1.0 - shares) / shares, 1.0
            )
            block[:, [columns[feature] for feature in leaf.features]] += of_leaf.T
    return table


def _size(group: _Group, bits: int) -> int:
    """The numbers in the table of a group."""
    return (1 << len(group.conditions)) * (1 if group.is_single(bits) else len(group.features))


def _leaf_tables(leaves: Sequence[_Leaf]) -> dict[int, Floats]:
    """For each leaf, by its id: what each feature that is not satisfied adds, for every set of features that are, as bits.

    The last set, of all features, is meaningless.
    """
    by_length: dict[int, list[_Leaf]] = {}
    for leaf in leaves:
        by_length.setdefault(len(leaf.features), []).append(leaf)
    found: dict[int, Floats] = {}
    for length, alike in by_length.items():
        # n points integrate a polynomial of degree 2n − 1; the integrand has degree length − 1
        points, weights = np.polynomial.legendre.leggauss(length // 2 + 1)
        t, step = (points + 1.0) / 2.0, weights / 2.0
        products = np.ones((len(alike), 1, t.size)) / (1.0 - t)
        for share in np.array([leaf.shares for leaf in alike]).T[:, :, np.newaxis, np.newaxis]:
            without = share * (1.0 - t)
            products = np.concatenate([products * without, products * (without + t)], axis=1)
        tables = -np.array([leaf.value for leaf in alike])[:, np.newaxis] * (products @ step)
        for leaf, table in zip(alike, tables, strict=True):
            found[id(leaf)] = table
    return found


def _trees(text: str) -> Iterator[_Tree]:
    head, *bodies = text.partition("\nend of trees")[0].split("\nTree=")
    if "\naverage_output" in head or "\nnum_tree_per_iteration=1\n" not in head:
        raise NotTabulated("the trees are averaged, or give several scores")
    for body in bodies:
        yield _Tree.of(dict(line.split("=", 1) for line in body.splitlines() if "=" in line))


def _features_of(text: str) -> int:
    return int(text.partition("\nmax_feature_idx=")[2].partition("\n")[0]) + 1


def _whole(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))
