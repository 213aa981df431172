"""What the state of `reparametrize` must know that is no array; how it is saved, and known again."""

import weakref
from typing import Any

import jax

from sparsejax.errors import ParamsError
from sparsejax.transforms.fingerprint import fingerprint
from sparsejax.transforms.parametrization import Parametrization


class Named:
    """A parametrization with its name and fingerprint; alive as long as a transformation made of it.

    Args:
      parametrization: the functions.
    """

    def __init__(self, parametrization: Parametrization) -> None:
        self.parametrization = parametrization
        self.name = parametrization.apply.__qualname__.split(".")[0]
        self.mark = fingerprint(parametrization)
        if self.mark is not None:
            _ALIVE[self.mark] = self


# Where states that were loaded find the functions that they were saved without.
_ALIVE: "weakref.WeakValueDictionary[str, Named]" = weakref.WeakValueDictionary()


@jax.tree_util.register_static
class Method:
    """The functions of a state; part of its tree structure.

    Two are equal where their fingerprints are, whichever process made them. Pickled it is its name and fingerprint, and
    finds its functions when they are asked for.

    Args:
      named: the parametrization; None where it was loaded.
      name: of the method.
      mark: its fingerprint; None where it closes over a tracer, and is equal to itself alone.
      dtypes: the parameters' dtypes, leaf by leaf.
      impl: the key's implementation.
    """

    def __init__(
        self, named: Named | None, name: str, mark: str | None, dtypes: tuple[Any, ...], impl: Any
    ) -> None:
        self._named, self.name, self.mark = named, name, mark
        self.dtypes, self.impl = dtypes, impl

    @property
    def parametrization(self) -> Parametrization:
        """The functions.

        Raises:
          ParamsError: the state was loaded, and no transformation of this process has them.
        """
        named = self._named or _ALIVE.get(self.mark)
        if named is None:
            raise ParamsError(
                f"This state was saved with the method {self.name} ({self.mark}), and no optimizer of this process has "
                "it with the same arguments. Make the optimizer first, by the same call as in training, and keep it."
            )
        return named.parametrization

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Method) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return (self.mark or id(self._named), self.dtypes, self.impl)

    def __repr__(self) -> str:
        return f"Method({self.name}, {self.mark})"

    def __reduce__(self) -> Any:
        if self.mark is None:
            raise ParamsError(
                f"The state of {self.name} was made with arguments that are traced, and cannot be pickled."
            )
        return _loaded, (self.name, self.mark, self.dtypes, self.impl)

    def require(self, named: Named) -> None:
        """Refuses a state of another method.

        Args:
          named: the method that reads the state.

        Raises:
          ParamsError: it is another, or has other arguments.
        """
        if None not in (self.mark, named.mark) and self.mark != named.mark:
            raise ParamsError(
                f"This state is of the method {self.name} ({self.mark}); the optimizer is {named.name} ({named.mark})"
                + (", with other arguments" if self.name == named.name else "")
                + ". Load it into the optimizer that made it, or begin anew with sparsejax.init."
            )


def _loaded(name: str, mark: str, dtypes: tuple[Any, ...], impl: str | None) -> Method:
    return Method(None, name, mark, dtypes, impl)
