"""Pretraining of Θ on a large corpus: [Θ; θ] ← [Θ; θ] − α ∇ L_D([Θ; θ]) (Sun et al. 2019, eq. 1).

L_D is the mean categorical cross-entropy over the phoneme segments, with two auxiliary losses that make Θ useful beyond the
phonemes it was trained on: the cross-entropy of every frame (silence is a class), and the articulatory features of a segment.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import speechbrain as sb
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

from mtl_speech.core.distributed import from_main, is_main, n_processes, peers_alive, rank, together, total
from mtl_speech.core.options import EncoderConfig, PretrainConfig
from mtl_speech.core.terminal import bars_shown
from mtl_speech.features.augment import SpecAugment
from mtl_speech.features.crops import UNKNOWN, CropBatches, Crops
from mtl_speech.features.store import SegmentStore
from mtl_speech.model.encoder import ConvEncoder, part_weights
from mtl_speech.model.passes import embeddings_of
from mtl_speech.phonology.articulation import articulatory_features
from mtl_speech.training.checkpoint import Checkpoints, State, optimiser_tensors, put_optimiser, put_tensors, tensors_of

logger = logging.getLogger(__name__)


class PretrainModel(nn.Module):
    """The encoder and what only pretraining needs: the heads θ, thrown away afterwards (the segment head is kept to show that
    nothing is forgotten)."""

    def __init__(self, config: EncoderConfig, phonemes: Sequence[str]) -> None:
        super().__init__()
        self.encoder = ConvEncoder(config)
        self.segment_head = nn.Linear(config.embedding_size, len(phonemes))
        self.frame_head = nn.Linear(config.channels, len(phonemes) + 1)
        features = torch.tensor(articulatory_features(list(phonemes)), dtype=torch.get_default_dtype())
        self.register_buffer("articulation", features)
        self.feature_head = nn.Linear(config.embedding_size, features.shape[1])

    def forward(self, crops: Crops) -> tuple[Tensor, Tensor, Tensor]:
        """Segment, frame and articulatory loss of a batch, each a mean; of a part of a batch, what it adds to them."""
        frames = self.encoder.frames(crops.features)
        weights = part_weights(self.encoder.places(crops.spans), frames.shape[1])
        embedded = self.encoder.embed(torch.bmm(weights, frames[crops.rows]), crops.spans)
        targets = crops.frame_labels[:, :: self.encoder.config.stride]
        phonemes, each_frame = self.segment_head(embedded), self.frame_head(frames)
        features = torch.tanh(self.feature_head(embedded))
        articulation = self.articulation[crops.labels]  # type: ignore[index]
        n_crops, n_segments = crops.n_crops / max(1, len(frames)), crops.n_segments / max(1, len(embedded))
        return (
            _mean(F.cross_entropy, phonemes, crops.labels, label_smoothing=0.05) / n_segments,
            _frame_loss(each_frame, targets) / n_crops,
            _mean(F.mse_loss, features, articulation) / n_segments,
        )


def _frame_loss(output: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of frames (n_crops, n_frames, n_classes), those that are unknown being 0: a mean over all of them."""
    losses = F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=UNKNOWN, reduction="sum")
    return losses / max(1, target.numel())


def _mean(loss: Callable[..., Tensor], output: Tensor, target: Tensor, **given: float) -> Tensor:
    """A mean loss; zero, and still with gradients, where there is nothing."""
    return loss(output, target, **given) if len(output) else output.sum()


