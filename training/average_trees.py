"""Several grown models as one: LightGBM's text with the trees of all, whose score is the mean of theirs.

A model's chance at work (which rows and features a tree was shown) is as large as what a good feature is worth, and the mean
of a few grown from different seeds has less of it. One text keeps one call for all of them, in a bundle and in serving.
"""

import re
from collections.abc import Sequence
from typing import Final

_TREES_END: Final = "end of trees\n"
_TREE: Final = re.compile(r"^Tree=\d+\n", re.MULTILINE)
_SIZES: Final = re.compile(r"^tree_sizes=.*$", re.MULTILINE)
_VALUES: Final = re.compile(r"^(leaf_value|internal_value)=(.*)$", re.MULTILINE)


def joined(texts: Sequence[str]) -> str:
    """LightGBM's text of the mean of some models, with the head and the parameters of the first; one alone is as it was."""
    if len(texts) == 1:
        return texts[0]
    head, _, tail = _parts(texts[0])
    trees = [tree for text in texts for tree in _parts(text)[1]]
    told = [f"Tree={number}\n{_shared(tree, len(texts))}" for number, tree in enumerate(trees)]
    sizes = "tree_sizes=" + " ".join(str(len(tree.encode())) for tree in told)
    return _SIZES.sub(sizes, head, count=1) + "".join(told) + _TREES_END + tail


def _parts(text: str) -> tuple[str, list[str], str]:
    """What stands before the trees, each tree without its number, and what follows them all."""
    above, found, tail = text.partition(_TREES_END)
    if not found:
        raise ValueError("the text of a LightGBM model has no end of trees")
    head, *trees = _TREE.split(above)
    return head, trees, tail


def _shared(tree: str, models: int) -> str:
    """A tree that adds its share of what it added, of so many models."""

    def share(line: re.Match[str]) -> str:
        # repr keeps every bit of a double
        return f"{line[1]}=" + " ".join(repr(float(value) / models) for value in line[2].split())

    return _VALUES.sub(share, tree)
