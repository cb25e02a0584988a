"""What Feast leaves out of an online answer under full names, put back.

Feast 0.67 drops the features of a python on-demand view from an online answer with `full_feature_names`: it looks for
`view__feature` among what the view made, which bears short names.
"""

from typing import Any

from feast.feature_service import FeatureService
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.utils import _get_features


def left_out(
    answer: OnlineResponse, features: list[str] | FeatureService, registry: BaseRegistry, project: str
) -> list[str]:
    """The references asked for that an answer under full names does not hold."""
    asked: list[str] = _get_features(registry, project, features, allow_cache=True)
    held = set(answer.proto.metadata.feature_names.val)
    return [ref for ref in asked if _full(ref) not in held]


def put_back(answer: OnlineResponse, short: OnlineResponse, refs: list[str]) -> OnlineResponse:
    """The answer with `refs` taken from one under short names; the rows of both are the same."""
    vectors: dict[str, Any] = dict(zip(short.proto.metadata.feature_names.val, short.proto.results, strict=True))
    for ref in refs:
        answer.proto.metadata.feature_names.val.append(_full(ref))
        answer.proto.results.append(vectors[ref.split(":", 1)[1]])
    return answer


def _full(ref: str) -> str:
    return ref.replace(":", "__", 1)
