"""Every struct that crosses the socket between router and engine, and the frame around it.

A frame is a 4-byte little-endian length and that many bytes of msgpack. Token ids travel as raw
little-endian int32 columns, sequence ids as int64, log-probabilities as float32: one StepOut a
step, whatever the number of sequences. Both processes import this module; it imports neither.

Order on the wire: the router sends Start; the engine answers Progress*, then Ready or Failed;
then Submit and Abort go in, StepOut, PromptLogprobs, SequenceFailed and Stats come out. End of file
is the death notice in both directions.
"""

from __future__ import annotations

import enum
import struct

import msgspec

from tgi_llamacpp.config import EngineConfig
from tgi_llamacpp.histogram import DURATION_BOUNDS_S, Counts

PROTOCOL_VERSION = 5
MAX_FRAME_BYTES = 64 * 1024 * 1024
SIZE_BOUNDS = tuple(range(1, 1025))  # of a batch in sequences, as in TGI
# Why an admitted sequence found nothing in the prefix cache: nobody begins as it does; too little
# of it; those who do are not there yet; the memory shares states only whole; its ids are to be
# scored, and no logits are kept; the request asked for no cached prefix.
PREFIX_MISSES = ("unknown", "short", "computing", "partial", "scored", "unwanted")
# Why a save to host memory or a load from it was not done: no time beside running streams; it takes
# longer than to compute the tokens; it does not fit the bound, or the machine's memory; the slot's
# cells come with the next step, or there are none free.
TRANSFER_SKIPS = ("late", "dear", "large", "refused")
_LENGTH = struct.Struct("<I")


class Finish(enum.IntEnum):
    """Why a sequence ended, as one byte of StepOut.finishes. Stop strings are the router's."""

    NONE = 0
    EOG = 1
    LENGTH = 2


class SamplingParams(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How to choose the next token; csrc/sampler.h says it exactly, with the ranges.

    Order: logit_bias; repetition, frequency and presence penalty; DRY; temperature; top-k; top-p;
    typical-p; min-p; XTC; draw. mirostat 1 or 2 takes the place of every cut. The defaults are off.
    temperature 0 is greedy: the argmax after the penalties and DRY; cuts do not matter then.
    mirostat's bound starts anew when a sequence is resumed, and when it has its min_new_tokens.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0  # divides positive logits, multiplies negative; prompt + output
    frequency_penalty: float = 0.0  # times the count of the token
    presence_penalty: float = 0.0  # once, if the token occurred
    penalize_prompt: bool = False  # frequency and presence count the prompt too (TGI's routes)
    seed: int = 0  # of this sequence, unsigned 64-bit: already hashed with the choice index
    num_top_tokens: int = 0  # alternatives to report beside the chosen token
    penalty_last_n: int = -1  # the three penalties count the last so many tokens; -1: all
    bias_ids: bytes = b""  # int32[n], distinct; out of the vocabulary: passed over
    bias_values: bytes = b""  # float32[n], added to the logits; -inf bans
    min_p: float = 0.0  # keeps what has this fraction of the best kept token's probability
    xtc_probability: float = 0.0  # that all but the last token above the threshold are taken out
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0  # of the penalty multiplier * base ** (length - allowed_length)
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_last_n: int = -1  # repetitions are looked for in the last so many tokens; -1: all
    dry_breaker_ids: bytes = b""  # int32[n], ascending: no repetition reaches across these
    mirostat: int = 0  # 1 or 2: the version
    mirostat_tau: float = 5.0  # the surprise aimed at, in bits
    mirostat_eta: float = 0.1  # the rate of learning
    min_new_tokens: int = 0  # output before which the ends of generation are banned


class Start(msgspec.Struct, frozen=True, array_like=True, tag="start"):
    """The first frame, from the router: what to load."""

    epoch: int
    config: EngineConfig


class Submit(msgspec.Struct, frozen=True, array_like=True, tag="submit", gc=False):
    """Run one sequence. `generated_ids` is not empty when a sequence is resumed.

    max_new_tokens counts all output, that in generated_ids included; 0 ends the sequence with its
    prompt. prompt_logprobs asks for PromptLogprobs of the prompt tokens [1 + num_scored, ...), each
    with params.num_top_tokens alternatives.
    """

    seq_id: int
    prompt_ids: bytes  # int32[num_prompt]
    generated_ids: bytes  # int32[num_generated]
    max_new_tokens: int
    params: SamplingParams
    ignore_eog: bool = False
    scope: int = 0  # cells of a prefix are shared with sequences of the same scope alone
    prompt_logprobs: bool = False
    num_scored: int = 0  # log-probabilities that are there already, when a sequence is resumed
    more_follow: bool = False  # others are about to be submitted: an engine at rest awaits them
    takes_prefix: bool = True  # else the whole prompt is computed, cached or not


class Abort(msgspec.Struct, frozen=True, array_like=True, tag="abort", gc=False):
    """Forget these sequences; ids that are unknown or finished are no error."""

    seq_ids: list[int]


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="progress", gc=False):
    """How far the model has been loaded, 0 to 1."""

    fraction: float


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The engine serves. The router checks versions and pieces before it opens its port."""

    epoch: int
    protocol_version: int
    package_version: str
    num_vocab: int
    bos_id: int | None
    eog_ids: list[int]
    pieces_hash: str  # hex sha256 over the raw vocabulary texts, see native.Model.pieces_hash
    num_slots: int
    max_sequence_tokens: int  # prompt and output of one sequence, after the model's own limit
    max_batch_total_tokens: int
    device: str  # for people: "CPU", "CUDA0 (NVIDIA H100)"
    notes: list[str]  # sentences for the log: lowered limits


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The engine cannot start or go on; it exits after this frame. One sentence."""

    epoch: int
    message: str


