"""PPL@1024: how well the benchmark's language model predicts a codec's codes, and what that number hides.

    PPL@1024 = exp(mean over codebooks of cross-entropy in nats) / (V / 1024)

as the published numbers of Codec-Evaluation were made: Qwen2 blocks, an embedding and a head for each codebook, all codebooks
of a step predicted in parallel from the steps before; V + 3 ids (start V, end V + 1, padding V + 2); sequences of 15 s, start
+ codes + end; AdamW 1e-4 with betas (0.8, 0.99), 50 steps of warm-up and a cosine to 0.99. Here the model's own start vector
stands for the embedded start token.

Our corrections to its code as it stands. Losses are means over tokens: since September 2025 it sums them and exponentiates the
sum. Start labels count nowhere: it divides by them, too. Lengths are those of the codes: it takes them from the samples of a
rate that may not be the codec's. Waves are resampled to the codec's rate by us, never read as if they had it.

Dividing by V / 1024 is no change of base: it favours large codebooks. So bits per token, their ratio to log2 V (cnBPT) and to
the codes' own entropy (enBPT), and bits per second stand beside it; the paper's definitions of the two are not known, these are
inferred. As in the benchmark the model that is scored is that of the best validation on the songs that it is then scored on:
every number is somewhat too good, and compares with others that were made so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from duotok.model.language_model import DualTrackLM, LanguageModelConfig

from .bits import entropy_bits, unigram

NUM_SPECIAL = 3
_IGNORED = -100


@dataclass(frozen=True)
class PerplexityConfig:
    """The language model's training; defaults are Codec-Evaluation's.

    Attributes:
        model: sizes; codebooks are those of the codes.
        lr, betas, eps, weight_decay, warmup_steps, floor: of AdamW, and the share of `lr` at which the cosine ends.
        steps: the published numbers took 100,000.
        batch_size, seconds: of training; crops of so many seconds at random places.
        validate_every, val_batches, val_batch_size: the weights of the lowest validation loss are scored.
        seed: of weights and crops.
    """

    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    lr: float = 1e-4
    betas: tuple[float, float] = (0.8, 0.99)
    eps: float = 1e-5
    weight_decay: float = 0.01
    warmup_steps: int = 50
    floor: float = 0.99
    steps: int = 100_000
    batch_size: int = 10
    seconds: float = 15.0
    validate_every: int = 400
    val_batches: int = 100
    val_batch_size: int = 4
    seed: int = 114_514


# A model that a CPU trains in minutes; its sizes, rate and batch are own choices, and its numbers are not the benchmark's.
TINY = PerplexityConfig(
    LanguageModelConfig(width=128, num_blocks=3, num_heads=4, num_key_heads=2, ffn_width=384, embedding_dim=32),
    lr=2e-3, floor=0.1, steps=300, batch_size=4, validate_every=100, val_batches=4,
)  # fmt: skip
SIZES = {"tiny": TINY, "100m": PerplexityConfig()}


@dataclass(frozen=True)
class CodebookBits:
    """How predictable the codes of a codebook are, on held-out songs; bits per token.

    Attributes:
        cross_entropy_nats: of the benchmark, the end token included.
        bits: cross-entropy of the codes alone.
        unigram_bits: under the unigram model of the training songs.
        entropy_bits: of the held-out codes' own distribution; in few songs it is too low, as most codes cannot occur.
        ppl_1024: exp(cross_entropy_nats) / (V / 1024).
        cn_bpt, en_bpt: bits over log2 V, and over `entropy_bits`; NaN where only one code occurs.
        bits_per_second: bits times the frame rate.
    """

    cross_entropy_nats: float
    bits: float
    unigram_bits: float
    entropy_bits: float
    ppl_1024: float
    cn_bpt: float
    en_bpt: float
    bits_per_second: float


@dataclass(frozen=True)
class Perplexity:
    """The whole.

    Attributes:
        codebooks: of each codebook.
        mean: means over codebooks; its ppl_1024 is that of the mean cross-entropy, its bits_per_second the sum.
        nominal_bits_per_second: N log2 V a frame.
        best_step: whose weights were scored.
        num_tokens: held-out codes of a codebook.
    """

    codebooks: list[CodebookBits]
    mean: CodebookBits
    nominal_bits_per_second: float
    best_step: int
    num_tokens: int


def ppl_1024(cross_entropy_nats: float, codebook_size: int) -> float:
    """Compute exp(cross-entropy) / (V / 1024)."""
    return math.exp(cross_entropy_nats) / (codebook_size / 1024)


def sequences(crops: Sequence[Tensor], codebook_size: int) -> tuple[Tensor, Tensor]:
    """Put an end behind crops of codes.

    Args:
        crops: codes (N, t_i) int64.
        codebook_size: V; the end is V + 1, padding V + 2.

    Returns:
        Ids (B, N, T + 1), T the longest crop, and labels of that shape, -100 in the padding.
    """
    longest = max(crop.shape[1] for crop in crops)
    ids = torch.full((len(crops), len(crops[0]), longest + 1), codebook_size + 2)
    labels = torch.full_like(ids, _IGNORED)
    for row, crop in enumerate(crops):
        whole = F.pad(crop, (0, 1), value=codebook_size + 1)
        ids[row, :, : whole.shape[1]] = labels[row, :, : whole.shape[1]] = whole
    return ids, labels


def warmup_cosine(step: int, warmup_steps: int, total_steps: int, floor: float) -> float:
    """Give the share of the learning rate at a step: a linear warm-up, then a cosine that ends at `floor` and stays there."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def measure_perplexity(
    train: Sequence[Tensor],
    held_out: Sequence[Tensor],
    codebook_size: int,
    frame_rate: float,
    config: PerplexityConfig,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Perplexity:
    """Train the language model on codes and score held-out ones.

    Args:
        train, held_out: codes (N, T_i) int64 of each song.
        codebook_size, frame_rate: V, and codes per second of each codebook.
        config: model and training; the model's codebooks are set from the codes.
        device: where to train; on CUDA in bfloat16, as the benchmark does.
        progress: called with each step and its loss in bits per token.

    Raises:
        ValueError: if there are no songs to train on or to score, or a code is out of range.
    """
    songs = [*train, *held_out]
    if not train or not held_out:
        raise ValueError(f"expected songs to train on and songs held out; got {len(train)} and {len(held_out)}; add songs")
    highest = max(int(song.max()) for song in songs)
    if highest >= codebook_size or min(int(song.min()) for song in songs) < 0:
        raise ValueError(f"expected codes from 0 to {codebook_size - 1}; got up to {highest}; name the codec that made them")
    frames, books = max(1, round(config.seconds * frame_rate)), len(train[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        sizes = replace(config.model, codebook_size=codebook_size + NUM_SPECIAL, num_tracks=books)
        model = DualTrackLM(sizes).to(device)
        best = _train(model, train, held_out, frames, codebook_size, config, progress)
    crops = [crop for song in held_out for crop in song.split(frames, dim=1)]
    losses = _score(model, crops, codebook_size, config.val_batch_size)
    return _report(losses, crops, train, codebook_size, frame_rate, best)


def _losses(model: DualTrackLM, crops: Sequence[Tensor], codebook_size: int) -> Tensor:
    """Compute the cross-entropy in nats of every id: (N, B, T + 1), zero in the padding."""
    device = model.start.device
    ids, labels = (part.to(device) for part in sequences(crops, codebook_size))
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        hidden = model(ids)
        logits = [model.logits(hidden, book) for book in range(ids.shape[1])]
    return torch.stack([
        F.cross_entropy(scores.float().mT, labels[:, book], ignore_index=_IGNORED, reduction="none")
        for book, scores in enumerate(logits)
    ])  # fmt: skip


def _mean_loss(model: DualTrackLM, crops: Sequence[Tensor], codebook_size: int) -> Tensor:
    """Average over the tokens of each codebook, then over codebooks; every crop brings its own length and an end."""
    return _losses(model, crops, codebook_size).sum((1, 2)).mean() / sum(crop.shape[1] + 1 for crop in crops)


def _draw(songs: Sequence[Tensor], count: int, frames: int) -> list[Tensor]:
    """Draw crops (N, frames) of songs with chances as their lengths; a shorter song is taken whole."""
    lengths = torch.tensor([float(song.shape[1]) for song in songs])
    crops = []
    for chosen in torch.multinomial(lengths, count, replacement=True).tolist():
        start = int(torch.randint(max(1, songs[chosen].shape[1] - frames + 1), ()))
        crops.append(songs[chosen][:, start : start + frames])
    return crops


def _train(
    model: DualTrackLM, train: Sequence[Tensor], held_out: Sequence[Tensor], frames: int, codebook_size: int,
    config: PerplexityConfig, progress: Callable[[int, float], None] | None,
) -> int:  # fmt: skip
    """Train, leave the weights of the lowest validation loss in the model, and return their step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, config.warmup_steps, config.steps, config.floor)
    )
    best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, {})
    for step in range(1, config.steps + 1):
        loss = _mean_loss(model, _draw(train, config.batch_size, frames), codebook_size)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress:
            progress(step, loss.item() / math.log(2))
        if step % config.validate_every == 0 or step == config.steps:
            loss = _validate(model, held_out, frames, codebook_size, config)
            if loss < best[0]:
                best = loss, step, {name: value.detach().clone() for name, value in model.state_dict().items()}
    if not best[2]:
        raise ValueError("expected a finite validation loss; got none; lower lr")
    model.load_state_dict(best[2])
    return best[1]


@torch.no_grad()
def _validate(model: DualTrackLM, songs: Sequence[Tensor], frames: int, codebook_size: int, config: PerplexityConfig) -> float:
    """Average the loss over batches of fresh random crops."""
    batches = (_draw(songs, config.val_batch_size, frames) for _ in range(config.val_batches))
    return sum(_mean_loss(model, batch, codebook_size).item() for batch in batches) / config.val_batches


@torch.no_grad()
def _score(model: DualTrackLM, crops: Sequence[Tensor], codebook_size: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Sum the losses in nats over all crops: (N,) float64 of their codes, and of their ends."""
    codes, ends = torch.zeros(2, len(crops[0]), dtype=torch.float64)
    for first in range(0, len(crops), batch_size):
        batch = crops[first : first + batch_size]
        losses = _losses(model, batch, codebook_size).double().cpu()
        for row, crop in enumerate(batch):
            codes += losses[:, row, : crop.shape[1]].sum(1)
            ends += losses[:, row, crop.shape[1]]
    return codes, ends


def _report(
    losses: tuple[Tensor, Tensor], crops: Sequence[Tensor], train: Sequence[Tensor], size: int, frame_rate: float, best: int
) -> Perplexity:
    """Turn summed losses into bits."""
    codes, ends = losses
    held = torch.cat(list(crops), dim=1)
    nats, bits = (codes + ends) / (held.shape[1] + len(crops)), codes / held.shape[1] / math.log(2)
    rows = []
    for book in range(len(held)):
        prior, entropy = unigram([song[book] for song in train], size), entropy_bits(held[book], size)
        own, value = -prior[held[book]].log2().mean().item(), bits[book].item()
        rows.append(_row(nats[book].item(), value, own, entropy, size, frame_rate))
    means = {name: sum(getattr(row, name) for row in rows) / len(rows) for name in asdict(rows[0])}
    mean = _row(*(means[name] for name in ("cross_entropy_nats", "bits", "unigram_bits", "entropy_bits")), size, frame_rate)
    mean = replace(mean, bits_per_second=len(rows) * mean.bits_per_second)
    return Perplexity(rows, mean, len(rows) * math.log2(size) * frame_rate, best, held.shape[1])


def _row(nats: float, bits: float, unigram_bits: float, entropy: float, size: int, frame_rate: float) -> CodebookBits:
    ratios = bits / math.log2(size), bits / entropy if entropy else math.nan
    return CodebookBits(nats, bits, unigram_bits, entropy, ppl_1024(nats, size), *ratios, bits * frame_rate)
