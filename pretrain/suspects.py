"""Watches the losses of documents, and quarantines those that stand out before they are learned from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lumbre import distributed
from lumbre.models import NO_TARGET
from lumbre.tracking import Row, event
from lumbre.trainer import Batch
from lumbre.trainer.outliers import Pieces, UsualLosses, pieces_of

from .quarantine import Found, Quarantine, Suspect
from .samples import GlobalStream


class Suspects:
    """What the loop asks of each step; a watch that is not active carries the list, and looks at nothing."""

    def __init__(
        self, stream: GlobalStream, quarantine: Quarantine, names: list[str], *, active: bool
    ) -> None:
        self._stream, self._quarantine, self._names, self._active = stream, quarantine, names, active
        self._usual = UsualLosses(names)
        self._taken: list[tuple[np.ndarray, torch.Tensor]] = []

    def take(self, batch: Batch, losses: torch.Tensor | None) -> None:
        """Take a micro batch, on the host, and its targets' losses."""
        if not self._active or losses is None or not len(losses):
            return
        documents_BT = batch.get("decoder_document_ids", batch["document_ids"])
        targets_BT = batch["labels"] != NO_TARGET
        self._taken.append(pieces_of(targets_BT, documents_BT, losses, batch["sample"], batch["source"]))

    def judge(self, step: int) -> list[Row]:
        """Quarantine the documents that stand out; return an event for each."""
        if not self._active:
            return []
        names_P3 = np.concatenate([np.zeros((0, 3), dtype=np.int64), *(names for names, _ in self._taken)])
        sums_P3 = np.concatenate(
            [np.zeros((0, 3)), *(sums.double().cpu().numpy() for _, sums in self._taken)]
        )
        self._taken = []
        finite_P = np.isfinite(sums_P3).all(axis=1)
        pieces = Pieces(
            sample_P=names_P3[finite_P, 0],
            number_P=names_P3[finite_P, 1],
            source_P=names_P3[finite_P, 2],
            sums_P3=sums_P3[finite_P],
        )
        out_P, some = self._usual.standing_out(pieces)
        found = self._agreed(self._suspects(pieces, out_P, step)) if some else []
        if not found:
            self._usual.take_up()
            return []
        self._quarantine.add(found)
        return [self._event(one) for one in found]

    def state(self) -> dict[str, Any]:
        """Return what is usual, and the list."""
        return {"usual": self._usual.state(), "quarantine": self._quarantine.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; the list keeps what it has beside that."""
        self._usual.restore(state.get("usual", {}))
        self._quarantine.restore(state.get("quarantine", {}))

    def _suspects(self, pieces: Pieces, out_P: np.ndarray, step: int) -> list[Suspect]:
        found = []
        for at in np.flatnonzero(out_P).tolist():
            source = int(pieces.source_P[at])
            documents = self._stream.documents(int(pieces.sample_P[at]))
            loss, usual = float(pieces.means[at]), self._usual.center(source)
            number = int(documents[int(pieces.number_P[at]) - 1])
            place = self._stream.place(source, number)
            found.append(Suspect(source, number, Found(step=step, loss=loss, usual=usual, place=place)))
        return found

    def _agreed(self, own: list[Suspect]) -> list[Suspect]:
        """Return what all ranks have found and the sets have room for, each document once."""
        every: dict[tuple[int, int], Suspect] = {}
        for one in sorted(
            (one for rank in distributed.gather_objects(own) for one in rank),
            key=lambda one: (one.source, one.number),
        ):
            known = self._quarantine.numbers(one.source)
            if self._quarantine.has_room(one.source) and one.number not in known:
                every.setdefault((one.source, one.number), one)
        return list(every.values())

    def _event(self, one: Suspect) -> Row:
        name, found = self._names[one.source], one.found
        of_set = f" of set {name!r}" if name else ""
        message = (
            f"document {one.number}{of_set} ({found.place}): loss {found.loss:.2f}, and {found.usual:.2f} is "
            "usual; the step is done again without it"
        )
        told = {"set": name, "document": one.number, "place": found.place}
        return {**event("quarantined", found.step, message), **told}