class SequenceFailed(msgspec.Struct, frozen=True, array_like=True, tag="seq_failed", gc=False):
    """One sequence ended without a finish. One sentence."""

    epoch: int
    seq_id: int
    message: str


class StepOut(msgspec.Struct, frozen=True, array_like=True, tag="step", gc=False):
    """What one step produced: row i is one new token of sequence seq_ids[i].

    top_ids and top_logprobs hold top_counts[i] alternatives for each row, one row after the other,
    best first.
    """

    epoch: int
    seq_ids: bytes  # int64[n]
    token_ids: bytes  # int32[n]
    logprobs: bytes  # float32[n], the model's own log-softmax
    finishes: bytes  # uint8[n], Finish
    admitted: bytes = b""  # int64[], sequences that left the queue in this step
    top_counts: bytes = b""  # uint8[n], empty when no row has alternatives
    top_ids: bytes = b""  # int32[sum(top_counts)]
    top_logprobs: bytes = b""  # float32[sum(top_counts)]
    cached_seq_ids: bytes = b""  # int64[], sequences that found a prefix, before their first row
    cached_counts: bytes = b""  # int32[], tokens of each one's prompt that were not computed for it


class PromptLogprobs(msgspec.Struct, frozen=True, array_like=True, tag="prompt_logprobs", gc=False):
    """Log-probabilities of the prompt tokens [start, start + n) of one sequence.

    They come in order, without gaps, and before the sequence's first row of a StepOut. A sequence
    of max_new_tokens 0 ends with the message whose finish is not NONE, which may have no entries.
    """

    epoch: int
    seq_id: int
    start: int  # 1 or more: nothing comes before the first token
    logprobs: bytes  # float32[n], as StepOut has them; NaN where the model gave no finite logit
    top_ids: bytes = b""  # int32[n * num_top_tokens], best first
    top_logprobs: bytes = b""  # float32[n * num_top_tokens]
    finish: int = 0  # Finish


def _no_durations() -> Counts:
    return Counts([0] * (len(DURATION_BOUNDS_S) + 1))


def _no_sizes() -> Counts:
    return Counts([0] * (len(SIZE_BOUNDS) + 1))


class StepStats(msgspec.Struct, frozen=True, array_like=True):
    """Durations of the steps of one kind, between DURATION_BOUNDS_S.

    `whole` is `forward` (up to the logits), `sampling` and `delivery` (commit, and the frame with
    the new tokens) together.
    """

    num_retried: int = 0  # steps that gave nothing and were planned again
    whole: Counts = msgspec.field(default_factory=_no_durations)
    forward: Counts = msgspec.field(default_factory=_no_durations)
    sampling: Counts = msgspec.field(default_factory=_no_durations)
    delivery: Counts = msgspec.field(default_factory=_no_durations)


class AdmissionStats(msgspec.Struct, frozen=True, array_like=True):
    """Sequences that left the queue."""

    sizes: Counts = msgspec.field(default_factory=_no_sizes)  # at a time, between SIZE_BOUNDS
    joins: Counts = msgspec.field(default_factory=_no_durations)  # where others ran already


class PrefixStats(msgspec.Struct, frozen=True, array_like=True):
    """What admitted sequences found in others' cells of the ids that they begin with."""

    num_hits: int = 0
    num_misses: dict[str, int] = {}  # sequences that found nothing, by reason (PREFIX_MISSES)
    num_cached_tokens: int = 0  # that were found
    num_evictions: int = 0  # finished sequences whose slot or cells were needed
    num_parked_tokens: int = 0  # now, in cells of finished sequences


