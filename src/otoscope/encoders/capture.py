"""Read what flows between the blocks of a model, and stop once the deepest wanted layer is there."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn


class _DeepEnough(Exception):
    """Every wanted layer has been read: leave the forward pass."""


def capture(
    run: Callable[[], object], blocks: nn.ModuleList | Sequence[nn.Module], wanted: Collection[int]
) -> dict[int, Tensor]:
    """Call `run` and return the wanted layers: 0 is the input of `blocks[0]`, i the raw output of `blocks[i - 1]`.

    The pass ends inside the deepest wanted block, so an early layer costs only what lies before it, and
    nothing behind the blocks (a final norm, an adapter, a head) touches what is returned.

    >>> import torch
    >>> double = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(double.weight, 2.0)
    >>> stack = nn.Sequential(double, double, nn.ReLU())
    >>> {i: t.item() for i, t in capture(lambda: stack(torch.ones(1)), list(stack)[:1], [0]).items()}
    {0: 1.0}
    """
    found: dict[int, Tensor] = {}
    deepest = max(wanted)

    def keep(index: int, state: Tensor) -> None:
        if index in wanted:
            found[index] = state
        if index == deepest:
            raise _DeepEnough

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(0, args[0] if args else kwargs["hidden_states"])

    def after(index: int) -> Callable[[nn.Module, object, Any], None]:
        # some families hand on more than the state (WavLM its position bias): the state comes first
        return lambda _, __, output: keep(index, output[0] if isinstance(output, tuple) else output)

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after(i)) for i, block in enumerate(blocks[:deepest], start=1)]
    try:
        run()
    except _DeepEnough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found
