import httpx
import pytest

from tests.conftest import MakeServer, sse_events

HI = [{"role": "user", "content": "hi"}]


def test_sagemaker_answers_as_the_route_whose_body_it_is(http: httpx.Client) -> None:
    generate = http.post("/invocations", json={"inputs": "I"})
    assert generate.text == '[{"generated_text":"I love to code"}]'
    chat = http.post("/invocations", json={"messages": HI}).json()
    assert chat["object"] == "chat.completion"
    text = http.post("/invocations", json={"prompt": "a"}).json()
    assert text["object"] == "text_completion"
    stream = http.post("/invocations", json={"inputs": "I", "stream": True})
    assert sse_events(stream)[-1]["generated_text"] == "I love to code"


def test_sagemaker_errors_have_the_form_of_their_route(http: httpx.Client) -> None:
    flat = http.post("/invocations", json={"inputs": ""}).json()
    assert flat["error"] == "Input validation error: `inputs` cannot be empty"
    nested = http.post("/invocations", json={"messages": HI, "n": 0}).json()
    assert nested["error"]["param"] == "n"


def test_vertex_predicts_in_order_with_every_parameter(http: httpx.Client) -> None:
    instances = [
        {"inputs": "I", "parameters": {"max_new_tokens": 2}},
        {"messages": HI},
        {"inputs": "I", "parameters": {"stop": ["e"], "return_full_text": True}},
        {"inputs": "I", "parameters": None},
    ]
    response = http.post("/vertex", json={"instances": instances})
    assert response.text == (
        '{"predictions":[" love to"," love to code","I love"," love to code"]}'
    )
    assert "x-compute-type" not in response.headers


@pytest.mark.parametrize(
    ("instances", "answer"),
    [
        ([], {"error": "Input validation error", "error_type": "Input validation error"}),
        (
            [{"inputs": "a"}, {"inputs": ""}],
            {
                "error": "Input validation error: `inputs` cannot be empty",
                "error_type": "validation",
            },
        ),
    ],
)
def test_vertex_errors_say_what_is_wrong(
    http: httpx.Client, instances: list[object], answer: dict[str, str]
) -> None:
    response = http.post("/vertex", json={"instances": instances})
    assert response.status_code == 422
    assert response.json() == answer


def test_a_failed_vertex_instance_leaves_nothing_running(make_server: MakeServer) -> None:
    server = make_server(lambda submit: [])
    instances = [{"inputs": "a"}, {"inputs": ""}]
    assert httpx.post(f"{server.url}/vertex", json={"instances": instances}).status_code == 422
    assert server.do(lambda: server.client.num_open) == 0
    assert server.app.state.services.permits.num_used == 0