class HostStats(msgspec.Struct, frozen=True, array_like=True):
    """The prefix cache's tier in host memory. All zero where there is none."""

    max_bytes: int = 0
    num_bytes: int = 0  # now, everything counted
    num_states: int = 0  # now
    num_evictions: int = 0  # states that made room for others
    num_hits: int = 0  # of PrefixStats.num_hits, those that came from here
    num_cached_tokens: int = 0  # of PrefixStats.num_cached_tokens
    num_saves: int = 0
    num_loads: int = 0
    num_save_skips: dict[str, int] = {}  # by reason (TRANSFER_SKIPS)
    num_load_skips: dict[str, int] = {}
    num_saved_bytes: int = 0
    num_loaded_bytes: int = 0
    save_s: float = 0.0
    load_s: float = 0.0
    num_idle_saves: int = 0  # of num_saves, those of parked sequences while there was no work


class Stats(msgspec.Struct, frozen=True, array_like=True, tag="stats", gc=False):
    """Counters since the start and gauges of now; sent a few times a second, and when idle."""

    epoch: int
    num_steps: int
    num_decode_tokens: int
    num_prefill_tokens: int
    num_waiting: int
    num_running: int
    num_reserved_tokens: int  # of the budget
    num_shared_steps: int  # steps that ran more than one sequence
    num_reused_graphs: int
    step_s: float  # time inside Runner.step, summed, and on prompts aside
    prefill: StepStats = msgspec.field(default_factory=StepStats)  # steps with rows of a prompt
    decode: StepStats = msgspec.field(default_factory=StepStats)  # steps of next tokens alone
    admissions: AdmissionStats = msgspec.field(default_factory=AdmissionStats)
    num_mixed_steps: int = 0  # steps that had prompt tokens beside decode rows,
    num_mixed_tokens: int = 0  # and how many prompt tokens,
    mixed_error_s: float = 0.0  # and how far off their predicted times were, summed
    num_late_steps: int = 0  # steps with decode rows that took longer than the latency target
    num_preempted: int = 0  # sequences that had to give way for a while
    num_aside: int = 0  # prompts that were computed aside, between the steps of others,
    aside_s: float = 0.0  # and what that took, of step_s

    prefix: PrefixStats = msgspec.field(default_factory=PrefixStats)
    num_tokens_ahead: int = 0  # that all who run or wait may still come to, prompts included
    host: HostStats = msgspec.field(default_factory=HostStats)
    num_curves: int = 0  # times that passes were measured again, at rest

    @classmethod
    def of_nothing(cls, epoch: int, num_waiting: int = 0) -> Stats:
        """What an engine would say before its first step."""
        return cls(epoch, 0, 0, 0, num_waiting, 0, 0, 0, 0, 0.0)

    def at_rest(self) -> Stats:
        """The same counters, and nothing that runs or waits: the engine is gone."""
        return msgspec.structs.replace(self, num_waiting=0, num_running=0, num_reserved_tokens=0)


FromRouter = Start | Submit | Abort
FromEngine = Progress | Ready | Failed | SequenceFailed | StepOut | PromptLogprobs | Stats

_encoder = msgspec.msgpack.Encoder()


class FrameError(Exception):
    """The peer sent what is no frame: too long, or not of the protocol."""


def encode_frame(message: FromRouter | FromEngine) -> bytes:
    """One message as length and body.

    Raises:
        FrameError: the body is longer than MAX_FRAME_BYTES.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Cuts a byte stream into messages of one direction.

    `feed` takes what the socket gave and returns the messages that are now whole.
    """

    def __init__(self, message_type: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[FromRouter | FromEngine] = msgspec.msgpack.Decoder(
            message_type  # a union is a valid type here
        )
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[FromRouter | FromEngine]:
        """Messages completed by `data`, in order.

        Raises:
            FrameError: the length is over the limit or the body is no message of this direction.
        """
        source: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        messages: list[FromRouter | FromEngine] = []
        start = 0
        while len(source) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(source, start)
            if length > MAX_FRAME_BYTES:
                limit = MAX_FRAME_BYTES
                raise FrameError(f"a frame of {length} bytes is over the limit of {limit}")
            end = start + _LENGTH.size + length
            if len(source) < end:
                break
            messages.append(self._decode(source[start + _LENGTH.size : end]))
            start = end
        if source is data:
            self._buffer += data[start:]  # mostly nothing
        else:
            del self._buffer[:start]
        return messages

    def _decode(self, body: bytes | bytearray) -> FromRouter | FromEngine:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise FrameError(f"not a message of the protocol: {error}") from error
