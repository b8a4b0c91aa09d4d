"""What one training trunk is: model, data, optimizer, schedule, length, seed. Needs no jax."""

from dataclasses import dataclass, field, replace
from typing import Literal

from kleiber.fields import check_fields
from kleiber.model.config import ModelConfig
from kleiber.parallel.config import MeshConfig
from kleiber.train.command import Command
from kleiber.train.conditions import (
    check_compression,
    check_corpora,
    check_images,
    check_mesh,
    check_mixture,
    check_objective,
    check_pairs,
)
from kleiber.train.ewc import EwcConfig, check_ewc
from kleiber.train.start import check_fine_tuning, check_finished, check_teacher, fill_in_teacher

BYTES = 256
"""The default of ModelConfig.vocab_size, for the tokenizer `bytes`."""
Objective = Literal["next_token", "masked", "label", "sequence_to_sequence"]
"""What training may minimise; train/objective/table.py says where each stands. `label` is the next token of the last
line of each document alone, such as a label below its text; of an image, its label. `sequence_to_sequence` is the next
token of a target, given its source."""

Augmentation = Literal["shift", "flip"]


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from."""

    corpus: str = "cloud-docs"
    """A corpus of `kleiber data list`, `tfds:NAME`, or the path of a text or JSON file, of images (.npz), or of pairs
    (.tsv, or PATH::PATH)."""
    tokenizer: str = "bytes"
    """`bytes` (256 ids), or `sentencepiece:SIZE` for a model trained on the corpus by `kleiber data prepare`."""
    document_attention: bool = False
    """Whether attention stops at document boundaries; False lets a packed sequence see the documents before.
    Learned positions then count from the start of each document."""
    num_unique_tokens: int | None = None
    """Train on this many tokens of the corpus only, repeated as needed; None means the whole corpus."""
    max_epochs: float = 1.0
    """Passes over the (unique) tokens that are allowed; a plan that needs more is refused."""
    augment: tuple[Augmentation, ...] = ()
    """What is drawn anew of each image at every step of training: `shift` moves it by up to an eighth of its side each
    way, and the pixels at its edge fill what becomes free; `flip` mirrors every other one, left to right."""
    mixture: tuple[tuple[str, float], ...] = ()
    """(corpus, share of the rows) of others to train on besides, such as one that a start was trained on: replay."""

    def __post_init__(self) -> None:
        limits = {"num_unique_tokens": "[1, inf); None is the whole corpus", "max_epochs": "(0, inf)"}
        check_fields(self, mixture="(0, 1)", **limits)
        check_mixture(self)


@dataclass(frozen=True)
class OptimizerConfig:
    """An optax optimizer. learning_rate is the one at base_d_model and base_num_layers; the model scales it."""

    learning_rate: float
    """Peak learning rate at the base shape."""
    name: Literal["adamw", "sgd", "adafactor", "muon"] = "adamw"
    beta1: float = 0.9
    """First-moment decay, or the momentum of sgd and muon."""
    beta2: float = 0.99
    """Second-moment decay."""
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """Decoupled decay per unit of scheduled base learning rate; matrices only, never the embedding."""
    clip_norm: float | None = 1.0
    """Largest global gradient norm; None does not clip."""
    groups: tuple[tuple[str, float], ...] = ()
    """(word, factor on the learning rate) of weights that a word of TrainConfig.trainable means, such as ("head", 20);
    of several that mean a weight the first counts."""
    has_fixed_norms: bool = False
    """Each matrix that would decay keeps the Frobenius norm it starts with instead (Hyperball, arXiv:2606.16899), and
    its learning rate is relative to that. With adamw this is AdamH, with muon MuonH."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            learning_rate="(0, inf)",
            beta1="[0, 1)",
            beta2="[0, 1)",
            epsilon="(0, inf)",
            weight_decay="[0, inf)",
            clip_norm="(0, inf); None does not clip",
            groups="(0, inf)",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the steps, as a fraction of its peak."""

    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    """wsd: warm-up, stable, decay; one trunk then serves every token count through cooldown branches."""
    warmup_steps: int = 100
    cooldown_fraction: float = 0.2
    """Part of a branch's steps spent cooling down (wsd)."""
    cooldown_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    """Source of 1-sqrt: Hägele et al. 2024, arXiv:2405.18392."""

    def __post_init__(self) -> None:
        check_fields(self, warmup_steps="[0, inf)", cooldown_fraction="[0, 1]")


