"""schemathesis reads the OpenAPI document and finds no answer outside it, and no 5xx.

Bodies that fit the document and bodies that do not, for every operation. The quick run has few of
them and always the same; the long one, `pytest -m long`, has many.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

import tgi_llamacpp
from tests.conftest import LIMITS, RunningServer, running_servers
from tests.fake_engine import FakeToken
from tgi_llamacpp.config import RouterConfig
from tgi_llamacpp.messages import Finish
from tgi_llamacpp.router.chat import load_chat_template
from tgi_llamacpp.router.detokenizer import Detokenizer
from tgi_llamacpp.router.gguf_metadata import read_metadata
from tgi_llamacpp.router.openapi import document
from tgi_llamacpp.router.services import TextTools
from tgi_llamacpp.router.tokenizer import TokenizerPool, load_tokenizer

DEMO = Path(tgi_llamacpp.__file__).parent / "demo"
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
# What is in a document is known before any server runs: one test for each operation.
OPERATIONS = [
    result.ok()
    for result in schemathesis.openapi.from_dict(
        document(RouterConfig(model_id="org/model", limits=LIMITS))
    ).get_all_operations()
]


def _cases() -> Iterator[Any]:
    for operation in OPERATIONS:
        for mode in GenerationMode:
            if mode is GenerationMode.POSITIVE or operation.body:
                yield pytest.param(operation, mode, id=f"{operation.label} {mode.name.lower()}")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """The demo model's text tools, which take any text; every answer is two tokens."""
    metadata = read_metadata(DEMO / "demo.gguf")
    tokenizer = load_tokenizer(metadata, folder=DEMO)
    pool = TokenizerPool(tokenizer, 1)
    text = TextTools(
        pool=pool,
        detokenizer=Detokenizer(tokenizer, extra_special_ids=[]),
        chat_template=load_chat_template(metadata, tokenizer, folder=DEMO),
    )
    tokens = [FakeToken(300, tops=[(301, -1.0)]), FakeToken(301, finish=Finish.LENGTH)]
    with running_servers() as make:
        running = make(lambda submit: tokens, text=text)
        ready = running.client.ready
        assert ready is not None
        running.client.ready = msgspec.structs.replace(ready, num_vocab=metadata.num_vocab)
        yield running
    pool.close()


@pytest.mark.parametrize(
    "num_examples",
    [pytest.param(6, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.long)],
)
@pytest.mark.parametrize(("operation", "mode"), list(_cases()))
def test_no_answer_is_outside_the_document(
    server: RunningServer, operation: Any, mode: GenerationMode, num_examples: int
) -> None:
    @settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=server.url, checks=CHECKS)

    ask()
