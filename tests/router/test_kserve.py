import httpx
import pytest

from tests.conftest import MakeServer

MODEL = "/v2/models/any/versions/7"


def tensor(name: str, text: str | bytes) -> dict[str, object]:
    data = list(text.encode() if isinstance(text, str) else text)
    return {"name": name, "shape": [1, len(data)], "datatype": "BYTES", "data": data}


def infer(http: httpx.Client, inputs: list[object], outputs: int, **more: object) -> httpx.Response:
    names = [{"name": f"out{i}"} for i in range(outputs)]
    body = {"id": "42", "inputs": inputs, "outputs": names, **more}
    return http.post(f"{MODEL}/infer", json=body)


def test_kserve_answers_bytes_in_the_order_of_the_inputs(http: httpx.Client) -> None:
    response = infer(
        http,
        [tensor("a", "I"), tensor("b", "é")],
        2,
        parameters={"max_new_tokens": 2, "return_full_text": True},
    )
    answer = response.json()
    assert answer == {
        "id": "42",
        "outputs": [tensor("out0", "I love to"), tensor("out1", "é love to")],
    }
    assert list(answer["outputs"][0]) == ["name", "shape", "datatype", "data"]
    assert "x-compute-type" not in response.headers


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\xff", "invalid utf-8 sequence of 1 bytes from index 1"),
        (b"a\xe2\x82", "incomplete utf-8 byte sequence from index 1"),
    ],
)
def test_kserve_inputs_are_text(http: httpx.Client, data: bytes, message: str) -> None:
    response = infer(http, [tensor("a", data)], 1)
    assert response.status_code == 422
    assert response.json() == {"error": message, "error_type": "utf8"}


def test_kserve_wants_an_output_for_every_input(http: httpx.Client) -> None:
    response = infer(http, [tensor("a", "I")], 2)
    assert response.status_code == 422
    assert response.json() == {
        "error": "Inputs and outputs length mismatch",
        "error_type": "length mismatch",
    }


def test_kserve_errors_say_what_is_wrong(http: httpx.Client) -> None:
    response = infer(http, [tensor("a", "I"), tensor("b", "")], 2)
    assert response.status_code == 422
    assert response.json() == {
        "error": "Input validation error: `inputs` cannot be empty",
        "error_type": "validation",
    }


def test_a_byte_is_a_byte(http: httpx.Client) -> None:
    wrong = {**tensor("a", "I"), "data": [256]}
    response = infer(http, [wrong], 1)
    assert response.status_code == 422
    assert "inputs[0].data[0]: invalid value: integer `256`, expected u8" in response.text


def test_kserve_metadata(http: httpx.Client) -> None:
    server = http.get("/v2").json()
    assert server["name"] == "text-generation-inference"
    assert server["extensions"] == ["health", "models", "metrics"]
    assert http.get(MODEL).text == '{"name":"any","version":"7","extensions":["infer","ready"]}'


def test_kserve_is_ready_until_the_engine_is_gone(make_server: MakeServer) -> None:
    server = make_server()
    paths = ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready")
    with httpx.Client(base_url=server.url) as client:
        for path in paths:
            assert client.get(path).text == '{"live":true}'
        server.do(server.engine.die)
        server.call(server.client.wait_closed())
        assert [client.get(path).status_code for path in paths] == [200, 503, 503]