@dataclass(frozen=True)
class EvalConfig:
    """The fixed validation set every run is scored on."""

    num_tokens: int = 262_144
    """Validation tokens, in windows spread evenly over the split; the same for every run of an experiment."""
    batch_size: int = 16
    """Sequences per evaluation batch."""
    num_bytes: int | None = None
    """Bytes of validation text in place of num_tokens, in whole documents: the same text whatever the tokenizer. An
    experiment whose runs differ in tokenizer sets it to num_tokens, so that bits per byte can be compared."""
    also: tuple[str, ...] = ()
    """Further corpora whose validation text every point is measured on: columns loss_on.CORPUS of the record."""

    def __post_init__(self) -> None:
        check_fields(self, **dict.fromkeys(("num_tokens", "num_bytes", "batch_size"), "[1, inf)"))


@dataclass(frozen=True)
class GuardConfig:
    """What happens to updates that would spoil a run. One that is not finite is always left out and counted."""

    max_consecutive_skips: int = 8
    """Updates left out in a row after which the run stops as diverged."""
    spike_sigmas: float | None = None
    """Also leave out an update whose loss is this many standard deviations above the mean of the last accepted losses
    (6 is usual); None switches the rule off, and nothing is compiled for it."""
    spike_window: int = 128
    """Accepted losses the spike rule looks back on; it begins once half of them are there."""
    skip_batches: tuple[tuple[int, int], ...] = ()
    """Batches [first, end) of the data order, counted from 0, that are left out: the answer to a batch that breaks a
    run. The order of all others stays, so the run up to `first` is that of a run without it (`kleiber rewind`)."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            max_consecutive_skips="[1, inf)",
            spike_sigmas="(0, inf); None is no rule",
            spike_window="[2, inf)",
        )
        end_before = 0
        for first, end in self.skip_batches:
            if not end_before <= first < end:
                raise ValueError(
                    f"skip_batches {self.skip_batches}: expected ranges (first, end) with first < end, increasing, "
                    f"without overlap, counted from 0."
                )
            end_before = end

    def batch_number(self, step: int) -> int:
        """Returns which batch of the data order is trained on after so many steps: skipped ones are jumped over."""
        number = step
        for first, end in self.skip_batches:
            if number >= first:
                number += end - first
        return number


@dataclass(frozen=True)
class MaskingConfig:
    """What the objective `masked` hides: of each row just as many tokens, drawn anew at every step."""

    rate: float = 0.15
    """Part of the tokens of a row that is hidden, and predicted. 0.30 trains more targets a token."""
    span: int = 1
    """Consecutive tokens hidden together."""

    def __post_init__(self) -> None:
        check_fields(self, rate="(0, 1)", span="[1, inf)")

    def num_spans(self, seq_len: int) -> int:
        """Returns how many spans of a row are hidden."""
        return round(self.rate * seq_len / self.span)


@dataclass(frozen=True)
class DelayedSyncConfig:
    """Local SGD and DiLoCo (update/delayed_sync.py): replicas train apart and are brought together now and then."""

    num_replicas: int
    """M: replicas, each with its own parameters, optimizer state and part of every batch. A multiple of mesh.replica;
    one device may hold several."""
    num_inner_steps: int = 50
    """H: optimizer steps between synchronisations."""
    outer_learning_rate: float = 0.7
    """Of the outer step; 1 without momentum puts all replicas at their mean."""
    outer_momentum: float = 0.9
    """Nesterov momentum of the outer step; 0 for plain SGD. 0.9 is DiLoCo's, for hundreds of outer steps and more: with
    20 to 100 a run loses 16 % by it and 1 to 3 % by 0.5 (experiments/configs/delayed_synchronisation.py)."""

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("num_replicas", "num_inner_steps"), "[1, inf)")
        check_fields(self, outer_learning_rate="(0, inf)", outer_momentum="[0, 1)", **counts)


@dataclass(frozen=True)
class FinishedRun:
    """The weights of a finished run, or of one that a sweep trains first."""

    run: str | None = None
    """Folder of a measured point that kept its weights, such as out/pretraining/runs/NAME-D1000000."""
    train: "TrainConfig | None" = None
    """In place of run: the trunk to train first. Those that name the same share it."""
    num_tokens: int | None = None
    """Of train, at which of its token counts; None is the last."""
    digest: str = ""
    """Of the weights of run, filled in where it is left out; other weights in its place are refused."""

    called = "run"
    """The field of TrainConfig that holds it."""

    def __post_init__(self) -> None:
        check_fields(self, num_tokens="[1, inf); None is the last")
        check_finished(self)

    @property
    def length(self) -> int:
        """The token count of train at which its weights are taken."""
        return self.num_tokens or (self.train.num_tokens[-1] if self.train else 0)


@dataclass(frozen=True)
class StartConfig(FinishedRun):
    """The weights that a trunk begins with: those of a finished run, or of one that its sweep trains first."""

    called = "start"


@dataclass(frozen=True)
class TeacherConfig(FinishedRun):
    """A finished run, or one that the sweep trains first, whose probabilities of the next token a trunk learns
    (train/objective/distillation.py). It stays as it is, and no checkpoint holds it."""

    weight: float = 1.0
    """Of what the teacher says in the training loss; what the text says has the rest."""
    temperature: float = 1.0
    """Divides the logits of both before they are compared; above 1 what is unlikely counts more."""
    model: ModelConfig | None = None
    """Its shape; filled in."""
    tokenizer: str = ""
    """Of its text; filled in."""

    called = "teacher"

    def __post_init__(self) -> None:
        check_fields(self, num_tokens="[1, inf); None is the last", weight="(0, 1]", temperature="(0, inf)")
        check_finished(self)
        fill_in_teacher(self)

    @property
    def shape(self) -> ModelConfig:
        """Its shape."""
        assert self.model is not None, "filled in where it was made"
        return self.model


@dataclass(frozen=True)
class TrainConfig:
    """One trunk: a shape, a seed, and the token counts at which it is branched, cooled down and measured."""

    model: ModelConfig
    optimizer: OptimizerConfig
    num_tokens: tuple[int, ...]
    """Training tokens of each measured point, increasing. More than one needs the wsd schedule."""
    batch_size: int = 4
    """Sequences per optimizer step, over all devices."""
    objective: Objective = "next_token"
    """What training minimises: a row of train/objective/table.py."""
    seed: int = 0
    """Seeds the initial parameters, the data order and dropout, each through a named stream."""
    data: DataConfig = field(default_factory=DataConfig)
    """The text; with a tokenizer `sentencepiece:SIZE` a model.vocab_size at its default becomes SIZE."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    delayed_sync: DelayedSyncConfig | None = None
    """Replicas that synchronise now and then; None means every step."""
    initialisation: Literal["host", "device"] = "host"
    """Where initial weights are drawn: host gives the same numbers on every machine and mesh; device draws each part
    where it stays, for weights larger than one host."""
    loss_blocks: int = 1
    """Chunks of each sequence whose logits exist at a time: n chunks need 1/n of the memory, the same numbers."""
    accumulation_steps: int | None = None
    """Micro-batches per optimizer step; must divide batch_size. None: one, but on CPU as many as let the activations
    of a micro-batch stay in a core's cache (num_micro_batches), the same numbers to rounding."""
    z_loss: float = 0.0
    """Weight of the squared log-normaliser added to the training loss; never part of the reported loss."""
    steps_per_call: int = 64
    """Optimizer steps per compiled call."""
    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints of a running trunk."""
    keep_checkpoints: int = 2
    """Checkpoints kept of a running trunk: the newest, and older ones to fall back on should it be damaged."""
    stops_when_saving_fails: bool = True
    """Whether a checkpoint that cannot be written stops the run; False goes on with a warning."""
    checks_replicas: bool = False
    """Whether copies of the state on several devices are compared before each save: a device that errs shows."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    factors: tuple[tuple[str, float | str], ...] = ()
    """Further columns of the run record, such as ("bits", 8): levels of whatever the experiment varies."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """What is hidden from a model trained by the objective `masked`."""
    command: Command | None = None
    """A program of yours that trains the trunk in place of kleiber's trainer; what of these fields its line does not
    take only describes it."""
    compressed_from: Literal["start", "cooldown", "end"] = "cooldown"
    """When model.compression sets in. Runs alike but for it and set in later share what they have in common, so that
    many levels cost little more than their cooldowns (train/levels.py)."""
    start: StartConfig | None = None
    """Whose weights it begins with; None draws them."""
    trainable: str = "all"
    """Which weights move: all; head, the table where it is tied to it; or patterns of paths with spaces between them,
    such as "blocks/01 head". Beside an adapter's, which always move, only what is named but for all."""
    measures_noise_scale: bool = False
    """Whether the step log and the records tell the gradient noise scale (train/update/noise_scale.py): the batch, in
    tokens, beyond which a larger one saves ever fewer steps. Needs accumulation_steps of 2 or more."""
    teacher: TeacherConfig | None = None
    """Whose probabilities it learns beside the text, or in its place; None is the text alone."""
    ewc: EwcConfig | None = None
    """Holds weights near to those of the start, the more the more they mattered to it (train/ewc.py); None does not."""

    def __post_init__(self) -> None:
        _, _, size = self.data.tokenizer.partition(":")
        if size.isdecimal() and int(size) and self.model.vocab_size == BYTES:
            object.__setattr__(self, "model", replace(self.model, vocab_size=int(size)))
        counts = ("num_tokens", "batch_size", "accumulation_steps", "loss_blocks", "steps_per_call", "keep_checkpoints")
        check_fields(
            self,
            seed=f"[0, {2**32})",  # 32 bits, from which every draw comes
            z_loss="[0, inf)",
            checkpoint_seconds="[0, inf)",
            **dict.fromkeys(counts, "[1, inf)"),
        )
        if not self.num_tokens:
            raise ValueError("num_tokens is empty, expected one or more token counts.")
        if list(self.num_tokens) != sorted(set(self.num_tokens)):
            raise ValueError(f"num_tokens {self.num_tokens} must increase, each count once.")
        if len(self.num_tokens) > 1 and self.schedule.kind != "wsd":
            raise ValueError(
                f"{len(self.num_tokens)} token counts on one trunk need schedule kind 'wsd', got "
                f"'{self.schedule.kind}': its learning rate depends on the length, so give each count its own run."
            )
        if self.accumulation_steps is not None and self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps {self.accumulation_steps} does not divide batch_size {self.batch_size}."
            )
        if self.model.seq_len % self.loss_blocks:
            raise ValueError(f"loss_blocks {self.loss_blocks} does not divide seq_len {self.model.seq_len}.")
        if self.model.param_dtype == "float16" and self.optimizer.name != "sgd":
            raise ValueError(
                f"model.param_dtype is float16 with optimizer '{self.optimizer.name}', whose epsilon and second moment "
                f"are too small for it: training diverges. Use param_dtype float32 (compute_dtype may be float16)."
            )
        if self.optimizer.has_fixed_norms and self.model.parametrization != "standard":
            raise ValueError(
                f"optimizer.has_fixed_norms with model.parametrization '{self.model.parametrization}', where some "
                f"matrices start at zero and would stay there; set parametrization='standard'."
            )
        check_objective(self)
        check_images(self)
        check_pairs(self)
        check_mesh(self)
        if self.command:
            self.command.arguments(self)
        check_compression(self)
        check_fine_tuning(self)
        if self.measures_noise_scale and (self.accumulation_steps or 1) < 2:
            raise ValueError(
                f"measures_noise_scale with accumulation_steps {self.accumulation_steps}: it compares "
                "micro-batches with their mean; set accumulation_steps to 2 or more, a divisor of batch_size."
            )
        check_teacher(self)
        check_ewc(self)
        check_corpora(self)

    @property
    def tokens_per_step(self) -> int:
        """Training tokens of one optimizer step."""
        return self.batch_size * self.model.seq_len

    def steps_at(self, num_tokens: int) -> int:
        """Returns the optimizer steps that train on num_tokens tokens, rounded to the nearest step."""
        return max(1, round(num_tokens / self.tokens_per_step))
