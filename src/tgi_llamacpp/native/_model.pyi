from collections.abc import Callable

from tgi_llamacpp.config import EngineConfig

class _LogLines:
    error: str
    def forget_error(self) -> None: ...

log_lines: _LogLines

class Model:
    num_vocab: int
    num_sampled_vocab: int
    bos_id: int | None
    eog_ids: frozenset[int]
    pieces_hash: str
    context_length: int
    description: str
    device: str
    def __init__(
        self,
        config: EngineConfig,
        on_progress: Callable[[float], bool] = ...,
        *,
        library_dir: str | None = None,
    ) -> None: ...
    def close(self) -> None: ...
