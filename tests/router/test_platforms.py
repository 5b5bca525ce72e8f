import httpx
import msgspec
import pytest

from tests.conftest import TOOLS, MakeServer, RunningServer, sse_events
from tgi_llamacpp import flags
from tgi_llamacpp.errors import StartupError, UsageError
from tgi_llamacpp.router.app import build_app

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
        (
            [{"messages": HI, "n": 2}],
            {
                "error": "Input validation error: `n` must be 1 where the answer is one text."
                " Given: 2",
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


def test_vertex_refuses_more_instances_than_may_ever_run(make_server: MakeServer) -> None:
    server = make_server(limits={"max_concurrent_requests": 3})
    instances = [{"inputs": "a"}] * 3
    assert httpx.post(f"{server.url}/vertex", json={"instances": instances}).status_code == 200
    response = httpx.post(f"{server.url}/vertex", json={"instances": [*instances, *instances]})
    assert response.status_code == 422
    assert response.json() == {
        "error": "Input validation error: `instances` must have <= 3 entries, as many as may run"
        " at once. Given: 6",
        "error_type": "validation",
    }


def test_candidates_count_among_what_may_ever_run_of_vertex(make_server: MakeServer) -> None:
    server = make_server(limits={"max_concurrent_requests": 3, "max_best_of": 2})
    two = {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}
    url = f"{server.url}/vertex"
    assert httpx.post(url, json={"instances": [two, {"inputs": "a"}]}).status_code == 200
    response = httpx.post(url, json={"instances": [two, two]})
    assert response.status_code == 422
    assert response.json()["error"] == (
        "Input validation error: `instances` must have <= 3 sequences, with those of `best_of`."
        " Given: 4"
    )
    three = {"inputs": "a", "parameters": {"best_of": 3, "do_sample": True}}
    response = httpx.post(url, json={"instances": [three, three]})
    assert response.json()["error"].endswith("`best_of` must be > 0 and <= 2. Given: 3")


def test_a_failed_vertex_instance_leaves_nothing_running(make_server: MakeServer) -> None:
    server = make_server(lambda submit: [])
    instances = [{"inputs": "a"}, {"inputs": ""}]
    assert httpx.post(f"{server.url}/vertex", json={"instances": instances}).status_code == 422
    assert server.do(lambda: server.client.num_open) == 0
    assert server.app.state.services.permits.num_used == 0


def test_vertex_ai_names_the_paths_it_wants(make_server: MakeServer) -> None:
    server = make_server(
        api_key="k", aip_predict_route="/predict", aip_health_route="/v1/endpoints/7"
    )
    body = {"instances": [{"inputs": "I"}]}
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/v1/endpoints/7").status_code == 200
        assert client.post("/predict", json=body).status_code == 401
        keyed = client.post("/predict", json=body, headers={"authorization": "Bearer k"})
        assert keyed.text == '{"predictions":[" love to code"]}'
        paths = client.get("/api-doc/openapi.json").json()["paths"]
    assert list(paths["/predict"]) == ["post"]
    assert list(paths["/v1/endpoints/7"]) == ["get"]


def test_vertex_ai_may_name_paths_that_are_there(make_server: MakeServer) -> None:
    server = make_server(aip_predict_route="/health", aip_health_route="/health")
    body = {"instances": [{"inputs": "I"}]}
    assert httpx.post(f"{server.url}/health", json=body).status_code == 200
    assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_vertex_ai_may_not_take_the_path_of_another_route(
    shared_server: RunningServer, path: str
) -> None:
    config = msgspec.structs.replace(shared_server.config, aip_predict_route=path)
    with pytest.raises(StartupError, match=f"AIP_PREDICT_ROUTE={path} is the path of another"):
        build_app(config, shared_server.client, TOOLS)


def test_vertex_ai_names_the_port_it_wants() -> None:
    arguments = ["--model-id=m", "--port=82"]
    assert flags.parse(arguments, {}).listen_port == 82
    assert flags.parse(arguments, {"AIP_HTTP_PORT": "8080"}).listen_port == 8080
    with pytest.raises(UsageError, match="AIP_HTTP_PORT: not a whole number"):
        flags.parse(arguments, {"AIP_HTTP_PORT": "65536"})
