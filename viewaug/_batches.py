"""Find the views in a batch of any layout, and put others in their places."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from viewaug.viewmaker import Viewmaker

Place = tuple[Any, ...]  # keys and indices, from the outside in
Spec = str | int | Sequence[str | int]


def find_views(batch: Any, spec: Spec | None, fits: Callable[[Any], bool], name: str = "views") -> list[Place]:
    """Return the places of the views in a batch.

    Args:
        batch: tensors in lists, tuples and dictionaries.
        spec: where they are: a path such as ``"views.*.image"``, of keys, of indices, and of ``*`` for all; or several.
            None to find them in a batch that can be understood in one way only: a tensor; a list or a tuple that begins
            with one, while no other element could be a view, or with a list of views; or a dictionary with ``views`` or
            ``image``, in which lists, and dictionaries with ``image``, may stand.
        fits: whether something can be a view.
        name: of the argument that `spec` is, for errors.

    Raises:
        ValueError: if there is no such place, or more than one way to understand the batch.
        TypeError: if what is there is no view.

    Examples:
        >>> x = torch.rand(2, 3, 8, 8)
        >>> find_views([[x, x], torch.zeros(2)], None, lambda part: part is x)
        [(0, 0), (0, 1)]
        >>> find_views({"views": [{"image": x}, {"image": x}]}, "views.*.image", lambda part: part is x)
        [('views', 0, 'image'), ('views', 1, 'image')]
    """
    if spec is None:
        return _guess(batch, fits)
    places = []
    for path in [spec] if isinstance(spec, (str, int)) else spec:
        for place in _follow(batch, str(path).split("."), str(path), name):
            part = get(batch, place)
            inner = [(*place, key) for key in _keys(part)] if _is_container(part) else [place]
            for one in inner:
                if not fits(get(batch, one)):
                    raise TypeError(f"Expected `{name}` at {path!r} in the batch, but got {describe(part)}")
            places += inner
    if not places:
        raise ValueError(f"Expected `{name}` of the batch at {spec!r}, but there are none.")
    return list(dict.fromkeys(places))


def is_signal(x: Any, viewmaker: Viewmaker) -> bool:
    """Whether something is floats of ``(..., channels, *spatial)``, as a viewmaker takes them."""
    dims = viewmaker.dims
    return (
        isinstance(x, Tensor) and x.is_floating_point() and x.ndim > dims and x.shape[-dims - 1] == viewmaker.channels
    )


def get(batch: Any, place: Place) -> Any:
    """Return what is at a place."""
    for key in place:
        batch = batch[key]
    return batch


def put(batch: Any, parts: Mapping[Place, Any]) -> Any:
    """Return a batch with other parts at some places; the rest is not copied."""
    if () in parts:
        return parts[()]
    inner: dict[Any, dict[Place, Any]] = {}
    for (key, *rest), part in parts.items():
        inner.setdefault(key, {})[tuple(rest)] = part
    if isinstance(batch, Mapping):
        new = {key: put(value, inner[key]) if key in inner else value for key, value in batch.items()}
        return new if type(batch) is dict else _like(batch, new)
    new_list = [put(value, inner[i]) if i in inner else value for i, value in enumerate(batch)]
    return type(batch)(*new_list) if hasattr(batch, "_fields") else type(batch)(new_list)


def describe(part: Any) -> str:
    """Say what something is, for an error."""
    if isinstance(part, Tensor):
        return f"a tensor of {part.dtype} and shape {tuple(part.shape)}"
    if isinstance(part, Mapping):
        return f"a dictionary of {', '.join(map(str, part)) or 'nothing'}"
    if isinstance(part, (list, tuple)):
        return f"a {type(part).__name__} of {', '.join(map(describe, part)) or 'nothing'}"
    return f"a {type(part).__name__}"


def _guess(batch: Any, fits: Callable[[Any], bool]) -> list[Place]:
    if fits(batch):
        return [()]
    if isinstance(batch, Mapping):
        key = next((key for key in ("views", "image") if key in batch), None)
        if key is None:
            raise ValueError(
                f"Expected a batch with 'views' or 'image', or `views` to say where they are, such as "
                f"views={str(next(iter(batch), 'views'))!r}, but got {describe(batch)}."
            )
        return [(key, *place) for place in _inside(batch[key], fits)]
    if not isinstance(batch, (list, tuple)) or not batch:
        return []
    if _is_container(batch[0]):
        return [(0, *place) for place in _inside(batch[0], fits)]
    found = [i for i, part in enumerate(batch) if fits(part)]
    if len(found) > 1:
        raise ValueError(
            f"Expected `views` to say which elements of the batch are views, such as views='*' for all or views=0, as "
            f"{len(found)} could be, or be targets: {describe(batch)}."
        )
    return [(0,)] if found == [0] else []


def _inside(part: Any, fits: Callable[[Any], bool]) -> list[Place]:
    """The places in what is known to hold views, and perhaps grids, masks or labels beside them."""
    if fits(part):
        return [()]
    if isinstance(part, Mapping) and "image" in part:
        return [("image", *place) for place in _inside(part["image"], fits)]
    if _is_container(part):
        return [(key, *place) for key in _keys(part) for place in _inside(part[key], fits)]
    return []


def _follow(part: Any, path: Sequence[str], whole: str, name: str) -> Iterable[Place]:
    if not path:
        yield ()
        return
    keys = _keys(part) if _is_container(part) else []
    chosen = keys if path[0] == "*" else [key for key in keys if str(key) == path[0]]
    if not chosen:
        known = ", ".join(map(str, keys)) or "nothing"
        raise ValueError(
            f"Expected `{name}` to be a path in the batch, but {path[0]!r} of {whole!r} is none of {known}."
        )
    for key in chosen:
        for rest in _follow(part[key], path[1:], whole, name):
            yield (key, *rest)


def _is_container(part: Any) -> bool:
    return isinstance(part, (Mapping, list, tuple))


def _keys(part: Any) -> list[Any]:
    return list(part) if isinstance(part, Mapping) else list(range(len(part)))


def _like(batch: Mapping[Any, Any], new: dict[Any, Any]) -> Any:
    """A mapping of the type of another, if it can be made of a dictionary."""
    try:
        return type(batch)(new)  # type: ignore[call-arg]
    except TypeError:
        return new
