"""Restore the on-demand features that Feast 0.67 drops from online answers with `full_feature_names`.

Feast looks for `view__feature` in the output of a Python on-demand view, which has short names.
"""

from typing import Any

from feast.feature_service import FeatureService
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.utils import _get_features


def left_out(
    answer: OnlineResponse, features: list[str] | FeatureService, registry: BaseRegistry, project: str
) -> list[str]:
    """The requested feature references that an answer with full names lacks."""
    requested: list[str] = _get_features(registry, project, features, allow_cache=True)
    held = set(answer.proto.metadata.feature_names.val)
    return [ref for ref in requested if _full(ref) not in held]


def put_back(answer: OnlineResponse, short: OnlineResponse, refs: list[str]) -> OnlineResponse:
    """The answer with the features `refs` added from an answer with short names to the same rows."""
    vectors: dict[str, Any] = dict(zip(short.proto.metadata.feature_names.val, short.proto.results, strict=True))
    for ref in refs:
        answer.proto.metadata.feature_names.val.append(_full(ref))
        answer.proto.results.append(vectors[ref.split(":", 1)[1]])
    return answer


def _full(ref: str) -> str:
    return ref.replace(":", "__", 1)
