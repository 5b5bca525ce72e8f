"""`python -m tgi_llamacpp.engine --fd N`: the engine process with llama.cpp under it.

Started by the router, with one end of a socketpair inherited as file descriptor N.
"""

from __future__ import annotations

import logging
import sys

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.engine.model import Model, OnProgress
from tgi_llamacpp.engine.process import main
from tgi_llamacpp.engine.runner import Runner
from tgi_llamacpp.errors import StartupError

log = logging.getLogger("tgi_llamacpp.engine")


def load(config: EngineConfig, on_progress: OnProgress) -> tuple[Model, Runner]:
    """Load the GGUF and make its context."""
    try:  # here, so that a missing library is told to the router like any other failure to load
        from tgi_llamacpp import native
    except ImportError as error:
        raise StartupError(f"the native core cannot be loaded: {error}") from error
    model = native.Model(config, on_progress, library_dir=native.LIBRARY_DIR)
    if warning := native.missing_gpu(native.HAS_CUDA, model.device, config.n_gpu_layers):
        log.warning("%s", warning)
    try:
        return model, native.Runner(model, config)
    except BaseException:
        model.close()
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], load))
