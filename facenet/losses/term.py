"""What every part of a loss mix offers. Letters: B images in the batch, D numbers in an embedding, I identities."""

from __future__ import annotations

from torch import Tensor, nn

from facenet.data.layout import UNORDERED, Layout


class Term(nn.Module):
    """One named part of a loss mix. A subclass writes `forward`, and `start` if it has parameters; all else may stay as it is.

    `layout`: how the rows of every batch stand, known from `start` on. `gather`: the rows of all processes are wanted instead of this one's, which
    makes the loss that of one process on the whole batch; each process computes it alike. `sharded`: each process holds the rows of its share of the
    identities, and the loss is that of the batch of all processes. `sampled`: a training step computes some identities only, drawn anew for each
    batch."""

    layout = UNORDERED
    gather = False
    sharded = False
    sampled = False

    def misfit(self, layout: Layout, key: str) -> str | None:
        """Why batches of this layout are of no use to the term, and what to set; None where they are of use. Asked before anything is made.
        `key`: where the term's options stand in the config."""
        return None

    def mines(self, layout: Layout) -> bool:
        """Whether the term looks for triplets itself in batches of this layout, so that its loss is 0 where they hold none."""
        return False

    def start(self, *, embedding_size: int, num_identities: int) -> None:
        """Creates the parameters, before the model moves to its device; most terms have none."""

    def forward(self, features: Tensor, embedding: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (0-d) of one batch, and 0-d figures to log, detached and still on the device: reading them is the
        caller's moment.

        `features` (B, D) float32 before normalisation, `embedding` (B, D) its unit rows, `labels` (B,) int64."""
        raise NotImplementedError
