"""Watches the losses of documents, and quarantines those that stand out before they are learned from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lumbre import distributed
from lumbre.models import NO_TARGET
from lumbre.tracking import Row, event
from lumbre.trainer import Batch
from lumbre.trainer.outliers import UsualLosses
from lumbre.trainer.pieces import Pieces, Places

from .quarantine import Found, Quarantine, Suspect
from .samples import GlobalStream


class Suspects:
    """What the loop asks of each step; a watch that is not active carries the list, and looks at nothing."""

    def __init__(
        self, stream: GlobalStream, quarantine: Quarantine, names: list[str], *, active: bool
    ) -> None:
        self._stream, self._quarantine, self._names, self._active = stream, quarantine, names, active
        self._usual = UsualLosses(names)
        self._places: list[Places] = []
        self._losses: list[torch.Tensor] = []

    def take(self, batch: Batch, losses: torch.Tensor | None) -> None:
        """Take a micro batch, on the host, and its targets' losses."""
        if not self._active or losses is None:
            return
        # numpy takes a fraction of torch's time for so little; the device is not waited for.
        documents_BT = batch.get("decoder_document_ids", batch["document_ids"]).numpy()
        targets_BT = batch["labels"].numpy() != NO_TARGET
        self._places.append(
            Places.of(targets_BT, documents_BT, batch["sample"].numpy(), batch["source"].numpy())
        )
        self._losses.append(losses)

    def judge(self, step: int) -> list[Row]:
        """Quarantine the documents that stand out; return an event for each."""
        if not self._active:
            return []
        losses_M = torch.cat(self._losses or [torch.zeros(0)]) if len(self._losses) != 1 else self._losses[0]
        pieces = Pieces.of(Places.joined(self._places), losses_M.double().cpu().numpy())
        self._places, self._losses = [], []
        out_P, some = self._usual.standing_out(pieces)
        found = self._agreed(self._suspects(pieces, out_P, step)) if some else []
        if not found:
            self._usual.take_up()
            return []
        self._quarantine.add(found)
        return [self._event(one) for one in found]

    def state(self) -> dict[str, Any]:
        """Return what is usual, and the list."""
        return {"fits": self._usual.state(), "quarantine": self._quarantine.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; the list keeps what it has beside that."""
        self._usual.restore(state.get("fits", {}))
        self._quarantine.restore(state.get("quarantine", {}))

    def _suspects(self, pieces: Pieces, out_P: np.ndarray, step: int) -> list[Suspect]:
        found, places = [], pieces.places
        for at in np.flatnonzero(out_P).tolist():
            source = int(places.source_P[at])
            documents = self._stream.documents(int(places.sample_P[at]))
            targets, total, _ = pieces.sums_P3[at].tolist()
            loss, usual = total / targets, self._usual.center(source)
            number = int(documents[int(places.number_P[at]) - 1])
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
