"""What a forward pass is given: whole sequences, and always an explicit padding mask."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ontogeny.errors import OntogenyError


class PassInputs:
    """The arguments of a call of `base`, checked; `args` and `kwargs` are what to call it with.

    `valid` (B, T), bool, is False at padding, None where there is none. `unmasked` tells that no mask was given.

    Raises OntogenyError for a key-value cache, packed sequences, a mask that says more than padding, and a sequence
    without a token.
    """

    def __init__(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        parameters = inspect.signature(base.forward).parameters
        self.name = type(base).__name__
        self._places = {name: place for place, name in enumerate(parameters)}
        self._open = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        self._args, self.kwargs = list(args), dict(kwargs)
        self._refuse_cache()
        self.unmasked = self.get("attention_mask") is None
        self.valid = None if self.unmasked else self._given_padding()
        if self.unmasked:
            self._refuse_packed()
            self._mask_explicitly()

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return tuple(self._args)

    def get(self, name: str) -> Any:
        """The argument, None where it was not given."""
        place = self._places.get(name, len(self._args))
        return self._args[place] if place < len(self._args) else self.kwargs.get(name)

    @property
    def token_ids(self) -> Tensor | None:
        """The token ids (B, T), None for a pass that is given none."""
        ids = self.get("input_ids")
        return ids if isinstance(ids, Tensor) and ids.ndim == 2 else None

    def _put(self, name: str, value: Any) -> None:
        place = self._places.get(name, len(self._args))
        if place < len(self._args):
            self._args[place] = value
        elif name in self._places or self._open:
            self.kwargs[name] = value

    def _refuse_cache(self) -> None:
        if self.get("past_key_values") is not None:
            raise OntogenyError(
                f"{self.name} was given a key-value cache, so it would see a part of each sequence only: expected "
                "whole sequences; call the model with use_cache=False, and not by generate()"
            )
        if self.get("use_cache") is None:
            self._put("use_cache", False)

    def _refuse_packed(self) -> None:
        positions = self.get("position_ids")
        if isinstance(positions, Tensor) and bool((positions.diff(dim=-1) < 0).any()):
            raise OntogenyError(
                "position_ids: they start anew within a sequence, as in packed sequences, which are not measured; pass "
                "unpacked sequences, or an attention_mask where these positions are meant for one"
            )

    def _mask_explicitly(self) -> None:
        """Without a mask transformers takes positions that do not count up for packed sequences."""
        tokens = self._tokens()
        if tokens is not None:
            self._put("attention_mask", torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device))

    def _given_padding(self) -> Tensor | None:
        mask, tokens = self.get("attention_mask"), self._tokens()
        shape = None if tokens is None else tuple(tokens.shape[:2])
        if not isinstance(mask, Tensor) or mask.ndim != 2 or (shape is not None and tuple(mask.shape) != shape):
            got = f"a tensor of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise OntogenyError(
                f"attention_mask: expected padding of shape {shape or '(B, T)'}, 1 at tokens and 0 elsewhere, got {got}"
            )
        valid = mask.bool()
        if not bool(valid.any(1).all()):
            raise OntogenyError(
                "attention_mask: a sequence is padding throughout: expected at least one token in each, and 1 at tokens"
            )
        return None if bool(valid.all()) else valid

    def _tokens(self) -> Tensor | None:
        """Token ids (B, T) or embeddings (B, T, d); None for a model that reads neither."""
        given = [self.get(name) for name in ("input_ids", "inputs_embeds")]
        return next((one for one in given if isinstance(one, Tensor) and one.ndim >= 2), None)
