"""Every file of tests/golden is a request, what the engine does, and the answer byte for byte."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import MakeServer, RunningServer, running_servers
from tests.fake_engine import FakeEngine, FakeToken
from tgi_llamacpp import __version__
from tgi_llamacpp.messages import Finish, SequenceFailed, Submit

GOLDEN = Path(__file__).parent.parent / "golden"
_CHANGING = [
    (re.compile(r'"id":"(chatcmpl|cmpl)-[0-9a-f]{24}"'), r'"id":"\1-ID"'),
    (re.compile(r'"created":[0-9]{10}'), '"created":0'),
    (re.compile(r'"seed":(?!18446744073709551615)[0-9]{6,}'), '"seed":SEED'),
    (re.compile(re.escape(f'"{__version__}')), '"VERSION'),
]


@dataclass
class Exchange:
    """One golden file. `scripts` has a line for each sequence, in order of submission."""

    scripts: list[list[str]]
    method: str
    path: str
    body: str
    status: int
    content_type: str
    answer: str


def read_golden(path: Path) -> Exchange:
    request, response = path.read_text().split("----\n")
    lines = [line for line in request.splitlines() if not line.startswith("#")]
    scripts = [line.split()[1:] for line in lines if line.startswith("engine")]
    rest = lines[len(scripts) :]
    method, target = rest[0].split()
    status, _, tail = response.partition(" ")
    content_type, _, answer = tail.partition("\n")
    if content_type != "text/event-stream":
        answer = answer.removesuffix("\n")
    body = "\n".join(rest[1:])
    return Exchange(scripts, method, target, body, int(status), content_type, answer)


def _token(text: str) -> FakeToken:
    """`id/logprob`, then a finish and alternatives `id=logprob` if there are any."""
    token_id, logprob, *rest = text.split("/")
    finish = Finish[rest.pop(0)] if rest and "=" not in rest[0] else Finish.NONE
    tops = [(int(t.split("=")[0]), float(t.split("=")[1])) for t in rest]
    return FakeToken(int(token_id), float(logprob), finish, tops)


def play(engine: FakeEngine, scripts: list[list[str]]) -> None:
    """Have the engine do what the file says: tokens, then perhaps `fail` or `die`."""
    submitted = 0

    def script(submit: Submit) -> list[FakeToken]:
        nonlocal submitted
        words = scripts[submitted % len(scripts)]
        submitted += 1
        ends = {"fail": lambda: _fail(engine, submit), "die": engine.die}
        tokens = [_token(word) for word in words if word not in ends]
        if words and words[-1] in ends:
            # One step for each token, then the end, in the order that the socket keeps.
            engine.is_auto = False
            engine._open[submit.seq_id] = tokens
            for _ in range(len(words) - 1):
                engine.step()
            ends[words[-1]]()
        return tokens

    engine.script = script


def _fail(engine: FakeEngine, submit: Submit) -> None:
    engine.send(SequenceFailed(engine.epoch, submit.seq_id, "no memory"))


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[RunningServer]:
    with running_servers() as make:
        yield make()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_the_answer_is_the_golden_one_byte_for_byte(
    path: Path, lasting_server: RunningServer, make_server: MakeServer
) -> None:
    golden = read_golden(path)
    ends_badly = any(words and words[-1] in ("fail", "die") for words in golden.scripts)
    server = make_server() if ends_badly else lasting_server
    server.do(lambda: play(server.engine, golden.scripts))
    response = httpx.request(
        golden.method,
        server.url + golden.path,
        content=golden.body.encode(),
        headers={"content-type": "application/json"},
        timeout=20,
    )
    answer = response.content.decode()
    for pattern, replacement in _CHANGING:
        answer = pattern.sub(replacement, answer)
    assert answer == golden.answer
    assert response.status_code == golden.status
    assert response.headers["content-type"] == golden.content_type


BODY_ERRORS = json.loads((GOLDEN / "body_errors.json").read_text())


@pytest.mark.parametrize("case", BODY_ERRORS, ids=lambda case: f"{case['route']} {case['body']}")
def test_a_body_that_is_no_request_is_told_so_in_tgis_words(
    case: dict[str, object], http: httpx.Client
) -> None:
    response = http.post(
        str(case["route"]),
        content=str(case["body"]).encode(),
        headers={"content-type": "application/json"},
    )
    reason = (
        "Failed to parse the request body as JSON"
        if case["status"] == 400
        else "Failed to deserialize the JSON body into the target type"
    )
    expected = f"{reason}: {case['detail']}"
    assert response.status_code == case["status"]
    if str(case["route"]).startswith("/v1"):
        assert response.json()["error"]["message"] == expected
    else:
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.text == expected
