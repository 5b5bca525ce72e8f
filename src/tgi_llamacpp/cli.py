"""The two programs: text-generation-router-llamacpp, and tgi-llamacpp with its subcommands.

Owns exit codes and the one sentence on stderr that goes with each: 2 for a command line that cannot
be understood, 1 for a server that cannot start, 3 for one whose engine failed for good, 0 for one
that was asked to stop.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tgi_llamacpp import __version__, flags
from tgi_llamacpp.config import ServerConfig
from tgi_llamacpp.errors import EngineFailedError, StartupError, UsageError
from tgi_llamacpp.logs import escape

EXIT_STARTUP = 1
EXIT_USAGE = 2
EXIT_ENGINE = 3

DEMO_NAME = "tgi-llamacpp/demo"
_DEMO_FOLDER = Path(__file__).parent / "demo"
_DEMO_BODY = (
    '{"messages": [{"role": "user", "content": "What is the capital of France?"}],'
    ' "temperature": 0, "max_tokens": 32}'
)

_USAGE = f"""usage: tgi-llamacpp COMMAND [OPTIONS]

Serve GGUF models behind the HTTP API of text-generation-inference.

commands:
  serve      serve the model of --model-id, as text-generation-router-llamacpp does
  demo       serve the small model that comes with the package
options:
  -h, --help     show this; tgi-llamacpp COMMAND --help shows the options of a command
  -V, --version  tgi-llamacpp {__version__}
"""


def main_router(argv: Sequence[str] | None = None) -> int:
    """text-generation-router-llamacpp: TGI's name, TGI's flags. Returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    return _exit_code(lambda: _serve(arguments, "text-generation-router-llamacpp"))


def main(argv: Sequence[str] | None = None) -> int:
    """tgi-llamacpp serve, tgi-llamacpp demo. Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return _exit_code(lambda: _run_command(arguments))


def _run_command(arguments: Sequence[str]) -> None:
    command = arguments[0] if arguments else None
    if command == "serve":
        _serve(arguments[1:], "tgi-llamacpp serve")
    elif command == "demo":
        _demo(arguments[1:])
    elif command in ("-h", "--help"):
        sys.stdout.write(_USAGE)
    elif command in ("-V", "--version"):
        sys.stdout.write(f"tgi-llamacpp {__version__}\n")
    elif command is None:
        raise UsageError("a command is missing: tgi-llamacpp serve, or tgi-llamacpp demo")
    else:
        raise UsageError(f"there is no command {command!r}: try serve or demo")


def _serve(arguments: Sequence[str], program: str) -> None:
    _run_server(lambda: flags.parse(arguments, os.environ, program), None, lambda url: None)


def _demo(arguments: Sequence[str]) -> None:
    fixed = {"model_id": str(_DEMO_FOLDER), "revision": "main", "model_gguf": None}
    program = "tgi-llamacpp demo"
    _run_server(
        lambda: flags.parse(arguments, os.environ, program, fixed), DEMO_NAME, _print_demo_hint
    )


def _run_server(
    read_config: Callable[[], ServerConfig], name: str | None, on_listening: Callable[[str], None]
) -> None:
    config = read_config()  # which exits after --help

    from tgi_llamacpp.router import server  # a second of imports, of no use to --help

    try:
        server.run(config, name, on_listening, read_config)
    except (StartupError, EngineFailedError) as error:
        if config.json_output:  # whoever reads such a log parses every line of it
            logging.getLogger(__name__).error("%s", error)
            sys.exit(EXIT_STARTUP if isinstance(error, StartupError) else EXIT_ENGINE)
        raise


def _print_demo_hint(url: str) -> None:
    reachable = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    sys.stdout.write(
        "The demo model is ready. In another terminal:\n\n"
        f"curl {reachable}/v1/chat/completions -H 'content-type: application/json'"
        f" -d '{_DEMO_BODY}'\n\n"
    )
    sys.stdout.flush()


def _exit_code(run: Callable[[], None]) -> int:
    try:
        run()
    except UsageError as error:
        return _fail(error, EXIT_USAGE)
    except StartupError as error:
        return _fail(error, EXIT_STARTUP)
    except EngineFailedError as error:
        return _fail(error, EXIT_ENGINE)
    except KeyboardInterrupt:  # asked to stop before there was anything to stop
        return 0
    return 0


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"Error: {escape(str(error))}\n")  # it may quote a file
    return code