class PretrainBrain(sb.Brain):
    """The training loop of pretraining (speechbrain.Brain): AdamW, one warm-up and cosine cycle, averaged weights."""

    def __init__(
        self,
        config: PretrainConfig,
        model: PretrainModel,
        batches: CropBatches,
        valid: SegmentStore,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.config, self.batches, self.valid, self.checkpoints = config, batches, valid, checkpoints
        self.epoch, self.seconds = 1, 0.0  # where it is, and what the epoch took before the run was stopped
        self.started = time.perf_counter()
        self.n_steps = sum(len(batches._plan(e)) for e in range(1, config.epochs + 1))
        self.spec_augment = SpecAugment()
        self.history: list[dict[str, float]] = []
        self.model = model  # as it is without torch's wrapper for several processes
        super().__init__(
            modules={"model": model},
            opt_class=partial(torch.optim.AdamW, lr=config.pretrain_lr, weight_decay=config.weight_decay),
            run_opts={"device": config.device, "precision": config.precision},
        )
        self.average = copy.deepcopy(model).eval()
        self.updates = 0

    def on_fit_start(self) -> None:
        """Go on from the last checkpoint."""
        super().on_fit_start()
        if self.checkpoints is not None:
            self.checkpoints.resume(self)

    def _wrap_distributed(self) -> None:
        """Of several processes, sum the gradients. Batch-norm takes the statistics of all by itself (`FrameBatchNorm`)."""
        if together():
            places = [torch.cuda.current_device()] if self.device.startswith("cuda") else None
            # A group of its own: the sums of gradients and those of batch-norm may come in any order beside each other.
            group = torch.distributed.new_group()
            self.modules["model"] = DistributedDataParallel(
                self.model, places, broadcast_buffers=False, process_group=group
            )

    def epochs(self) -> Iterator[int]:
        """The epochs that are left; after all of them a last checkpoint is written."""
        yield from range(self.epoch, self.config.epochs + 1)
        self.epoch, self.step = self.config.epochs + 1, 1
        if self.checkpoints is not None:
            self.checkpoints.tick(self, last=True)

    def state(self) -> State:
        """All that the next steps depend on, at the start of step number `self.step` of an epoch."""
        tensors = tensors_of("model", self.model.state_dict()) | tensors_of("average", self.average.state_dict())
        values = {
            "epoch": self.epoch,
            "step": self.step - 1,
            "updates": self.updates,
            "train_loss": float(self.avg_train_loss),
            "seconds": time.perf_counter() - self.started,
            "history": self.history,
        }
        return State(tensors | optimiser_tensors(self.optimizer), values)

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        values = state.values
        put_tensors("model", self.model.state_dict(), state)
        put_tensors("average", self.average.state_dict(), state)
        put_optimiser(self.optimizer, state)
        self.epoch, self.step, self.updates = (int(values[key]) for key in ("epoch", "step", "updates"))
        self.optimizer_step, self.avg_train_loss = self.updates, float(values["train_loss"])
        self.seconds, self.history = float(values["seconds"]), list(values["history"])

    def compute_forward(self, batch: Crops, stage: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of a batch of crops."""
        losses: tuple[Tensor, Tensor, Tensor] = self.modules.model(batch.to(self.device))
        return losses

    def compute_objectives(self, predictions: tuple[Tensor, Tensor, Tensor], batch: Crops, stage: Any) -> Tensor:
        """The weighted sum of the three losses."""
        segment, frame, articulation = predictions
        return segment + self.config.frame_loss * frame + self.config.articulatory_loss * articulation

    def fit_batch(self, batch: Crops) -> Tensor:
        """One step on a batch, in `accumulate` parts. Gives the loss of the whole batch, of all processes."""
        self.on_fit_batch_start(batch, True)
        features = self.spec_augment(batch.features, batch.index, batch.n_crops)
        parts = replace(batch, features=features).split(self.config.accumulate)
        loss = torch.zeros((), device=self.device)
        with self._own_draws(), peers_alive():
            for number, part in enumerate(parts):
                with self.no_sync(number < len(parts) - 1):
                    with self.training_ctx:
                        outputs = self.compute_forward(part, sb.Stage.TRAIN)
                        share = self.compute_objectives(outputs, part, sb.Stage.TRAIN)
                    self.check_loss_isfinite(share)
                    (share * n_processes()).backward()  # of which torch's wrapper takes the mean
                loss += share.detach()
        self.optimizers_step()
        self.on_fit_batch_end(batch, None, loss, True)
        return total(loss).cpu()

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Inside, each of several processes draws its own dropout; torch's generator stays the same in all of them."""
        with torch.random.fork_rng(enabled=n_processes() > 1):
            if n_processes() > 1:
                own = np.random.SeedSequence((self.config.seed, self.updates, rank()))
                torch.manual_seed(int(own.generate_state(1)[0]))
            yield

    def on_stage_start(self, stage: Any, epoch: int | None = None) -> None:
        """Take a new plan of crops for each epoch."""
        if stage == sb.Stage.TRAIN and epoch is not None:
            self.batches.set_epoch(epoch)
            self.epoch = epoch
            self.started, self.seconds = time.perf_counter() - self.seconds, 0.0

    def on_fit_batch_start(self, batch: Crops, should_step: bool) -> None:
        """Save where it is time to; set the learning rate of this step: linear warm-up over 5 % of the steps, then a cosine to
        zero."""
        if self.checkpoints is not None:
            self.checkpoints.tick(self)
        done = self.updates / self.n_steps
        warm = 0.05
        factor = done / warm if done < warm else 0.5 * (1 + np.cos(np.pi * (done - warm) / (1 - warm)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.pretrain_lr * max(factor, 1e-3)

    def on_fit_batch_end(self, batch: Crops, outputs: object, loss: Tensor, should_step: bool) -> None:
        """Keep the running average of the weights and of the batch-norm statistics."""
        self.updates += 1
        decay = min(self.config.average_decay, self.updates / (self.updates + 10))
        with torch.no_grad():
            for mean, now in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.lerp_(now, 1 - decay)
                else:
                    mean.copy_(now)

    def on_stage_end(self, stage: Any, stage_loss: float, epoch: int | None = None) -> None:
        """Score the averaged weights on the validation speakers after each epoch."""
        if stage != sb.Stage.TRAIN:
            return
        scores = segment_scores(self.average, self.valid) if is_main() else (0.0, 0.0)
        accuracy, macro_f1 = from_main(scores)
        row = {
            "epoch": float(epoch or 0),
            "train_loss": float(stage_loss),
            "valid_accuracy": accuracy,
            "valid_macro_f1": macro_f1,
            "seconds": time.perf_counter() - self.started,
        }
        self.history.append(row)
        logger.info("pretraining " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))


class Remaining(Sampler[int]):
    """The batches of an epoch from the step that `brain` stands at; it has the length of the whole epoch, for the progress bar."""

    def __init__(self, brain: PretrainBrain) -> None:
        self.brain = brain

    def __len__(self) -> int:
        return len(self.brain.batches)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.brain.step, len(self.brain.batches)))


def predict_segments(model: PretrainModel, store: SegmentStore) -> Tensor:
    """The phoneme index that `model` gives each segment of `store`: (n_segments,)."""
    model.eval()
    with torch.inference_mode():
        return model.segment_head(embeddings_of(model.encoder, store)).argmax(1)


def segment_scores(model: PretrainModel, store: SegmentStore) -> tuple[float, float]:
    """Accuracy and macro-F1 of the segments of `store`, over the phonemes that occur in it."""
    predicted, label = predict_segments(model, store), store.label
    accuracy = float((predicted == label).float().mean())
    return accuracy, float(f1_score(label, predicted, labels=label.unique(), average="macro", zero_division=0))


def pretrain(
    views: Sequence[SegmentStore],
    valid: SegmentStore,
    encoder_config: EncoderConfig,
    config: PretrainConfig,
    checkpoints: Checkpoints | None = None,
) -> tuple[PretrainModel, list[dict[str, float]]]:
    """Train Θ on `views` (the training recordings, and augmented versions of them in the same order).

    Returns the model with averaged weights and folded batch-norm, in evaluation mode, and one row of scores an epoch. With
    `checkpoints` a run that was stopped goes on; all rows are then the same, but for `seconds`. Raises what
    `Checkpoints.resume` and `Checkpoints.save` do.
    """
    torch.manual_seed(config.seed)
    model = PretrainModel(encoder_config, views[0].phonemes)
    share = rank(), n_processes()
    batches = CropBatches(views, config.crop_lengths, config.batch_frames, config.seed, share)
    brain = PretrainBrain(config, model, batches, valid, checkpoints)
    # With a generator of its own, the loader does not draw from torch's at the start of an epoch, so that one can be resumed.
    loader: DataLoader[Crops] = DataLoader(
        batches, batch_size=None, sampler=Remaining(brain), num_workers=config.workers, generator=torch.Generator()
    )
    with checkpoints.stoppable() if checkpoints is not None else nullcontext():
        brain.fit(brain.epochs(), loader, progressbar=bars_shown())
    model = brain.average
    model.encoder = model.encoder.fold_batch_norm()
    return model.eval(), brain.history
