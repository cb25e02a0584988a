"""Whatever is asked, the service answers as its document says, and never with a 500: requests made up from OpenAPI."""

from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is a development tool")

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402

from tests.support.services import TOKEN, a_service  # noqa: E402
from velo.serving.api.app import app_of  # noqa: E402
from velo.storage.store import Store  # noqa: E402

pytestmark = pytest.mark.slow

BOUNDED = settings(
    max_examples=25,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def store(streamed_store: Store) -> Store:
    return streamed_store


def test_no_request_made_up_from_the_document_gets_a_500(store: Store) -> None:
    app = app_of(a_service(store), TOKEN, hosts=["*"])
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    asked = 0
    for found in document.get_all_operations():
        operation = found.ok()
        if operation.path == "/v1/events":
            continue

        def ask(case: Any) -> None:
            nonlocal asked
            answer = case.call(headers={"Authorization": f"Bearer {TOKEN}"})
            asked += 1
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"][0] == "application/problem+json"

        given(case=operation.as_strategy())(BOUNDED(ask))()
    assert asked >= 7
