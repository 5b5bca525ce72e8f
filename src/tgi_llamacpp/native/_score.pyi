import numpy as np
import numpy.typing as npt

from tgi_llamacpp.engine.runner import Int32s, Scores

class ScoredRows:
    def __init__(self, num_vocab: int, max_rows: int) -> None: ...
    def score(self, rows: npt.NDArray[np.float32], token_ids: Int32s, num_top: int) -> Scores: ...
