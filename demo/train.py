"""Train the demo model on the CPU against the clock.

The learning rate is a function of the time spent, so that a run of any length ends with a decayed
rate. Some rows hold nothing but bare sums and differences: these are short, so that many of them
cost little, and arithmetic is what takes the most examples. Documents are packed into rows without
a mask between them: the model learns to leave earlier, unrelated text alone.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import data
import torch
from model import Model, load
from tokenizers import Tokenizer
from torch import Tensor

DEMO = Path(__file__).parent.parent / "src" / "tgi_llamacpp" / "demo"
Encoded = tuple[list[int], list[bool]]
LayOut = tuple[int, int]

SHORT_ROWS: LayOut = (8, 256)
LONG_ROWS: LayOut = (2, 768)
FULL_ROWS: LayOut = (1, 2048)
MUON_RATE, ADAM_RATE, WEIGHT_DECAY = 4e-3, 2e-3, 0.05
WARM_UP_STEPS = 15
BARE_ROWS, BARE_ROWS_AT_LAST = 6, 3  # of the short rows; at last: the last fifth of the schedule


class Batches:
    """Packed rows of random documents, without end."""

    def __init__(self, tok: Tokenizer, seed: int):
        self.tok, self.rng = tok, random.Random(seed)
        self.end = tok.token_to_id(data.END_OF_TEXT)
        self.waiting: list[Encoded] = []

    def documents(self, make: Callable[[random.Random], list[data.Segment]], n: int) -> None:
        docs = [make(self.rng) for _ in range(n)]
        codes = iter(self.tok.encode_batch_fast([text for doc in docs for text, _ in doc]))
        for doc in docs:
            ids: list[int] = []
            learn: list[bool] = []
            for _, wanted in doc:
                part = next(codes).ids
                ids += part
                learn += [wanted] * len(part)
            self.waiting.append((ids, learn))

    def row(self, length: int) -> Encoded:
        ids: list[int] = []
        learn: list[bool] = []
        for i in range(len(self.waiting) - 1, -1, -1):
            if len(ids) + len(self.waiting[i][0]) <= length:
                more = self.waiting.pop(i)
                ids, learn = ids + more[0], learn + more[1]
            if length - len(ids) < 9:
                break
        gap = length - len(ids)
        return ids + [self.end] * gap, learn + [False] * gap

    def bare_row(self, length: int) -> Encoded:
        others, self.waiting = self.waiting, []
        self.documents(data.raw_sum, length // 8)
        made = self.row(length)
        self.waiting = others
        return made

    def batch(self, rows: int, length: int, mixed: bool, bare: int = 0) -> tuple[Tensor, Tensor]:
        rows -= bare
        self.waiting = [doc for doc in self.waiting if len(doc[0]) <= 200]
        while sum(len(doc[0]) for doc in self.waiting) < rows * length * 1.3:
            self.documents(data.short_doc, 64)
            if mixed:
                self.documents(data.long_doc, 12)
                self.rng.shuffle(self.waiting)
        made = [self.row(length) for _ in range(rows)]
        made += [self.bare_row(length) for _ in range(bare)]
        return torch.tensor([ids for ids, _ in made]), torch.tensor([learn for _, learn in made])


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal (Newton and Schulz), in F32; PyTorch's own takes BF16.

    Steps are as long as AdamW's would be.
    """

    def __init__(self, matrices: list[Tensor], lr: float, weight_decay: float):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                updates = []
                for matrix in matrices:
                    mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                    mean.lerp_(matrix.grad, 1 - group["momentum"])
                    updates.append(matrix.grad.lerp(mean, group["momentum"]))
                length = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, update in zip(matrices, orthogonal(torch.stack(updates)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-length)


def orthogonal(x: Tensor) -> Tensor:
    """The matrices of a batch with all singular values near 1."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def optimizers(model: Model) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embd" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embd" in n]
    return [
        Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def rate(part: float) -> float:
    """Hold, and from 40 % of the time on fall in a straight line to almost nothing."""
    return min(1.0, max(0.02, (1 - part) / 0.6))


def layout(step: int, part: float) -> LayOut:
    if step % 8:
        return SHORT_ROWS
    return FULL_ROWS if part > 0.6 and step % 24 == 0 else LONG_ROWS


def save(model: Model, path: Path, step: int) -> None:
    part = path.with_suffix(".part")
    torch.save({"model": model.state_dict(), "step": step}, part)
    os.replace(part, path)


def train(model: Model, tok: Tokenizer, options: argparse.Namespace) -> None:
    seconds, part, out = options.minutes * 60, options.part, options.out
    batches, opts = Batches(tok, options.seed), optimizers(model)
    start = last_save = time.monotonic()
    step, tokens, mean = 0, 0, 0.0
    while part < 1:
        shape = layout(step, part)
        bare = BARE_ROWS if part < 0.8 else BARE_ROWS_AT_LAST
        if shape == SHORT_ROWS:
            ids, learn = batches.batch(*shape, mixed=False, bare=bare)
        else:
            ids, learn = batches.batch(*shape, mixed=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = model.loss(ids, learn)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, base in zip(opts, (MUON_RATE, ADAM_RATE), strict=True):
            opt.param_groups[0]["lr"] = base * rate(part) * min(1.0, (step + 1) / WARM_UP_STEPS)
            opt.step()
            opt.zero_grad(set_to_none=True)
        spent = time.monotonic() - start
        part = options.part + (1 - options.part) * spent / seconds
        step, tokens = step + 1, tokens + ids.numel()
        mean += (loss.item() - mean) * max(0.02, 1 / step)
        if step % 20 == 0:
            print(
                f"{spent:6.0f} s  step {step:5d}  {tokens / spent:6.0f} tokens/s  "
                f"CPU {time.process_time():6.0f} s  loss {mean:.4f}",
                flush=True,
            )
        if time.monotonic() - last_save > 60:
            last_save = time.monotonic()
            save(model, out, step)
    save(model, out, step)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--minutes", type=float, default=60)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--start", type=Path, help="checkpoint or GGUF to go on from")
    args.add_argument("--part", type=float, default=0.0, help="of the schedule, already done")
    args.add_argument("--bf16", action="store_true", help="faster where the CPU has AMX")
    args.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    options = args.parse_args()
    torch.set_num_threads(options.threads)
    model = load(options.start)
    tok = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    train(model, tok, options)


if __name__ == "__main__":
    main()
